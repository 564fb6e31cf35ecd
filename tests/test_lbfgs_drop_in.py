"""A script written for ``torch.optim.LBFGS`` runs unchanged with ``secant.LBFGS``."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

import secant
from secant import Outcome


def fitted(optimizer: Any, steps: int = 20, **options: Any) -> tuple[Tensor, Any, int]:
    """A ridge fit whose closure calls ``backward``, as torch's documentation shows it: the weights, the optimizer and the evaluations."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 4, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 2.0, 4.0, 8.0])
    targets = torch.sin(inputs[:, :1])
    layer = torch.nn.Linear(4, 1, dtype=torch.float64)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    running, count = optimizer(layer.parameters(), **options), 0

    def closure() -> Tensor:
        nonlocal count
        count += 1
        running.zero_grad()
        loss: Tensor = ((layer(inputs) - targets) ** 2).mean() + 1e-2 * layer.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for _ in range(steps):
        running.step(closure)
    return torch.cat([p.detach().reshape(-1) for p in layer.parameters()]), running, count


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_the_same_script_reaches_the_same_minimum(search: str | None) -> None:
    options: dict[str, Any] = {"lr": 1.0, "max_iter": 20, "max_eval": 25, "tolerance_grad": 1e-10, "tolerance_change": 1e-14, "history_size": 10}
    expected, _, _ = fitted(torch.optim.LBFGS, line_search_fn=search, **options)
    found, optimizer, _ = fitted(secant.LBFGS, line_search_fn=search, **options)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    assert optimizer.outcome.stops


def test_arguments_have_torch_s_order_and_names() -> None:
    theirs = list(inspect.signature(torch.optim.LBFGS.__init__).parameters)
    assert list(inspect.signature(secant.LBFGS.__init__).parameters)[: len(theirs)] == theirs


def test_max_iter_bounds_the_iterations_and_max_eval_the_evaluations_of_a_step() -> None:
    _, optimizer, _ = fitted(secant.LBFGS, steps=1, max_iter=7)
    assert optimizer.iteration == 7
    _, optimizer, count = fitted(secant.LBFGS, steps=1, max_iter=50, max_eval=5)
    assert 5 <= count <= 7
    assert not optimizer.outcome.stops


def test_absolute_tolerances_act_only_when_given() -> None:
    _, optimizer, _ = fitted(secant.LBFGS, steps=1, max_iter=50, tolerance_grad=1e-2)
    assert optimizer.outcome is Outcome.CONVERGED
    assert 1e-6 < optimizer.point.largest_grad <= 1e-2
    _, optimizer, _ = fitted(secant.LBFGS, steps=1, max_iter=50, tolerance_change=1e-3)
    assert optimizer.outcome is Outcome.SMALL_CHANGE
    _, optimizer, _ = fitted(secant.LBFGS, steps=1, max_iter=50)
    assert optimizer.point.largest_grad < 1e-9


@pytest.mark.parametrize(("search", "kind"), [(None, "FixedStep"), ("strong_wolfe", "StrongWolfe"), ("hager_zhang", "HagerZhang")])
def test_the_name_of_a_line_search_chooses_it(search: Any, kind: str) -> None:
    optimizer = secant.LBFGS([torch.zeros(2, requires_grad=True)], line_search_fn=search)
    assert type(optimizer._globalization).__name__ == kind


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"line_search_fn": "armijo"}, "strong_wolfe"),
        ({"line_search_fn": None, "globalization": secant.Armijo()}, "Leave one out"),
        ({"max_iter": 20, "iterations_per_step": 3}, "mean the same"),
        ({"max_iter": 0}, "max_iter >= 1"),
        ({"max_eval": 0}, "max_eval >= 1"),
        ({"tolerance_grad": -1.0}, "tolerance_grad"),
        ({"tolerance_change": float("nan")}, "tolerance_change"),
        ({"history_size": 0}, "history_size"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        secant.LBFGS([torch.zeros(2, requires_grad=True)], **options)


def test_state_of_torch_s_class_is_refused_in_a_sentence() -> None:
    _, theirs, _ = fitted(torch.optim.LBFGS, steps=2)
    ours = secant.LBFGS([torch.zeros(4, dtype=torch.float64, requires_grad=True), torch.zeros(1, dtype=torch.float64, requires_grad=True)])
    with pytest.raises(ValueError, match="state_dict saved by LBFGS"):
        ours.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("method", [secant.LBFGS, secant.LSR1])
def test_a_short_run_takes_less_memory_than_is_announced(method: Any) -> None:
    x = torch.linspace(1.0, 2.0, 100_000, dtype=torch.float64).requires_grad_()
    optimizer = method([x], history_size=20)
    for _ in range(3):
        optimizer.step(lambda: (x**4).sum())
    assert optimizer.curvature.bytes_needed(100_000, 8) == 2 * (20 + 8) * 100_000 * 8
    assert optimizer.curvature._memory._rows.numel() == 16 * 100_000
