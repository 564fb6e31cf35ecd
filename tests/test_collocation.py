"""Adaptive collocation points: the law they are drawn by, what is refused, exact resume, and the curvature that outlives them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from secant.collocation import RAD, Sampler, sobol_in, uniform_in
from secant.curvature.broyden import Broyden
from secant.curvature.limited_bfgs import LimitedBFGS
from secant.curvature.limited_broyden import LimitedBroyden
from secant.methods import METHODS
from secant.residual_methods import LevenbergMarquardt
from secant.step import Correction

SAMPLERS = [uniform_in, sobol_in]
LINE = uniform_in((0.0,), (1.0,))


def fixed(points: Tensor) -> Sampler:
    """A sampler that always offers the same candidates."""
    return lambda count, _: points[:count]


def first_coordinate(points: Tensor) -> Tensor:
    return points[:, 0]


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(
    low=st.lists(st.floats(-5.0, 5.0), min_size=1, max_size=4),
    size=st.floats(0.0, 3.0),
    count=st.integers(1, 200),
)
@settings(max_examples=30, deadline=None)
def test_samplers_stay_in_their_box(sampler: Callable[..., Sampler], low: list[float], size: float, count: int) -> None:
    high = [a + size for a in low]
    points = sampler(low, high)(count, Generator().manual_seed(1))
    assert points.shape == (count, len(low))
    assert points.dtype == torch.float64
    assert bool((points >= torch.tensor(low, dtype=torch.float64)).all())
    assert bool((points <= torch.tensor(high, dtype=torch.float64) + 1e-12).all())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_give_other_points_at_every_call_and_the_same_after_the_same_seed(
    sampler: Callable[..., Sampler],
) -> None:
    draw = sampler((0.0, -1.0), (1.0, 1.0), dtype=torch.float32)
    generator = Generator().manual_seed(3)
    first, second = draw(50, generator), draw(50, generator)
    assert first.dtype == torch.float32
    assert not torch.equal(first, second)
    assert torch.equal(draw(50, Generator().manual_seed(3)), first)


def test_sobol_points_leave_smaller_gaps_than_independent_ones() -> None:
    sums = [float(draw(4096, Generator().manual_seed(0)).prod(dim=1).mean()) - 0.25 for draw in (sobol_in((0, 0), (1, 1)), uniform_in((0, 0), (1, 1)))]
    assert abs(sums[0]) < 1e-4 < abs(sums[1])


@pytest.mark.parametrize(
    ("exponent", "offset"),
    [(1.0, 1.0), (2.0, 0.0), (0.5, 0.3), (0.0, 0.0), (1.0, math.inf)],
)
def test_a_single_point_is_drawn_with_the_probability_of_the_formula(exponent: float, offset: float) -> None:
    candidates = torch.tensor([[1.0], [2.0], [4.0], [0.5]], dtype=torch.float64)
    sampler = RAD(fixed(candidates), 1, candidates=4, exponent=exponent, offset=offset, seed=5)
    powers = candidates[:, 0] ** exponent
    density = powers / powers.mean() + offset if offset < math.inf else torch.ones(4, dtype=torch.float64)
    drawn = torch.cat([sampler.resample(first_coordinate) for _ in range(1500)])
    frequencies = (drawn == candidates[:, 0]).double().mean(dim=0)
    torch.testing.assert_close(frequencies, density / density.sum(), rtol=0.0, atol=0.03)


def test_several_points_are_drawn_one_after_another_without_replacement() -> None:
    candidates = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    sampler = RAD(fixed(candidates), 2, candidates=3, offset=0.0)
    pairs = torch.stack([sampler.resample(first_coordinate)[:, 0].sort().values for _ in range(4000)])
    assert bool((pairs[:, 0] < pairs[:, 1]).all())
    both = {
        (1, 2): 1 / 6 * 2 / 5 + 1 / 3 * 1 / 4,
        (1, 3): 1 / 6 * 3 / 5 + 1 / 2 * 1 / 3,
        (2, 3): 1 / 3 * 3 / 4 + 1 / 2 * 2 / 3,
    }
    for pair, probability in both.items():
        frequency = float((pairs == torch.tensor(pair, dtype=torch.float64)).all(dim=1).double().mean())
        assert frequency == pytest.approx(probability, abs=0.05)


@given(
    st.integers(1, 40),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([0.0, 1.0, 2.0, 400.0]),
    st.sampled_from([0.0, 1e-3, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_points_are_distinct_candidates_whatever_the_options(count: int, extra: int, kept: float, exponent: float, offset: float) -> None:
    sampler = RAD(
        LINE,
        count,
        candidates=count + extra,
        exponent=exponent,
        offset=offset,
        kept=kept * 0.9,
        seed=2,
    )
    for _ in range(3):
        points = sampler.resample(lambda points: 1e-200 + points[:, 0] ** 3)
        assert points.shape == (count, 1)
        assert len(points.unique(dim=0)) == count
        assert sampler.points is points


def test_scaling_the_residual_changes_no_point() -> None:
    draws = [RAD(LINE, 50, exponent=2.0).resample(lambda points, scale=scale: scale * points[:, 0]) for scale in (1.0, -(2.0**700), 2.0**-600)]
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])


def test_a_residual_that_is_zero_everywhere_draws_evenly() -> None:
    points = RAD(LINE, 2000, offset=0.0).resample(lambda points: torch.zeros(len(points)))
    assert float(points.mean()) == pytest.approx(0.5, abs=0.03)


def test_points_without_a_finite_residual_are_never_drawn() -> None:
    def residual(points: Tensor) -> Tensor:
        return torch.where(points[:, 0] < 0.3, math.nan, torch.where(points[:, 0] > 0.8, math.inf, 1.0))

    points = RAD(LINE, 100, candidates=400).resample(residual)
    assert bool(((points >= 0.3) & (points <= 0.8)).all())


def test_a_system_counts_by_the_norm_of_its_residuals() -> None:
    single = RAD(LINE, 30).resample(lambda points: 5.0 * points[:, 0])
    system = RAD(LINE, 30).resample(lambda points: torch.stack((3.0 * points[:, 0], -4.0 * points[:, 0]), dim=1))
    assert torch.equal(single, system)


def test_the_residual_sees_at_most_count_points_at_a_time_and_keeps_no_graph() -> None:
    sizes = []
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)

    def residual(points: Tensor) -> Tensor:
        sizes.append(len(points))
        return weight * points[:, 0]

    points = RAD(LINE, 40, candidates=100).resample(residual)
    assert sizes == [40, 40, 20]
    assert not points.requires_grad


def test_the_kept_points_are_those_with_the_largest_residuals() -> None:
    sampler = RAD(LINE, 20, kept=0.25)
    before = sampler.begin()
    after = sampler.resample(first_coordinate)
    assert torch.equal(after[:5], before.sort(dim=0, descending=True).values[:5])
    assert not bool(torch.isin(after[5:], before).any())


def test_a_kept_point_that_lost_its_finite_residual_is_replaced() -> None:
    sampler = RAD(LINE, 20, kept=0.9)
    before = sampler.begin()
    after = sampler.resample(lambda points: torch.where(torch.isin(points[:, 0], before[3:, 0]), math.nan, 1.0))
    assert torch.isin(after, before).sum() == 3
    assert len(after.unique(dim=0)) == 20


def test_any_domain_works_through_its_sampler() -> None:
    def disk(count: int, generator: Generator) -> Tensor:
        radius, angle = torch.rand(2, count, generator=generator, dtype=torch.float64)
        return radius.sqrt().unsqueeze(1) * torch.stack((torch.cos(2 * math.pi * angle), torch.sin(2 * math.pi * angle)), dim=1)

    points = RAD(disk, 500, exponent=2.0, offset=0.0).resample(lambda points: points.norm(dim=1) ** 4)
    assert float(points.norm(dim=1).max()) <= 1.0
    assert float(points.norm(dim=1).mean()) > 0.85  # 2/3 when drawn evenly


def test_a_saved_state_resumes_the_drawings_bit_for_bit() -> None:
    sampler = RAD(sobol_in((0.0,), (1.0,)), 30, kept=0.5, seed=9)
    sampler.begin()
    sampler.resample(first_coordinate)
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    expected = [sampler.resample(first_coordinate) for _ in range(2)]
    resumed = RAD(sobol_in((0.0,), (1.0,)), 30, kept=0.5)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert all(torch.equal(points, resumed.resample(first_coordinate)) for points in expected)


def test_a_state_for_another_number_of_points_is_refused_and_changes_nothing() -> None:
    small, large = RAD(LINE, 5), RAD(LINE, 6, seed=1)
    small.begin()
    expected = RAD(LINE, 6, seed=1).begin()
    with pytest.raises(ValueError, match="6 points, got one for 5"):
        large.load_state_dict(small.state_dict())
    assert torch.equal(large.begin(), expected)


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    RAD(sobol_in((0.0,), (1.0,)), 10).resample(first_coordinate)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"count": 0}, "0 < count <= candidates"),
        ({"candidates": 9}, "0 < count <= candidates, got count=10, candidates=9"),
        ({"exponent": -1.0}, "exponent"),
        ({"exponent": math.nan}, "exponent"),
        ({"offset": -0.1}, "offset"),
        ({"offset": math.nan}, "offset"),
        ({"kept": 1.0}, "share of the points"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        RAD(LINE, **({"count": 10} | options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("residual", "sentence"),
    [
        (lambda points: torch.full((len(points),), math.nan), "finite residual"),
        (
            lambda points: (points[:, 0] > 0.95).double(),
            "finite residual that its density allows",
        ),
        (lambda points: torch.ones(1), r"shape \(10,\) or \(10, m\), got \(1,\)"),
        (lambda points: 1.0, "got float"),
    ],
)
def test_an_unusable_residual_is_told_in_a_sentence(residual: Callable[[Tensor], Tensor], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        RAD(LINE, 10, candidates=30, offset=0.0).resample(residual)


@pytest.mark.parametrize(
    "sampler",
    [
        lambda count, generator: torch.zeros(count),
        lambda count, generator: torch.zeros(count + 1, 2),
        lambda count, generator: 3,
    ],
)
def test_a_sampler_of_another_shape_is_refused(sampler: Sampler) -> None:
    with pytest.raises(ValueError, match=r"draw_candidates\(4, generator\)"):
        RAD(sampler, 4).begin()


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ((), ()),
        ((0.0,), (1.0, 2.0)),
        ((1.0,), (0.0,)),
        ((-math.inf,), (0.0,)),
        ((math.nan,), (0.0,)),
    ],
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_box_that_is_none_is_refused(sampler: Callable[..., Sampler], low: tuple[float, ...], high: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="box with finite low <= high"):
        sampler(low, high)


KEEPING = [name for name in METHODS if name not in {"cubicnewton", "newtoncg", "saddlefreenewton"}]  # these have the Hessian of the point itself


@pytest.mark.parametrize("method", KEEPING)
def test_full_batch_methods_keep_their_inverse_across_a_resampling(method: str) -> None:
    parameters = [torch.linspace(-1.0, 1.0, 6, dtype=torch.float64).requires_grad_()]
    collocation = RAD(LINE, 40, seed=4)
    points = [collocation.begin()]

    def misfit(points: Tensor) -> Tensor:
        powers = points ** torch.arange(6, dtype=torch.float64)
        return powers @ parameters[0] - torch.exp(points[:, 0])

    def closure() -> Tensor:
        return misfit(points[0]).square().mean()

    optimizer = METHODS[method](parameters)
    for _ in range(12):
        optimizer.step(closure)
    optimizer.correct()
    inverse = optimizer.curvature.dense_inverse()
    points[0] = collocation.resample(misfit)
    optimizer.objective_changed()
    torch.testing.assert_close(optimizer.curvature.dense_inverse(), inverse, rtol=0.0, atol=0.0)
    before = float(closure().detach())
    assert float(optimizer.step(closure)) == before
    assert optimizer.correction is Correction.NOTHING_NEW
    for _ in range(30):
        optimizer.step(closure)
    assert float(closure().detach()) <= before


@pytest.mark.parametrize("method", ["bfgs", "ssbroyden", "lbfgs", "lssbroyden"])
def test_an_inverse_that_lost_its_definiteness_is_reset_with_the_reason_when_the_points_change(
    method: str,
) -> None:
    parameters = [torch.ones(12, dtype=torch.float64, requires_grad=True)]
    weights = torch.linspace(1.0, 9.0, 12, dtype=torch.float64)

    def closure() -> Tensor:
        return (weights * parameters[0] ** 4).sum()

    optimizer = METHODS[method](parameters)
    for _ in range(8):
        optimizer.step(closure)
    optimizer.objective_changed()
    optimizer.step(closure)
    assert optimizer.correction is Correction.NOTHING_NEW
    match optimizer.curvature:
        case Broyden() as dense:
            dense._products.inverse.add(-10.0, torch.ones(12, dtype=torch.float64))  # type: ignore[union-attr]
        case LimitedBroyden() as limited:
            limited._inverse.add(-10.0, torch.ones(limited._inverse._basis.capacity, dtype=torch.float64))  # type: ignore[union-attr]
        case LimitedBFGS() as pairs:
            pairs._memory.sy[0, 0] *= -1.0  # type: ignore[union-attr]
    optimizer.objective_changed()
    optimizer.step(closure)
    assert optimizer.correction is Correction.RESET_INDEFINITE
    optimizer.step(closure)
    assert optimizer.correction is Correction.APPLIED


def test_damping_outlives_a_change_of_the_points() -> None:
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    grid = [torch.linspace(0.0, 1.0, 9, dtype=torch.float64)]

    def residual() -> Tensor:
        return x[0] * torch.exp(-x[1] * grid[0]) + x[2] - torch.sin(grid[0])

    optimizer = LevenbergMarquardt([x])
    for _ in range(6):
        optimizer.step(residual)
    damping = optimizer.state_dict()["secant"]["globalization"]["damping"]
    assert damping < 1e-4
    grid[0] = grid[0] + 0.05
    optimizer.objective_changed()
    before = residual().detach()
    assert float(optimizer.step(residual)) == pytest.approx(float(0.5 * before @ before), rel=1e-14)
    assert optimizer.state_dict()["secant"]["globalization"]["damping"] <= 2.0 * damping
