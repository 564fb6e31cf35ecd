"""Tables of the methods of least squares and of the derivatives of networks, and the numbers we set out to reach."""

from __future__ import annotations

import json
import statistics
from typing import Any

from benchmarks.record import RESULTS

_ENGD_METHODS = {
    "lm": "`LevenbergMarquardt`",
    "lm-geodesic": "geodesic acceleration instead of corrections",
    "lm-straight": "neither",
    "gauss-newton": "`GaussNewton`",
}


def physics_table() -> str:
    """Error after equal processor time on the physics-informed nets."""
    lines = ["| problem, processor time of one core | method | runs | relative l2 error: median | least to largest |", "| --- | --- | --- | --- | --- |"]
    for problem, method, seconds, errors in _physics():
        spread = f"{min(errors):.1e} to {max(errors):.1e}" if len(errors) > 1 else ""
        lines.append(f"| {problem}, {seconds:.0f} s | {method} | {len(errors)} | {statistics.median(errors):.1e} | {spread} |")
    return "\n".join(lines)


def derivatives_table() -> str:
    """Loss and gradient, and the Jacobian with its Gram matrix, of the Burgers residual."""
    rows = _record("derivatives")["rows"]
    lines = ["| Burgers residual, 5,000 points, 941 parameters, one thread | milliseconds | times faster |", "| --- | --- | --- |"]
    jacobians = rows["Jacobian and its Gram matrix"]
    tables = (("loss and gradient", rows["loss and gradient"]), ("Jacobian", jacobians["Jacobian"]), ("Jacobian and J'J", jacobians["with Gram matrix"]))
    for title, table in tables:
        for name, row in table.items():
            lines.append(f"| {title}: {name} | {row['milliseconds']:.1f} | {row['times_faster']:.2f} |")
    return "\n".join(lines)


def curve_fit_table() -> str:
    """The certified regressions of NIST, both starts."""
    summary = _record("curve_fit")["rows"]["summary"]
    lines = ["| method | fits | 9 digits and more | 6 and more | evaluations | Jacobians |", "| --- | --- | --- | --- | --- | --- |"]
    for method, row in summary.items():
        lines.append(f"| {method} | {row['runs']} | {row['at_least_9_digits']} | {row['at_least_6_digits']} | {row['evaluations']:,} | {row['jacobians']:,} |")
    return "\n".join(lines)


def goals_table() -> str:
    """What we set out to reach."""
    engd = [row for row in _record("poisson_engd")["rows"]["runs"] if (row["problem"], row["method"]) == ("poisson-engd", "lm")]
    engd_errors = [row["error"] for row in engd]
    poisson = {name: _errors(_record("poisson_engd")["rows"]["runs"], "poisson-2d", name) for name in ("lm", "ssbroyden")}
    best = min(poisson, key=lambda name: statistics.median(poisson[name]))
    rad = [row for row in _record("burgers_rad")["rows"] if row["method"] == "lm" and row["every"]]
    burgers = [row["error"] for row in rad if row["problem"] == "burgers" and row["seconds"] == 600.0]
    smooth = [row["error"] for row in rad if row["problem"] == "burgers-nu001"]
    nist = _record("curve_fit")["rows"]["summary"]["secant lm"]
    median = statistics.median
    rows = [
        (f"`poisson-engd`, {len(engd)} starts of two random streams, 10 s: largest error", "<= 1e-5", f"{max(engd_errors):.1e}", max(engd_errors) <= 1e-5),
        ("the same: median error", "<= 1e-7", f"{median(engd_errors):.1e}", median(engd_errors) <= 1e-7),
        (f"`poisson-2d`, 15 s: median error of five seeds ({best})", "<= 4e-7", f"{median(poisson[best]):.1e}", median(poisson[best]) <= 4e-7),
        (f"`burgers` with RAD, 600 s: median error of {len(burgers)} seeds", "<= 1e-6", f"{median(burgers):.1e}", median(burgers) <= 1e-6),
        (f"`burgers-nu001` with RAD, 120 s: median error of {len(smooth)} seeds", "<= 1e-6", f"{median(smooth):.1e}", median(smooth) <= 1e-6),
        *_derivative_goals(),
        (
            "NIST regressions, both starts: fits with 9 digits of every parameter",
            str(nist["runs"]),
            nist["at_least_9_digits"],
            nist["at_least_9_digits"] == nist["runs"],
        ),
    ]
    lines = ["| what | goal | measured | reached |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {what} | {goal} | {measured} | {'yes' if reached else '**no**'} |" for what, goal, measured, reached in rows)])


def _derivative_goals() -> list[tuple[str, str, str, bool]]:
    rows = _record("derivatives")["rows"]
    losses, jacobians = rows["loss and gradient"], rows["Jacobian and its Gram matrix"]
    goals = []
    for name, goal in (("carried forward", 1.5), ("carried forward, compiled", 4.0)):
        faster, joint = losses[name]["times_faster"], losses[name.replace("carried forward", "t and xx as one")]["times_faster"]
        how = "compiled" if "compiled" in name else "eager"
        what = f"loss and gradient of the Burgers residual, {how}, against nested autograd (u_t - nu u_xx as one channel)"
        goals.append((what, f">= {goal:g}", f"{faster:.2f} ({joint:.2f})", faster >= goal))
    faster, over = jacobians["with Gram matrix"]["carried forward"]["times_faster"], jacobians["times the products alone"]["carried forward"]
    goals.append(("Jacobian and J'J of the same against torch.func", ">= 2", f"{faster:.2f}", faster >= 2.0))
    return [*goals, ("the same over its outer products and J'J alone", "<= 1.5", f"{over:.2f}", over <= 1.5)]


def _physics() -> list[tuple[str, str, float, list[float]]]:
    engd = _record("poisson_engd")
    runs, seconds = engd["rows"]["runs"], engd["settings"]["seconds"]
    rows = []
    for method, name in _ENGD_METHODS.items():
        errors = _errors(runs, "poisson-engd", method)
        if errors:
            rows.append(("`poisson-engd`", name, seconds["poisson-engd"], errors))
    rows += [("`poisson-2d`", name, seconds["poisson-2d"], _errors(runs, "poisson-2d", method)) for method, name in _NAMES.items()]
    groups: dict[tuple[str, str, float, int, int], list[float]] = {}
    for row in _record("burgers_rad")["rows"]:
        groups.setdefault((row["problem"], row["method"], row["seconds"], row["points"], row["every"]), []).append(row["error"])
    for (problem, method, budget, points, every), errors in groups.items():
        how = f"{points:,} points, RAD every {every} iterations" if every else f"{points:,} fixed points"
        rows.append((f"`{problem}`", f"{_NAMES[method]}, {how}", budget, errors))
    return rows


_NAMES = {"lm": "`LevenbergMarquardt`", "ssbroyden": "`SSBroyden`"}


def _errors(runs: list[dict[str, Any]], problem: str, method: str) -> list[float]:
    return [row["error"] for row in runs if (row["problem"], row["method"]) == (problem, method)]


def _record(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())
