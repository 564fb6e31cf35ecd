"""Tables of the limited-memory and Newton methods: CUTEst, large Burgers nets, saddles, and the numbers we set out to reach."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from typing import Any

from benchmarks.record import RESULTS

_ESCAPING = ("SGD", "momentum 0.9", "Adam", "plain Newton", "sr1", "lsr1", "newtoncg", "cubicnewton", "saddlefreenewton")
_MUST_ESCAPE = ("sr1", "lsr1", "cubicnewton", "saddlefreenewton")
_OWN = frozenset(
    {"bfgs", "broyden", "cubicnewton", "dfp", "lbfgs", "lsr1", "lssbroyden", "newtoncg", "saddlefreenewton", "sr1", "ssbfgs", "ssbroyden"},
)


def cutest_table() -> str:
    """Who solves how many, most first."""
    record = _record("cutest")
    bounded = record["settings"]["problems"]
    lines = [
        f"| method | solved of {bounded} | share | evaluations against torch's L-BFGS, median of those both solve | exceptions | NaN parameters |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in record["standings"]:
        against = "" if row["against_torch_lbfgs"] is None else f"{row['against_torch_lbfgs']:.2f}"
        lines.append(f"| {row['method']} | {row['solved']} | {row['share']:.1%} | {against} | {row['exceptions']} | {row['nan_parameters']} |")
    return "\n".join(lines)


def large_nets_table() -> str:
    """Final error on Burgers nets of three sizes by method and memory; medians where there are several seeds."""
    problems = ("burgers", "burgers-10k", "burgers-100k")
    cells: dict[tuple[str, int | None], dict[str, list[dict[str, Any]]]] = {}
    for row in _record("limited_broyden")["rows"]:
        cells.setdefault((row["method"], row["memory"]), {}).setdefault(row["problem"], []).append(row)
    seconds = _record("limited_broyden")["settings"]["seconds"]
    lines = ["| method | memory | " + " | ".join(f"`{name}`, {seconds[name]:.0f} s" for name in problems) + " |", "| --- | --- |" + " --- |" * len(problems)]
    for (method, memory), found in sorted(cells.items(), key=lambda item: _least(item[1])):
        lines.append(f"| {method} | {memory or 'n'} | " + " | ".join(_errors(found.get(name, [])) for name in problems) + " |")
    return "\n".join(lines)


def saddles_table() -> str:
    """Evaluations to leave each saddle."""
    lines = ["| saddle | n (negative) | " + " | ".join(_ESCAPING) + " |", "| --- |" * (len(_ESCAPING) + 2)]
    lines[1] = "| --- | --- |" + " --- |" * len(_ESCAPING)
    for row in _record("saddles")["rows"]["escapes"]:
        cells = [f"{row[name]['left_after']:,}" if row[name]["left_after"] is not None else "stays" for name in _ESCAPING]
        lines.append(f"| `{row['saddle']}` | {row['n']} ({row['negative']}) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ends_table() -> str:
    """Where each run from a saddle ends within its budget."""
    rows = _record("saddles")["rows"]["escapes"]
    lines = ["| ends at | " + " | ".join(_ESCAPING) + " |", "| --- |" + " --- |" * len(_ESCAPING)]
    for end in ("minimum", "saddle", "on the way"):
        counts = [str(sum(row[name]["ends"] == end for row in rows)) for name in _ESCAPING]
        lines += [f"| {end} | {' | '.join(counts)} |"]
    return "\n".join(lines)


def minima_table() -> str:
    """The share of minima among the critical points that were found."""
    shares = _record("saddles")["rows"]["shares"]
    plain = {row["n"]: row for row in shares if row["coupling"] == 0.0}
    coupled = {row["n"]: row for row in shares if row["coupling"] != 0.0}
    lines = ["| n | share of minima, exact | found, uncoupled | found, coupled | negative eigenvalues at a found point, uncoupled, coupled |", "| --- |" * 5]
    lines[1] = "| --- | --- | --- | --- | --- |"
    for n, row in plain.items():
        other = coupled[n]
        exact = f"{row['exact_share']:.3f}" if row["exact_share"] >= 1e-3 else f"{row['exact_share']:.0e}"
        negative = ", ".join(f"{one['mean_share_of_negative_eigenvalues']:.0%}" for one in (row, other))
        found = " | ".join(f"{one['minima']} of {one['critical_points']}" for one in (row, other))
        lines.append(f"| {n} | {exact} | {found} | {negative} |")
    return "\n".join(lines)


def goals_table() -> str:
    """What we set out to reach with these methods."""
    cutest = _record("cutest")
    standings = {row["method"]: row for row in cutest["standings"]}
    own = {name: row for name, row in standings.items() if name in _OWN}
    peers = {name: row for name, row in standings.items() if name not in _OWN}
    best, best_peer = max(own.values(), key=lambda row: row["solved"]), max(peers.values(), key=lambda row: row["solved"])
    failures = sum(row["exceptions"] + row["nan_parameters"] for row in own.values())
    steps = {row["line_search_fn"]: row["secant_over_torch"] for row in _record("limited_memory")["rows"] if row["what"] == "step"}
    directions = {row["method"]: row for row in _record("limited_memory")["rows"] if row["what"] == "direction"}
    errors = {name: [row["error"] for row in _record("limited_broyden")["rows"] if _is(row, "burgers-10k", name)] for name in ("lssbroyden", "lbfgs")}
    stays = [(row["saddle"], name) for row in _record("saddles")["rows"]["escapes"] for name in _MUST_ESCAPE if row[name]["left_after"] is None]
    rows = [
        (
            f"CUTEst: most problems solved by one of ours ({best['method']}) against the best peer ({best_peer['method']})",
            f"> {best_peer['solved']}",
            best["solved"],
            best["solved"] > best_peer["solved"],
        ),
        ("the same as a share", ">= 97%", f"{best['share']:.1%}", best["share"] >= 0.97),
        ("exceptions and NaN parameters of all of ours", "0", failures, failures == 0),
        *_against(cutest, "sr1", "lbfgs", 1.3),
        *_against(cutest, "sr1", "torch-lbfgs", 1.3),
        *_against(cutest, "lbfgs", "torch-lbfgs", 1.0),
        ("step of `LBFGS` / torch's outside the closure, n = 1e6, m = 20, fixed step", "<= 0.7", f"{steps[None]:.2f}", steps[None] <= 0.7),
        ("the same with strong Wolfe", "<= 0.7", f"{steps['strong_wolfe']:.2f}", steps["strong_wolfe"] <= 0.7),
        *(
            (
                f"direction of `{name}`, n = 1e7, m = 20, bytes over those of the stored pairs (time over one product)",
                "<= 2.3",
                f"{row['bytes_over_stored']:.2f} ({row['over_one_read_by_product']:.2f})",
                row["bytes_over_stored"] <= 2.3,
            )
            for name, row in directions.items()
        ),
        (
            "`burgers-10k`, 120 s: error of `LBFGS` / `LSSBroyden`, medians of three seeds",
            ">= 30",
            f"{statistics.median(errors['lbfgs']) / statistics.median(errors['lssbroyden']):.0f}",
            statistics.median(errors["lbfgs"]) >= 30 * statistics.median(errors["lssbroyden"]),
        ),
        ("saddles left from 1e-12 by SR1, LSR1, CubicNewton, SaddleFreeNewton", "all", "all" if not stays else f"not {stays}", not stays),
    ]
    lines = ["| what | goal | measured | reached |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {what} | {goal} | {measured} | {'yes' if reached else '**no**'} |" for what, goal, measured, reached in rows)])


def _against(record: dict[str, Any], one: str, other: str, limit: float) -> list[tuple[str, str, object, bool]]:
    """Evaluations where both solve, and who solves more."""
    both = [(a[0], b[0]) for a, b in _pairs(record, one, other) if a[0] is not None and b[0] is not None]
    ratio = statistics.median(a for a, _ in both) / statistics.median(b for _, b in both)
    counts = [sum(run[0] is not None for run in record["runs"][name].values()) for name in (one, other)]
    return [
        (f"CUTEst: median evaluations of {one} / {other} where both solve ({len(both)} problems)", f"<= {limit:g}", f"{ratio:.2f}", ratio <= limit),
        (f"solved by {one} against {other}", f"> {counts[1]}", counts[0], counts[0] > counts[1]),
    ]


def _pairs(record: dict[str, Any], one: str, other: str) -> Iterable[tuple[list[Any], list[Any]]]:
    return [(record["runs"][one][problem], record["runs"][other][problem]) for problem in record["runs"][one]]


def _is(row: dict[str, Any], problem: str, method: str) -> bool:
    return row["problem"] == problem and row["method"] == method and row["memory"] == {"lssbroyden": 300, "lbfgs": 100}[method]


def _least(found: dict[str, list[dict[str, Any]]]) -> float:
    """Sorts by the error on the net of 1e4 parameters, those without it last."""
    rows = found.get("burgers-10k") or []
    return statistics.median(row["error"] for row in rows) if rows else float("inf")


def _errors(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    errors = sorted(row["error"] for row in rows)
    spread = f" ({errors[0]:.1e} to {errors[-1]:.1e})" if len(errors) > 1 else ""
    return f"{statistics.median(errors):.1e}{spread}"


def _record(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return record
