"""What a comparison concludes, from scores made by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from race.blobs import SAMPLES, adamw, blobs
from secant.race.budget import Budget
from secant.race.comparison import Compared, Comparison, compare
from secant.race.comparison_verdict import Verdict, judge
from secant.race.plan import Plan, race
from secant.race.records import RunRecord, Status
from secant.race.source import Source
from secant.race.standings import Standing, standings
from secant.report.comparison_text import sentence

PLAN = Plan(Source("blobs", blobs), (adamw(),), (0,), Budget(steps=16))
(RUN,) = race(PLAN)
RATES = [f"lr {rate}" for rate in ("0.0001", "0.0003", "0.001", "0.003", "0.01", "0.03", "0.1", "0.3", "1")]


def place(*losses: float | None) -> Standing:
    (found,) = standings([_record(seed, loss) for seed, loss in enumerate(losses)])
    return found


def _record(seed: int, loss: float | None) -> RunRecord:
    status = Status.FAILED if loss is None else Status.BUDGET
    return RUN.model_copy(update={"seed": seed, "loss": 0.5 if loss is None else loss, "status": status})


def rates(**losses: tuple[float | None, ...]) -> tuple[Comparison, dict[str, Standing]]:
    """Learning rates 0.0001 to 1, of which those not named end at 9."""
    comparison = compare(Compared.LR, PLAN, samples=SAMPLES, batch=8)
    given_seeds = len(next(iter(losses.values())))
    scores = {name.removeprefix("at_").replace("_", "."): values for name, values in losses.items()}
    return comparison, {name: place(*scores.get(name.removeprefix("lr "), (9.0,) * given_seeds)) for name in RATES}


def answered(**losses: tuple[float | None, ...]) -> tuple[Verdict, str]:
    comparison, places = rates(**losses)
    verdict = judge(comparison, places)
    assert verdict is not None
    return verdict, sentence(comparison, places, verdict)


def test_a_better_rate_is_named_with_its_lead_over_the_default_and_its_neighbors() -> None:
    verdict, text = answered(at_0_003=(0.020, 0.021, 0.022), at_0_01=(0.036, 0.038, 0.040), at_0_001=(0.021, 0.022, 0.0225))
    assert (verdict.best, verdict.rival, verdict.is_beyond_noise) == ("lr 0.003", "lr 0.01", True)
    assert text == (
        "lr 0.003 is best for test-adamw on blobs: training loss 0.021, 1.8 times lower than at its default 0.01 (1.8 to 1.82 times over 3 seeds); "
        "lr 0.001 and 0.003 are within 10 % of the best."
    )


def test_a_wide_range_is_told_by_its_ends() -> None:
    verdict, text = answered(at_0_001=(1.05, 1.05), at_0_003=(1.0, 1.0), at_0_01=(1.09, 1.09), at_0_03=(1.2, 1.2))
    assert verdict.near == ("lr 0.001", "lr 0.003", "lr 0.01")
    assert text.endswith("; every lr from 0.001 to 0.01 is within 10 % of the best.")


def test_good_rates_with_a_bad_one_between_them_are_listed() -> None:
    _, text = answered(at_0_001=(1.05,), at_0_01=(1.0,), at_0_1=(1.01,))
    assert text.endswith("; lr 0.001 and lr 0.1 are within 10 % of the best.")


def test_seeds_that_disagree_are_noise() -> None:
    verdict, text = answered(at_0_003=(1.0, 1.1, 0.9), at_0_01=(1.2, 1.0, 1.1))
    assert verdict.is_beyond_noise is False
    assert "lr 0.003 ends lowest for" in text
    assert "not beyond the noise of the seeds: at its default 0.01 it is 0.909 to 1.22 times over 3 seeds" in text


def test_a_spread_as_large_as_the_lead_is_noise_even_where_every_seed_agrees() -> None:
    verdict, _ = answered(at_0_003=(1.0, 1.0, 1.0), at_0_01=(1.01, 1.01, 3.0))
    assert verdict.is_beyond_noise is False


def test_one_seed_cannot_tell_noise() -> None:
    verdict, text = answered(at_0_003=(1.0,), at_0_01=(2.0,))
    assert verdict.is_beyond_noise is None
    assert "2 times lower than at its default 0.01, from one seed, which may be chance" in text


def test_a_default_that_is_best_is_compared_with_the_second() -> None:
    verdict, text = answered(at_0_01=(1.0, 1.0), at_0_03=(1.5, 1.52))
    assert verdict.rival == "lr 0.03"
    assert text.startswith("The default, lr 0.01, is best for test-adamw on blobs: training loss 1, 1.5 times lower than at the second best, lr 0.03")


def test_a_failed_run_does_not_win_by_the_loss_it_failed_at() -> None:
    verdict, text = answered(at_0_003=(1.0, 1.0), at_0_01=(None, None))
    assert verdict.best == "lr 0.003"
    assert "where most runs at its default 0.01 fail" in text


def test_the_edge_of_the_grid_is_told_where_it_goes_on() -> None:
    assert "edge of what was tried" in answered(at_1=(1.0, 1.0), at_0_01=(2.0, 2.0))[1]
    assert "edge of what was tried" in answered(at_0_0001=(1.0, 1.0), at_0_01=(2.0, 2.0))[1]
    comparison = compare(Compared.ACCUMULATE, PLAN, samples=SAMPLES, batch=8)
    places = {setting.name: place(1.0 + index) for index, setting in enumerate(comparison.settings)}
    verdict = judge(comparison, places)
    assert verdict is not None
    assert not verdict.is_at_edge


def test_nothing_is_concluded_from_failures_or_from_half_of_the_runs() -> None:
    comparison, places = rates(at_0_01=(None,))
    failed = {name: place(None) for name in places}
    assert judge(comparison, failed) is None
    assert sentence(comparison, failed, None) == "Under every setting of lr, most runs of test-adamw failed."
    some = {"lr 0.01": place(1.0)}
    assert judge(comparison, some) is None
    assert sentence(comparison, some, None) == "1 of 9 settings have run, too few to compare."


def test_settings_with_fewer_seeds_wait_for_the_rest() -> None:
    comparison, places = rates(at_0_003=(1.0, 1.0), at_0_01=(2.0, 2.0))
    verdict = judge(comparison, {**places, "lr 0.1": place(0.1)})
    assert verdict is not None
    assert verdict.best == "lr 0.003"


def test_losses_that_are_not_positive_have_no_ratio() -> None:
    verdict, text = answered(at_0_003=(-2.0, -2.1), at_0_01=(-1.0, -1.0))
    assert verdict.ratio is None
    assert "against -1 at its default 0.01" in text
    assert verdict.near == ("lr 0.003",)


@given(st.lists(st.floats(0.1, 10.0), min_size=2, max_size=6), st.floats(0.01, 100.0))
def test_the_verdict_does_not_depend_on_the_scale_of_the_loss(losses: list[float], scale: float) -> None:
    def judged(factor: float) -> Verdict:
        comparison, places = rates(at_0_003=tuple(factor * loss for loss in losses), at_0_01=tuple(1.7 * factor * loss**1.5 for loss in losses))
        verdict = judge(comparison, {name: places[name] for name in ("lr 0.003", "lr 0.01")})
        assert verdict is not None
        assert verdict.ratio is not None
        return verdict

    plain, scaled = judged(1.0), judged(scale)
    assert (plain.best, plain.rival) == (scaled.best, scaled.rival)
    assert plain.ratio is not None
    assert scaled.ratio is not None
    assert plain.ratio.median == pytest.approx(scaled.ratio.median, rel=1e-9)
