"""The tables of the README, drawn from the committed records: ``python -m benchmarks.table`` writes them between their markers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import least_squares_tables, mini_batch_tables, second_order_tables
from benchmarks.record import RESULTS

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "README.zh-CN.md", "docs/mini-batch-training.md", "docs/saddles.md", "docs/large-problems.md", "docs/least-squares-and-physics.md")
BEGIN, END = "<!-- benchmarks: {} -->", "<!-- end -->"


def main() -> None:
    for page in PAGES:
        path = ROOT / page
        path.write_text(with_tables(path.read_text()))
    module = ROOT / "src" / "secant" / "verdict" / "hit_rate.py"
    head, _, rest = module.read_text().partition('HIT_RATE = "')
    module.write_text(f'{head}HIT_RATE = "{predictions_text()}"{rest.partition(chr(34))[2]}')


def with_tables(text: str) -> str:
    """``text`` with every marked table replaced by what the records say today."""
    for name, table in _tables().items():
        begin = BEGIN.format(name)
        if begin in text:
            head, rest = text.split(begin, 1)
            text = f"{head}{begin}\n{table}\n{END}{rest.split(END, 1)[1]}"
    return text


def _tables() -> dict[str, str]:
    return {
        "nets": nets_table(),
        "goals": goals_table(),
        "predictions": predictions_text(),
        "instruments": instruments_table(),
        "mini-batch": mini_batch_tables.tasks_table(),
        "mini-batch goals": mini_batch_tables.goals_table(),
        "mini-batch ablation": mini_batch_tables.ablation_table(),
        "cutest": second_order_tables.cutest_table(),
        "large nets": second_order_tables.large_nets_table(),
        "second-order goals": second_order_tables.goals_table(),
        "saddles": second_order_tables.saddles_table(),
        "saddle ends": second_order_tables.ends_table(),
        "minima": second_order_tables.minima_table(),
        "physics": least_squares_tables.physics_table(),
        "curve-fit": least_squares_tables.curve_fit_table(),
        "derivatives": least_squares_tables.derivatives_table(),
        "least-squares goals": least_squares_tables.goals_table(),
    }


def nets_table() -> str:
    """Final errors of every method on the physics-informed nets."""
    rows = _rows("nets")
    names = sorted({name for row in rows for name in row["methods"]}, key=lambda name: rows[0]["methods"][name]["error_median"])
    head = "| method | " + " | ".join(f"`{row['problem']}`, {row['seconds']} s" for row in rows) + " |"
    lines = [head, "| --- |" + " --- |" * len(rows)]
    for name in names:
        cells = [_cell(row["methods"][name]) for row in rows]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def predictions_text() -> str:
    """How often the verdict's predictions were right on the held-out problems."""
    row = next(row for row in _rows("predictions") if row["set"] == "held-out")
    low, high = row["hit_rate_interval"]
    best = row["best_constant_answer"]
    return (
        f"On {row['problems']} problems that were not used to set the rule, the predicted method was within 5 % of the best one in {row['hit_rate']:.0%} "
        f"of the cases (95 % interval {low:.0%} to {high:.0%}); the best answer that is always the same, {best}, in {row['constant_answers'][best]:.0%}. "
        f"The 90 % intervals of the factor held in {row['coverage']:.0%}."
    )


def goals_table() -> str:
    """The numbers we set out to reach, beside what was measured."""
    update = {row["n"]: row["ratio_to_mv"] for row in _rows("update_and_product") if "ratio_to_mv" in row}
    against = next(row["ratio_to_secant"] for row in _rows("update_and_product") if "ratio_to_secant" in row)
    step = {row["n"]: row for row in _rows("whole_step")}
    nets = {row["problem"]: row["methods"]["ssbroyden"] for row in _rows("nets")}
    floor = [row for row in _rows("rounding_floor") if row["method"] in ("bfgs", "ssbfgs", "ssbroyden")]
    rows = [
        ("update + product / one `torch.mv`, n = 3000, CPU path", "<=", 0.85, update[3000]["secant, symv"]),
        ("the same, n = 10000", "<=", 0.85, update[10000]["secant, symv"]),
        ("the same, plain torch, n = 3000", "<=", 1.25, update[3000]["secant, plain torch"]),
        ("the same, plain torch, n = 10000", "<=", 1.25, update[10000]["secant, plain torch"]),
        ("update of SciPy's BFGS / ours, n = 3000", ">=", 300, against["scipy BFGS"]),
        ("update of pytorch-minimize's BFGS / ours, n = 3000", ">=", 300, against["pytorch-minimize BFGS"]),
        ("iteration of ssbroyden-optimistix / ours, n = 3000", ">=", 15, step[3000]["ratio_per_iteration"]),
        ("the same, n = 1000", ">=", 8, step[1000]["ratio_per_iteration"]),
        ("`burgers`, 30 s: error of torch LBFGS / SSBroyden", ">=", 300, nets["burgers"]["times_smaller_than_torch_lbfgs"]),
        ("`poisson-2d`, 15 s: the same", ">=", 300, nets["poisson-2d"]["times_smaller_than_torch_lbfgs"]),
        ("logistic regression: final max abs gradient (BFGS, SSBFGS, SSBroyden; worst of 3 seeds)", "<=", 1e-15, max(r["largest_gradient"] for r in floor)),
        ("evaluations per iteration of SSBroyden on `burgers`", "<=", 1.1, nets["burgers"]["evaluations_per_iteration"]),
        ("the same on `poisson-2d`", "<=", 1.1, nets["poisson-2d"]["evaluations_per_iteration"]),
    ]
    lines = [f"| {what} | {sign} {goal:g} | {measured:.3g} | {_reached(sign, goal, measured)} |" for what, sign, goal, measured in rows]
    return "\n".join(["| what | goal | measured | reached |", "| --- | --- | --- | --- |", *lines])


def instruments_table() -> str:
    """What the instruments cost in gradients, ours and the other packages', beside the goals."""
    rows = dict(zip(("MLP", "conv net", "transformer"), _rows("operators"), strict=True))
    nets = {f"{name}, batch {row['inputs'][0]}": row for name, row in rows.items()}
    perceptron = rows["MLP"]
    tools = ("secant", "secant, compiled", "curvlinops", "hessian-eigenthings", "PyHessian")
    lines = [
        "| gradients on one core | goal | " + " | ".join(tools) + " | reached |",
        "| --- |" + " --- |" * (len(tools) + 2),
    ]

    def add(what: str, goal: float, answers: dict[str, Any], ours: str = "secant") -> None:
        cells = [_cost(answers[tool]) if tool in answers else "" for tool in tools]
        lines.append(f"| {what} | <= {goal:g} | {' | '.join(cells)} | {_reached('<=', goal, answers[ours]['gradients'])} |")

    for task, goals in {"Hessian product": (1.1, 1.75, 2.4), "GGN product": (1.1, 1.5, 1.5)}.items():
        for (name, net), goal in zip(nets.items(), goals, strict=True):
            add(f"{task}, {name}", goal, net["products"][task])
    block = perceptron["products"]["block of 16, per vector"]
    add("block of 16, per vector, MLP", 1.1, block)
    add("the same, compiled", 0.85, block, "secant, compiled")
    for name, goal in (("MLP", 34), ("transformer", 150)):
        add(f"10 eigenpairs to 1e-4, {name}", goal, rows[name]["eigenpairs"])
    trace = perceptron["trace"]["answers"]
    add("trace to 1 %, MLP, fewest products that do (known afterwards)", 40, trace)
    add("the same by our own stopping rule", 40, {"secant": trace["secant, own stopping rule"]})
    add("density, 4 probes x 60 steps, MLP", 400, perceptron["density"])
    return "\n".join(lines)


def _cost(answer: dict[str, Any]) -> str:
    """Gradients, and what is wrong with the answer if something is."""
    cost = f"{answer['gradients']:.3g}"
    if not answer.get("right", True):
        return f"{cost}, wrong by {answer['relative_error']:.0e}"
    if not answer.get("reached", True):
        return f"{cost}, residual {answer['largest_relative_residual']:.0e}"
    return cost


def _reached(sign: str, goal: float, measured: float) -> str:
    return "yes" if (measured <= goal if sign == "<=" else measured >= goal) else "**no**"


def _cell(row: dict[str, Any]) -> str:
    return f"{row['error_median']:.1e} ({row['error_lowest']:.1e} to {row['error_highest']:.1e})"


def _rows(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())["rows"]


if __name__ == "__main__":
    main()
