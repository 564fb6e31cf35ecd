from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from secant.layerwise import RankOneKron
from secant.layerwise.factors import Power
from secant.layerwise.matrix_stack import FactorOptions, MatrixStack, Movement, Sides, fast_dtype, kept_sides

from .plain_kron import DOUBLE, PlainKron, kron_parameters, noise

OPTIONS = FactorOptions(Sides.ALL, 8192, 2, 60, None, 0.9, Power.WHITEN, 4.0, None)

CASES = {
    "default": {},
    "no nesterov": {"nesterov": False},
    "no momentum": {"momentum": 0.0},
    "weight decay": {"weight_decay": 0.3},
    "climbing": {"maximize": True, "weight_decay": 0.1},
    "every step": {"every": 1},
    "every third step": {"every": 3},
    "fixed share": {"kappa": 0.2},
    "small window": {"window": 3, "every": 1},
    "full inverse": {"power": 2},
    "smaller side": {"sides": "smaller"},
    "tight limit": {"stretch": 1.0},
    "no limit": {"stretch": math.inf},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_a_stacked_step_is_a_plain_loop_over_the_matrices(options: dict[str, object]) -> None:
    """Three square, two wide and two tall matrices and two kernels."""
    shapes = [(6, 6), (3, 7), (6, 6), (9, 8), (5, 2, 3, 3), (3, 7), (6, 6), (5, 2, 3, 3), (9, 8)]
    parameters, truth = kron_parameters(shapes), kron_parameters(shapes)
    optimizer = RankOneKron([{"params": parameters, "rule": "kron"}], lr=0.1, **options)  # type: ignore[arg-type]
    plain = PlainKron(truth, lr=0.1, **options)  # type: ignore[arg-type]
    for step in range(9):
        for index, (a, b) in enumerate(zip(parameters, truth, strict=True)):
            a.grad = b.grad = noise(tuple(a.shape), seed=100 * step + index)
        optimizer.step()
        plain.step()
        torch.testing.assert_close(parameters, truth, rtol=1e-9, atol=1e-10)


def test_matrices_that_sit_out_keep_their_age_and_come_back() -> None:
    shapes = [(4, 4), (4, 4), (3, 6), (4, 4), (3, 6), (6, 3)]
    parameters, truth = kron_parameters(shapes), kron_parameters(shapes)
    optimizer, plain = RankOneKron([{"params": parameters, "rule": "kron"}], lr=0.1), PlainKron(truth, lr=0.1)
    absent = [{1, 5}, {1}, {1, 2}, {0, 3}, set(), set(), {2, 4}, {0, 1, 2, 3, 4}, set(), {0}, {3}, set()]
    for step, missing in enumerate(absent):
        for index, (a, b) in enumerate(zip(parameters, truth, strict=True)):
            a.grad = b.grad = None if index in missing else noise(tuple(a.shape), seed=100 * step + index)
        before = [parameter.detach().clone() for parameter in parameters]
        optimizer.step()
        plain.step()
        assert all(torch.equal(parameters[index], before[index]) for index in missing)
        torch.testing.assert_close(parameters, truth, rtol=1e-9, atol=1e-10)
    took_part = [sum(index not in missing for missing in absent) for index in range(len(shapes))]
    assert [int(optimizer.state[parameter]["step"]) for parameter in parameters] == took_part


def test_a_matrix_that_sits_out_does_not_hold_the_memory_of_the_others() -> None:
    parameters = kron_parameters([(8, 8)] * 5)
    optimizer = RankOneKron([{"params": parameters, "rule": "kron"}])
    for count in range(5, 0, -1):
        for index, parameter in enumerate(parameters):
            parameter.grad = torch.ones_like(parameter) if index < count else None
        optimizer.step()
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for state in optimizer.state.values() for value in state.values()}
    held = sum(value.numel() * value.element_size() for state in optimizer.state.values() for value in state.values())
    assert sum(storages.values()) == held


def updates(gradients: list[Tensor], **options: object) -> list[Tensor]:
    parameter = torch.zeros_like(gradients[0]).requires_grad_()
    optimizer = RankOneKron([{"params": [parameter], "rule": "kron"}], lr=1.0, **options)  # type: ignore[arg-type]
    steps = []
    for gradient in gradients:
        before = parameter.detach().clone()
        parameter.grad = gradient
        optimizer.step()
        steps.append(parameter.detach() - before)
    return steps


def rms(update: Tensor) -> float:
    return float(update.square().mean().sqrt())


def largest_singular_value(update: Tensor) -> float:
    return float(torch.linalg.matrix_norm(update, 2))


@pytest.mark.parametrize("shape", [(64, 200), (200, 64), (64, 64)])
@pytest.mark.parametrize("rank", [1, 3])
def test_an_update_of_low_rank_is_shortened_until_its_largest_singular_value_is_allowed(shape: tuple[int, int], rank: int) -> None:
    """Within a fifth, because a step goes on with one power iteration, after five at the first; of rank one, any vector gives the value itself."""
    left, right = noise((shape[0], rank)) * torch.logspace(0, -1, rank, dtype=DOUBLE), noise((rank, shape[1]), seed=1)
    steps = updates([left @ right * (1.0 + step) for step in range(10)], every=1, stretch=1.5)
    allowed = 1.5 * 0.1 * math.sqrt(min(shape))
    for update in steps:
        assert largest_singular_value(update) == pytest.approx(allowed, rel=1e-9 if rank == 1 else 0.2)
        assert rms(update) < 0.1


@pytest.mark.parametrize("every", [1, 2])
def test_an_update_of_full_rank_has_the_promised_root_mean_square(every: int) -> None:
    for update in updates([noise((40, 60), seed=step) for step in range(6)], every=every):
        assert rms(update) == pytest.approx(0.1, rel=1e-12)
        assert largest_singular_value(update) < 0.4 * math.sqrt(40)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("exponent", [-100, -80, -40, 40, 80, 100])
def test_the_scale_of_the_loss_changes_no_bit_of_a_step(dtype: torch.dtype, exponent: int) -> None:
    gradients = [noise((24, 20), seed=step).to(dtype) for step in range(5)]
    scaled = updates([gradient * 2.0**exponent for gradient in gradients])
    assert all(torch.equal(*pair) for pair in zip(updates(gradients), scaled, strict=True))


@pytest.mark.parametrize("lr", [0.01, 1e4])
def test_a_layer_whose_gradient_is_zero_at_first_moves_fully_when_it_is_not(lr: float) -> None:
    """As the first matrix of a low-rank adapter, whose second one starts at zero."""
    parameter = torch.ones(128, 96, requires_grad=True)
    optimizer = RankOneKron([{"params": [parameter], "rule": "kron"}], lr=lr)
    parameter.grad = torch.zeros(128, 96)
    optimizer.step()
    assert torch.equal(parameter, torch.ones(128, 96))
    parameter.grad = noise((128, 96)).float()
    optimizer.step()
    assert rms(parameter.detach() - 1.0) == pytest.approx(0.1 * lr, rel=1e-2)


def test_two_sided_factors_whiten_a_covariance_of_both_sides() -> None:
    """``G = L^(1/2) X R^(1/2)`` has a covariance of ``P G Q`` along its rows of ``P L P`` times a number, and ``Q R Q`` along its columns."""
    side = 24
    basis = [torch.linalg.qr(noise((side, side), seed=seed))[0] for seed in (0, 1)]
    roots = [rotation @ torch.diag(torch.logspace(0, 1, side, dtype=DOUBLE)) @ rotation.T for rotation in basis]
    parameter = torch.zeros(side, side, dtype=DOUBLE, requires_grad=True)
    optimizer = RankOneKron([{"params": [parameter], "rule": "kron"}], lr=0.0, momentum=0.0, every=1, window=100)
    means = [torch.zeros_like(root) for root in roots]
    for step in range(1500):
        parameter.grad = roots[0] @ noise((side, side), seed=step) @ roots[1]
        optimizer.step()
        for mean, name in zip(means, ("left", "right"), strict=True):
            mean += optimizer.state[parameter][name] / 1000 if step >= 500 else 0.0
    for mean, root in zip(means, roots, strict=True):
        assert float(torch.linalg.cond(root @ root)) == pytest.approx(100.0)
        assert float(torch.linalg.cond(mean @ root @ root @ mean)) < 2.0


@pytest.mark.parametrize(
    ("rows", "columns", "sides", "limit", "expected"),
    [
        (3, 7, Sides.ALL, 8, (True, False)),
        (7, 3, Sides.ALL, 8, (False, True)),
        (5, 5, Sides.ALL, 8, (True, True)),
        (5, 5, Sides.SMALLER, 8, (True, False)),
        (7, 3, Sides.SMALLER, 8, (False, True)),
        (5, 5, Sides.ALL, 4, (False, False)),
        (5, 9, Sides.ALL, 5, (True, False)),
    ],
)
def test_a_side_is_kept_where_its_square_does_not_exceed_the_elements(rows: int, columns: int, sides: Sides, limit: int, expected: tuple[bool, bool]) -> None:
    assert kept_sides(rows, columns, sides, limit) == expected


def test_the_entries_of_the_state_are_views_of_the_stack() -> None:
    states: list[dict[str, Tensor]] = [{}, {}]
    stack = MatrixStack(kron_parameters([(4, 6)] * 2), states, OPTIONS)
    signs = torch.ones(stack.signs_needed())
    stack.advance([noise((4, 6)), noise((4, 6), seed=1)], Movement(0.1, 0.9, True, 0.0), signs)
    assert stack.signs_needed() == 0
    assert set(states[0]) == {"step", "momentum", "left", "stretched", "stretch"}
    torch.testing.assert_close(states[1]["momentum"], 0.1 * noise((4, 6), seed=1))
    assert states[0]["left"].untyped_storage().data_ptr() == states[1]["left"].untyped_storage().data_ptr()


def test_only_single_precision_is_multiplied_in_half() -> None:
    cpu = torch.device("cpu")
    assert fast_dtype(DOUBLE, cpu) == DOUBLE
    assert fast_dtype(torch.float32, cpu) in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("shape", [(200, 160), (160, 160)])
def test_factors_applied_in_half_precision_turn_the_update_by_less_than_a_percent(shape: tuple[int, int]) -> None:
    gradients = [noise(shape, seed=step).float() * torch.logspace(-2, 0, shape[1]) for step in range(8)]
    exact, rounded = (updates(gradients, multiply_dtype=dtype)[-1] for dtype in (torch.float32, torch.bfloat16))
    assert float((exact * rounded).sum() / (exact.norm() * rounded.norm())) > 0.9999
    assert not torch.equal(exact, rounded)
