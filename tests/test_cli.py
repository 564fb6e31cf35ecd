from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from race.blobs import adamw, momentum_sgd
from report.inspected import almost_empty, complete
from secant.cli import main
from secant.race.peers import peer_methods
from secant.verdict.interruption import InspectionInterrupted
from secant.verdict.records import InspectionRecord

MODULE = """
import torch

def bowl(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, dtype=torch.float64, generator=generator, requires_grad=True)
    return [x], lambda: ((x - 1) ** 2).sum(), lambda: float((x.detach() - 1).norm())

def stops_at_seed_one(seed):
    parameters, loss, error = bowl(seed)
    calls = []

    def counted():
        calls.append(1)
        if seed == 1 and len(calls) > 20:
            raise KeyboardInterrupt
        return loss()

    return parameters, counted, error

def never_a_number(seed):
    parameters, loss, error = bowl(seed)
    return parameters, lambda: loss() * float("nan")

def returns_item(seed):
    parameters, loss, error = bowl(seed)
    return parameters, lambda: loss().item()

def calls_backward(seed):
    parameters, loss, error = bowl(seed)

    def closure():
        parameters[0].grad = None
        value = loss()
        value.backward()
        return value

    return parameters, closure, error

def setup():
    return torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, [(torch.ones(3, 2), torch.zeros(3, 1))]

def refuses():
    raise ValueError("Expected nothing of this library")

def two_values():
    return 1, 2

def trained(seed):
    from race.blobs import blobs
    return blobs(seed)

def in_float32(seed):
    import dataclasses
    problem = trained(seed)
    training = problem.training
    training.model.float()
    narrow = dataclasses.replace(training, inputs=training.inputs.float(), test_inputs=training.test_inputs.float())
    loss = lambda: training.loss(training.model(narrow.inputs), narrow.targets)
    return dataclasses.replace(problem, parameters=tuple(training.model.parameters()), loss=loss, training=narrow)

def without_files(seed):
    from secant.problems import DataError
    raise DataError("The files are not there.", "Fetch them.")

def without_files_at_seed_one(seed):
    from secant.problems import DataError
    if seed == 1:
        raise DataError("The files are gone.", "Fetch them again.")
    return trained(seed)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "problems_of_a_user.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def race(*words: str, problem: str = "bowl", methods: str = "ssbroyden,torch-lbfgs") -> int:
    return main(["race", f"problems_of_a_user:{problem}", "--methods", methods, "--evaluations", "30", "--out", "out", *words])


def lines(folder: Path) -> list[str]:
    return (folder / "out" / "runs.jsonl").read_text().splitlines()


def test_a_race_leaves_records_and_a_report_and_prints_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert race("--seeds", "0,1") == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("method")
    assert "torch-lbfgs" in captured.out
    assert "report.html" in captured.err
    assert len(lines(folder)) == 4
    assert (folder / "out" / "report.html").read_text().startswith("<!doctype html>")


def test_json_on_stdout_is_one_document_without_nan(capsys: pytest.CaptureFixture[str]) -> None:
    assert race("--json", methods="torch-lbfgs,adam") == 0
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [place["method"] for place in document["standings"]] == ["torch-lbfgs", "adam"]
    assert len(document["runs"]) == 4


def test_no_record_or_report_holds_a_path_of_the_machine(folder: Path) -> None:
    race()
    for name in ("runs.jsonl", "report.html"):
        text = (folder / "out" / name).read_text()
        assert str(folder) not in text
        assert sys.prefix not in text


def test_resume_runs_only_what_is_missing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    race(methods="torch-lbfgs")
    first = lines(folder)
    assert race("--resume", "--seeds", "0,1") == 0
    assert lines(folder)[:1] == first
    assert len(lines(folder)) == 4
    assert "torch-lbfgs seed 0: finished before" in capsys.readouterr().err


def test_resume_repairs_a_torn_last_line(folder: Path) -> None:
    race(methods="torch-lbfgs")
    with (folder / "out" / "runs.jsonl").open("a") as file:
        file.write('{"schema_version": 1, "prob')
    assert race("--resume") == 0
    assert [json.loads(line)["method"] for line in lines(folder)] == ["torch-lbfgs", "ssbroyden"]


def test_a_folder_that_holds_a_race_is_not_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    race(methods="torch-lbfgs")
    before = lines(folder)
    assert race(methods="torch-lbfgs") == 2
    assert lines(folder) == before
    assert "hint: add --resume" in capsys.readouterr().err


def test_resume_without_a_folder_finds_the_newest_one(folder: Path) -> None:
    words = ["race", "problems_of_a_user:bowl", "--methods", "torch-lbfgs", "--evaluations", "10"]
    assert main(words) == 0
    assert main([*words, "--resume"]) == 0
    assert len(list((folder / "runs").iterdir())) == 1


def test_ctrl_c_keeps_the_finished_runs_and_reports_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert race("--seeds", "0,1", problem="stops_at_seed_one", methods="torch-lbfgs") == 130
    assert [json.loads(line)["seed"] for line in lines(folder)] == [0]
    assert (folder / "out" / "report.html").exists()
    captured = capsys.readouterr()
    assert captured.out.startswith("method")
    assert "hint: the same command with --resume --out out goes on" in captured.err


def test_ctrl_c_before_the_first_record_leaves_no_report(folder: Path) -> None:
    assert race("--seeds", "1", problem="stops_at_seed_one", methods="torch-lbfgs") == 130
    assert not (folder / "out" / "report.html").exists()


def test_a_closure_that_calls_backward_races_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert race("--json", problem="calls_backward", methods="ssbroyden,torch-lbfgs,scipy-bfgs,adam") == 0
    document = json.loads(capsys.readouterr().out)
    assert {run["status"] for run in document["runs"]} <= {"budget", "stopped"}


def test_a_longer_budget_in_the_same_folder_is_a_table_of_its_own(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    race(methods="torch-lbfgs")
    capsys.readouterr()
    words = ["race", "problems_of_a_user:bowl", "--methods", "scipy-bfgs", "--evaluations", "40", "--out", "out", "--resume"]
    assert main(words) == 0
    assert "torch-lbfgs" not in capsys.readouterr().out
    assert len(lines(folder)) == 2


def test_a_race_in_which_every_run_failed_exits_1(folder: Path) -> None:
    assert race(problem="never_a_number", methods="adam") == 1
    assert [json.loads(line)["status"] for line in lines(folder)] == ["failed"] * 3


def test_a_closure_that_returns_a_number_is_bad_usage_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert race(problem="returns_item") == 2
    assert "hint: return the loss tensor itself" in capsys.readouterr().err


def test_an_unknown_method_names_the_nearest_and_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert race(methods="ssbroydn") == 2
    assert "hint: did you mean ssbroyden" in capsys.readouterr().err


def test_an_unknown_problem_names_the_nearest_and_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["race", "burger"]) == 2
    captured = capsys.readouterr()
    assert "hint: did you mean burgers" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seconds", "3"], "one budget"),
        (["--evaluations", "0"], "positive"),
        (["--seeds", "x"], "--seeds"),
        (["--seeds", "-1"], "--seeds"),
        (["--threads", "0"], "--threads"),
        (["--methods", ","], "No method"),
        (["--no-such-option"], "no-such-option"),
    ],
)
def test_bad_usage_exits_2_with_a_message_on_stderr(words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert race(*words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert not (folder / "out").exists()


@pytest.fixture
def batch_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two entrants that learn from batches: these tests need no peer to be installed."""
    monkeypatch.setattr("secant.race.registry.peer_methods", lambda: [*peer_methods(), adamw(), momentum_sgd()])


def train(*words: str, problem: str = "trained", methods: str = "test-adamw,test-sgd") -> int:
    return main(["race", f"problems_of_a_user:{problem}", "--methods", methods, "--out", "out", *words])


@pytest.mark.usefixtures("batch_methods")
def test_a_race_of_training_prints_test_loss_accuracy_and_steps(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--steps", "30", "--seeds", "0,1", "--health") == 0
    captured = capsys.readouterr()
    heading = captured.out.splitlines()[0].split("  ")
    assert [word.strip() for word in heading if word][:6] == ["method", "loss", "test loss", "accuracy", "steps", "evaluations"]
    assert " %" in captured.out.splitlines()[2]
    assert "accuracy" in captured.err
    runs = [json.loads(line) for line in lines(folder)]
    assert {run["steps"] for run in runs} == {30}
    assert all(run["training"]["health"] for run in runs)
    assert (folder / "out" / "report.html").exists()


@pytest.mark.usefixtures("batch_methods")
def test_without_a_budget_a_problem_is_trained_for_its_own_number_of_steps(folder: Path) -> None:
    assert train() == 0
    assert {json.loads(line)["steps"] for line in lines(folder)} == {24}


@pytest.mark.usefixtures("batch_methods")
def test_every_technique_of_the_command_line_reaches_the_record(folder: Path) -> None:
    options = ["--schedule", "cosine", "--warmup", "2", "--clip-norm", "1", "--clip-value", "0.5", "--accumulate", "2", "--momentum", "0.8"]
    assert train("--epochs", "2", "--batch", "12", "--weight-decay", "0.1", "--lr", "0.02,0.05", *options) == 0
    runs = [json.loads(line) for line in lines(folder)]
    assert [(run["method"], run["variant"]) for run in runs] == [(name, f"lr={rate}") for name in ("test-adamw", "test-sgd") for rate in ("0.02", "0.05")]
    assert {run["steps"] for run in runs} == {8}
    techniques = runs[-1]["training"]["techniques"]
    assert techniques.pop("schedule").startswith("cosine: ")
    assert techniques == {
        "feed": "batches",
        "batch": 12,
        "accumulate": 2,
        "warmup": 2,
        "weight_decay": 0.1,
        "weight_decay_kind": "coupled",
        "clip_norm": 1.0,
        "clip_value": 0.5,
        "momentum": 0.8,
    }


@pytest.mark.usefixtures("batch_methods")
def test_resume_of_a_training_race_runs_what_is_missing_and_keeps_other_techniques_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--steps", "5", methods="test-adamw") == 0
    assert train("--steps", "5", "--resume", "--seeds", "0,1") == 0
    assert "test-adamw lr=0.01 seed 0: finished before" in capsys.readouterr().err
    assert len(lines(folder)) == 4
    assert train("--steps", "5", "--resume", "--clip-norm", "1", methods="test-sgd") == 0
    assert "test-adamw" not in capsys.readouterr().out
    assert train("--steps", "5", "--resume") == 0
    assert "test-adamw" in capsys.readouterr().out
    assert len(lines(folder)) == 5


@pytest.mark.usefixtures("batch_methods")
def test_resume_with_health_repeats_the_runs_that_were_not_looked_at(folder: Path) -> None:
    assert train("--steps", "5", methods="test-adamw") == 0
    for _ in range(2):
        assert train("--steps", "5", "--resume", "--health", methods="test-adamw") == 0
        assert len(lines(folder)) == 2


@pytest.mark.usefixtures("batch_methods")
def test_both_families_race_for_the_same_seconds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--seconds", "0.1", methods="ssbroyden,torch-lbfgs,test-adamw") == 0
    assert {json.loads(line)["training"]["techniques"]["feed"] for line in lines(folder)} == {"full batch", "batches"}


@pytest.mark.usefixtures("batch_methods")
def test_float64_is_raced_by_the_full_batch_and_narrower_models_by_batches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secant.race.request.DEFAULT_BATCH_METHODS", ("not-there-yet", "test-sgd"))
    assert main(["race", "problems_of_a_user:trained", "--seconds", "0.02", "--out", "out"]) == 0
    assert "ssbroyden" in {json.loads(line)["method"] for line in lines(folder)}
    assert main(["race", "problems_of_a_user:in_float32", "--steps", "3", "--out", "narrow"]) == 0
    assert {json.loads(line)["method"] for line in (folder / "narrow" / "runs.jsonl").read_text().splitlines()} == {"test-sgd"}


@pytest.mark.parametrize(
    ("words", "problem", "methods", "message"),
    [
        ([], "bowl", "test-adamw", "'test-adamw' learns from batches, and this problem has no training data"),
        (["--schedule", "cosin"], "trained", "test-adamw", "no schedule named 'cosin'"),
        (["--schedule", "cosine", "--seconds", "1"], "trained", "test-adamw", "needs the length of the run"),
        (["--momentum", "0.5"], "trained", "ssbroyden", "--momentum is not for ssbroyden, which takes the full batch"),
        (["--batch", "4"], "trained", "ssbroyden,test-adamw", "--batch is not for ssbroyden"),
        (["--clip-value", "4"], "trained", "ssbroyden,test-adamw", "--clip-value is not for ssbroyden"),
        (["--clip-norm", "0"], "trained", "test-adamw", "--clip-norm needs a positive number, got 0"),
        (["--lr", "x"], "trained", "test-adamw", "--lr needs numbers"),
        (["--lr", "0"], "trained", "test-adamw", "--lr needs positive numbers"),
        (["--lr", "0.1"], "trained", "ssbroyden", "none of the methods learns from batches"),
        (["--steps", "3", "--epochs", "1"], "trained", "test-adamw", "one budget, got --steps and --epochs"),
        (["--steps", "0"], "trained", "test-adamw", "positive"),
        (["--health"], "bowl", "ssbroyden", "--health names layers"),
        (["--health-every", "0"], "trained", "test-adamw", "--health-every needs 1 step or more"),
        (["--accumulate", "2"], "bowl", "ssbroyden", "--accumulate divides training data"),
        ([], "without_files", "test-adamw", "The files are not there."),
    ],
)
@pytest.mark.usefixtures("batch_methods")
def test_bad_usage_of_training_exits_2_with_the_reason(
    words: list[str], problem: str, methods: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*words, problem=problem, methods=methods) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "\nhint: " in captured.err
    assert captured.out == ""
    assert not (folder / "out").exists()


@pytest.mark.usefixtures("batch_methods")
@pytest.mark.parametrize(("technique", "settings"), [("schedule", 5), ("clip", 5), ("accumulate", 4), ("momentum", 5), ("lr", 9)])
def test_a_comparison_ends_with_one_sentence(technique: str, settings: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--compare", technique, "--steps", "8", "--seeds", "0,1", methods="test-sgd") == 0
    captured = capsys.readouterr()
    rows, _, sentence = captured.out.rstrip("\n").rpartition("\n\n")
    assert rows.startswith("setting")
    assert len(rows.splitlines()) == 2 + settings
    assert rows.count(" * ") == 1
    assert "for test-sgd on problems_of_a_user:trained: training loss" in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert len(lines(folder)) == 2 * settings
    assert f"{2 * settings}/{2 * settings} test-sgd" in captured.err
    page = (folder / "out" / "report.html").read_text()
    assert sentence.split(";")[0].split(":")[0] in page
    assert ('aria-label="training loss at the end against learning rate"' in page) == (technique == "lr")


@pytest.mark.usefixtures("batch_methods")
def test_a_comparison_resumes_and_leaves_plain_runs_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--steps", "4", methods="test-sgd,test-adamw") == 0
    capsys.readouterr()
    assert train("--compare", "clip", "--steps", "4", "--resume", "--json", methods="test-sgd") == 0
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    names = [setting["name"] for setting in document["comparison"]["settings"]]
    assert names[0] == "no clipping"
    assert document["comparison"]["best"] in names
    assert {run["method"] for run in document["runs"]} == {"test-sgd"}
    before = lines(folder)
    assert len(before) == 2 + 4
    assert train("--compare", "clip", "--steps", "4", "--resume", methods="test-sgd") == 0
    assert lines(folder) == before
    assert "no clipping seed 0: finished before" in capsys.readouterr().err


@pytest.mark.usefixtures("batch_methods")
def test_tuning_runs_the_grid_on_one_seed_and_resumes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--tune", "--lr", "0.001,0.01,0.1", "--steps", "6", "--seeds", "0,1,2")
    assert train(*words) == 0
    captured = capsys.readouterr()
    assert "Tuned test-adamw on seed 0: lr=" in captured.out
    assert "10/10 test-sgd" in captured.err
    assert not [line for line in captured.err.splitlines() if line.startswith("[")]
    assert len(lines(folder)) == 10
    assert {run["tuning"]["seed"] for run in map(json.loads, lines(folder))} == {0}
    assert (folder / "out" / "study.db").exists()
    assert "<h2>Tuning</h2>" in (folder / "out" / "report.html").read_text()
    assert train(*words, "--resume") == 0
    assert len(lines(folder)) == 10
    assert capsys.readouterr().err.count("finished before") == 10


@pytest.mark.usefixtures("batch_methods")
def test_a_failed_start_is_no_result(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*given: object, **named: object) -> None:
        raise TypeError("an option is missing")

    monkeypatch.setattr("torch.optim.AdamW", broken)
    assert train("--compare", "clip", "--steps", "4", methods="test-adamw") == 1
    assert capsys.readouterr().out.endswith("Under every setting of clip, most runs of test-adamw failed.\n")


@pytest.mark.parametrize(
    ("words", "methods", "message"),
    [
        (["--compare", "clip"], "test-adamw,test-sgd", "--compare runs one method under every setting, got 2: test-adamw, test-sgd"),
        (["--compare", "momentum"], "test-adamw", "--compare momentum is not for test-adamw"),
        (["--compare", "momentum"], "ssbroyden", "its direction comes from curvature"),
        (["--compare", "lr"], "ssbroyden", "--compare lr is not for ssbroyden"),
        (["--compare", "lr", "--lr", "0.1,0.2"], "test-adamw", "--compare lr has a grid of its own"),
        (["--compare", "batch"], "test-adamw", "needs one of schedule, clip, accumulate, momentum, lr, got 'batch'"),
        (["--compare", "clip", "--clip-norm", "1"], "test-adamw", "--compare clip sets --clip-norm itself"),
        (["--compare", "schedule", "--seconds", "1"], "test-adamw", "needs the length of the run"),
        (["--compare", "accumulate", "--seconds", "1"], "test-adamw", "at equal samples"),
        (["--compare", "lr", "--tune"], "test-adamw", "--compare and --tune are two races"),
        (["--tune"], "test-adamw", "none of the methods has one"),
    ],
)
@pytest.mark.usefixtures("batch_methods")
def test_a_comparison_or_tuning_that_makes_no_sense_exits_2_with_the_reason(
    words: list[str], methods: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*words, methods=methods) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "\nhint: " in captured.err
    assert captured.out == ""
    assert not (folder / "out").exists()


@pytest.mark.usefixtures("batch_methods")
def test_data_that_are_missing_for_a_later_seed_are_a_sentence_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--seeds", "0,1", "--steps", "2", problem="without_files_at_seed_one", methods="test-adamw") == 2
    assert capsys.readouterr().err.endswith("error: The files are gone.\nhint: Fetch them again.\n")
    assert len(lines(folder)) == 1


def test_without_optuna_tuning_says_how_to_install_it(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secant.race.registry.peer_methods", lambda: [adamw(0.1, 0.01)])
    monkeypatch.delitem(sys.modules, "secant.race.tuning", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert train("--tune", "--steps", "2", methods="test-adamw") == 2
    assert 'optuna, which is not installed.\nhint: pip install "secant[race]"' in capsys.readouterr().err


def test_the_problem_of_the_first_seed_is_built_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "counting.py").write_text("from problems_of_a_user import bowl\n\ndef counted(seed):\n    print('built', seed)\n    return bowl(seed)\n")
    assert main(["race", "counting:counted", "--methods", "adam", "--evaluations", "5", "--seeds", "3,4", "--out", "out"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("built")] == ["built 3", "built 4"]


def test_the_lists_name_problems_and_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["problems"]) == 0
    assert "burgers" in capsys.readouterr().out
    assert main(["methods", "--json"]) == 0
    names = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert names["ssbroyden"]["origin"] == "secant"
    assert names["torch-lbfgs"]["state"] == "installed"


def test_a_peer_that_is_not_installed_is_listed_with_its_remedy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("secant.race.method.find_spec", lambda module: None)
    assert main(["methods"]) == 0
    assert "not installed: pip install torchzero" in capsys.readouterr().out
    assert race(methods="torchzero-bfgs") == 2
    assert "hint: pip install torchzero" in capsys.readouterr().err


def test_without_the_extra_the_command_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    assert main(["methods"]) == 2
    captured = capsys.readouterr()
    assert 'hint: pip install "secant[race]"' in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("missing", ["rich", "matplotlib", "pydantic", "threadpoolctl"])
def test_each_module_of_the_extra_may_be_the_missing_one(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from secant.cli import main; sys.exit(main(['race', 'quadratic', '--evaluations', '5']))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert 'hint: pip install "secant[race]"' in answer.stderr
    assert "Traceback" not in answer.stderr


def test_another_import_error_is_not_mistaken_for_the_extra(folder: Path) -> None:
    (folder / "imports_what_is_missing.py").write_text("import a_module_of_the_user_that_is_missing\n")
    with pytest.raises(ModuleNotFoundError, match="a_module_of_the_user_that_is_missing"):
        main(["race", "imports_what_is_missing:problem"])


def test_ctrl_c_outside_a_race_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(words: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("secant.cli._run", interrupt)
    assert main(["problems"]) == 130


Inspect = Callable[..., InspectionRecord]


@pytest.fixture
def inspected(monkeypatch: pytest.MonkeyPatch) -> Callable[[Inspect], None]:
    """Puts a function in the place of the measurement: what is tested here is all around it."""

    def replace(measure: Inspect) -> None:
        monkeypatch.setattr("secant.report.inspection.inspect", lambda *given, **named: types.SimpleNamespace(record=measure(*given, **named)))

    return replace


def inspect(*words: str, setup: str = "setup") -> int:
    return main(["inspect", f"problems_of_a_user:{setup}", "--out", "out", *words])


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out").iterdir()) if (folder / "out").exists() else []


def test_an_inspection_leaves_report_and_record_and_prints_a_summary(
    folder: Path, capsys: pytest.CaptureFixture[str], inspected: Callable[[Inspect], None]
) -> None:
    inspected(lambda *given, **named: complete())
    assert inspect() == 0
    captured = capsys.readouterr()
    assert "Switch to SSBroyden" in captured.out
    assert captured.err == "Report: out/report.html\n"
    assert left(folder) == ["inspection.json", "report.html"]


def test_the_words_of_the_command_reach_the_inspection(inspected: Callable[[Inspect], None]) -> None:
    calls = []

    def measure(*given: object, **named: object) -> InspectionRecord:
        calls.append((given, named, torch.get_num_threads()))
        return complete()

    inspected(measure)
    assert inspect("--budget", "5", "--seeds", "4,2", "--no-race") == 0
    (model, loss, data), named, threads = calls[0]
    assert isinstance(model, torch.nn.Linear)
    assert loss is torch.nn.functional.mse_loss
    assert isinstance(data, list)
    assert threads == 1
    assert callable(named.pop("progress"))
    assert named == {
        "validation": None,
        "optimizer": None,
        "seconds": 5.0,
        "seeds": (4, 2),
        "race": False,
        "count": None,
        "batch_norm": "as_set",
        "dropout": "off",
        "name": "problems_of_a_user:setup",
    }


def test_an_inspection_as_json_is_the_record_that_it_keeps(folder: Path, capsys: pytest.CaptureFixture[str], inspected: Callable[[Inspect], None]) -> None:
    inspected(lambda *given, **named: complete())
    assert inspect("--json") == 0
    printed = capsys.readouterr().out
    assert json.loads(printed, parse_constant=pytest.fail)["name"] == "digits:setup"
    assert printed == (folder / "out" / "inspection.json").read_text()


def test_a_loss_that_is_not_finite_exits_1_with_a_report(folder: Path, inspected: Callable[[Inspect], None]) -> None:
    inspected(lambda *given, **named: almost_empty())
    assert inspect() == 1
    assert left(folder) == ["inspection.json", "report.html"]


def test_an_inspection_in_which_every_run_failed_exits_1(inspected: Callable[[Inspect], None]) -> None:
    runs = tuple(run.model_copy(update={"loss": None}) for run in complete().runs)
    inspected(lambda *given, **named: almost_empty().model_copy(update={"loss": 1.0, "runs": runs}))
    assert inspect() == 1


def test_ctrl_c_during_an_inspection_reports_what_was_measured(folder: Path, capsys: pytest.CaptureFixture[str], inspected: Callable[[Inspect], None]) -> None:
    def stopped(*given: object, **named: object) -> InspectionRecord:
        raise InspectionInterrupted(almost_empty())

    inspected(stopped)
    assert inspect() == 130
    assert left(folder) == ["inspection.json", "report.html"]
    captured = capsys.readouterr()
    assert "Stay with AdamW" in captured.out
    assert captured.err.startswith("Stopped by Ctrl-C; what was measured")


def test_ctrl_c_before_anything_was_measured_leaves_no_report(folder: Path, inspected: Callable[[Inspect], None]) -> None:
    def stopped(*given: object, **named: object) -> InspectionRecord:
        raise KeyboardInterrupt

    inspected(stopped)
    assert inspect() == 130
    assert left(folder) == []


def test_what_the_library_refuses_is_a_sentence_and_no_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], inspected: Callable[[Inspect], None]
) -> None:
    from secant.operators.batches import Batches

    inspected(lambda *given, **named: Batches(iter([1]), lambda tensor: tensor))  # type: ignore[arg-type, return-value]
    assert inspect() == 2
    captured = capsys.readouterr()
    assert captured.err == "error: Expected data that can be read several times, got a one-shot iterator. Pass list(data), or the DataLoader itself.\n"
    assert captured.out == ""
    assert left(folder) == []


def test_what_the_users_own_code_raises_keeps_its_traceback(inspected: Callable[[Inspect], None]) -> None:
    inspected(lambda *given, **named: complete())
    with pytest.raises(ValueError, match="nothing of this library"):
        inspect(setup="refuses")


@pytest.mark.parametrize(
    ("words", "setup", "message"),
    [
        (["--budget", "0"], "setup", "--budget needs a positive"),
        (["--seeds", "x"], "setup", "--seeds"),
        (["--threads", "0"], "setup", "--threads"),
        ([], "setpu", "hint: did you mean setup"),
        ([], "two_values", "expected (model, loss, data)"),
        (["--no-such-option"], "setup", "no-such-option"),
    ],
)
def test_bad_usage_of_inspect_exits_2_before_anything_is_measured(
    words: list[str], setup: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str], inspected: Callable[[Inspect], None]
) -> None:
    inspected(lambda *given, **named: pytest.fail("measured"))
    assert inspect(*words, setup=setup) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert left(folder) == []


@pytest.mark.slow
def test_a_small_model_is_inspected_from_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect("--budget", "1", "--no-race") == 0
    record = InspectionRecord.model_validate_json((folder / "out" / "inspection.json").read_text())
    assert (record.name, record.parameters, record.runs) == ("problems_of_a_user:setup", 3, ())
    captured = capsys.readouterr()
    assert record.recommendation.sentence.split(".")[0] in captured.out
    assert captured.err.endswith("Report: out/report.html\n")
    assert str(folder) not in (folder / "out" / "report.html").read_text()
