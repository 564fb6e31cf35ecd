from __future__ import annotations

from pathlib import Path

import pytest

from secant.methods import METHODS
from secant.problems.cutest_sample import DEVELOPMENT_SET
from secant.race.cutest_request import DEFAULT_EVALUATIONS, CutestRequest
from secant.race.errors import UsageError
from secant.race.request import RaceWords


def parse(out: Path, problems: str = "", price: float | None = None, **words: object) -> CutestRequest:
    return CutestRequest.parse(RaceWords(problem="cutest", out=str(out / "race"), **words), problems, price)  # type: ignore[arg-type]


def test_everything_of_ours_runs_on_the_whole_sample_by_default(tmp_path: Path) -> None:
    request = parse(tmp_path)
    assert request.problems == DEVELOPMENT_SET
    assert {method.name for method in request.methods} >= {*METHODS, "torch-lbfgs", "scipy-trust-krylov"}
    assert (request.evaluations, request.product_price) == (DEFAULT_EVALUATIONS, 2.0)
    assert request.run_count == 128 * len(request.methods)


def test_names_keep_their_order_and_count_once(tmp_path: Path) -> None:
    request = parse(tmp_path, "WATSON, BARD,WATSON", methods="sr1,bfgs")
    assert request.problems == ("WATSON", "BARD")
    assert [method.name for method in request.methods] == ["sr1", "bfgs"]


@pytest.mark.parametrize(
    ("problems", "price", "words", "said"),
    [
        ("CHWIRUT1LS", None, {}, "not one of the 128 problems"),
        (",", None, {}, "names no problem"),
        ("", 0.0, {}, "--product-price"),
        ("", float("nan"), {}, "--product-price"),
        ("", None, {"evaluations": 0}, "--evaluations"),
        ("", None, {"seconds": 3.0}, "no option --seconds"),
        ("", None, {"seeds": "0,1"}, "no option --seeds"),
        ("", None, {"compiled": True}, "no option --compile"),
        ("", None, {"rates": "0.1"}, "no option --lr"),
        ("", None, {"weight_decay": 0.1}, "no option --weight-decay"),
        ("", None, {"methods": "sr2"}, "no method named 'sr2'"),
        ("", None, {"methods": "adam"}, "grid of learning rates"),
        ("", None, {"methods": "adamw"}, "learns from batches"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, problems: str, price: float | None, words: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse(tmp_path, problems, price, **words)


def test_a_folder_with_a_race_needs_resume(tmp_path: Path) -> None:
    (tmp_path / "race").mkdir()
    (tmp_path / "race" / "runs.jsonl").touch()
    with pytest.raises(UsageError, match="already holds a race"):
        parse(tmp_path)
    assert parse(tmp_path, resume=True).resume
