"""The border with torch: evaluates the closure, counts, and speaks in flat vectors."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor

from secant.layout import Layout, ParamGroup
from secant.space import LocalSpace, Space
from secant.step import Point

Closure = Callable[[], Any]

_DIFFERENCES_REMEDY = "Return the loss without calling backward (of the uncompiled model), or build the method with hessian='differences'."


@dataclass(frozen=True, slots=True)
class Counts:
    """How often the closure was used: loss evaluations, gradients and Hessian products, each a whole pass over the closure's data."""

    losses: int = 0
    gradients: int = 0
    hessian_products: int = 0


@final
class Objective:
    """The closure as a function of one flat vector.

    This is the only code that knows that the parameters are a list of tensors. It gathers and writes flat vectors, counts every evaluation, and adds what the
    optimizer's options add to the closure's loss: the sign of ``maximize``, the weight-decay term ``0.5 * weight_decay * |x|^2``, the average over ranks.

    Attributes:
        layout: Where each parameter sits in the flat vector.
        space: Inner products of flat vectors.
        counts: Evaluations so far.
        best: The finite point of least loss evaluated since the caller last set it to None.

    Args:
        groups: The optimizer's live ``param_groups``; ``weight_decay`` is read from them at every evaluation.
        maximize: Whether the closure's loss is to be maximized.
        hessian: ``"exact"`` for reverse-over-reverse products, ``"differences"`` for central differences of gradients.
        process_group: Ranks over which loss and gradient are reduced; None communicates nothing.
        reduction: ``"mean"`` (as DDP does) or ``"sum"`` over the ranks.
    """

    def __init__(
        self,
        groups: Sequence[ParamGroup],
        *,
        maximize: bool = False,
        hessian: str = "exact",
        process_group: dist.ProcessGroup | None = None,
        reduction: str = "mean",
    ) -> None:
        if hessian not in ("exact", "differences"):
            raise ValueError(f"Expected hessian to be 'exact' or 'differences', got {hessian!r}.")
        if reduction not in ("mean", "sum"):
            raise ValueError(f"Expected reduction to be 'mean' or 'sum', got {reduction!r}.")
        self._groups = groups
        self._decays: list[tuple[slice, float]] = []
        self._sign = -1.0 if maximize else 1.0
        self._differences = hessian == "differences"
        self._process_group = process_group
        self._mean_over_ranks = reduction == "mean"
        self.layout = Layout(groups)
        self.space: Space = LocalSpace()
        self.counts = Counts()
        self.best: Point | None = None
        self._closure: Closure | None = None
        self._current: Point | None = None
        self._current_versions: tuple[int, ...] = ()
        self._gradient_graph: list[Tensor | None] | None = None
        self._graph_versions: tuple[int, ...] = ()
        self._graph_x = torch.empty(0)

    def bind(self, closure: Closure, groups: Sequence[ParamGroup]) -> None:
        """Use ``closure`` with the options in ``groups`` from now on.

        Another closure object than before, or another weight decay, is another objective: nothing known is reused.
        """
        self._groups = groups
        decays = self.layout.per_group(groups, "weight_decay")
        if not _is_same(closure, self._closure) or decays != self._decays:
            self.forget()
        self._closure, self._decays = closure, decays

    def forget(self) -> None:
        """Drop what is known of the current point, so that ``here`` evaluates again."""
        self._current = None
        self._gradient_graph = None

    def here(self) -> Point:
        """The evaluation at the present parameters; free when it is known already.

        It is known when the parameters were evaluated last by the same closure object, with a finite result, and neither their versions nor their values
        changed since.
        """
        x = self.layout.gather()
        known = self._current
        if known is not None and known.is_finite and self.layout.versions() == self._current_versions and torch.equal(known.x, x):
            return known
        return self._evaluate(x)

    def at(self, x: Tensor) -> Point:
        """Write ``x``, shape ``(n,)``, into the parameters and evaluate there. The point holds what the parameters hold, rounded where they are narrower."""
        self.forget()  # a closure that raises leaves the parameters here, unevaluated
        self.layout.write(x)
        return self._evaluate(self.layout.gather() if self.layout.rounds else x)

    def write(self, point: Point) -> None:
        """Put the parameters at an evaluated point; free when they are there."""
        if self._current is not point:
            self.layout.write(point.x)
            self._remember(point)

    def hessian_times(self, v: Tensor) -> Tensor:
        """The Hessian product ``B v`` at the present parameters.

        Exact products differentiate the gradient (reverse over reverse) and keep its graph until the parameters change, so repeated products cost about one
        gradient each. With ``hessian="differences"``, ``(g(x + h v) - g(x - h v)) / 2h`` with ``h = eps^(1/3) max(1, |x|) / |v|``, counted as two gradients.

        Args:
            v: Vector of shape ``(n,)``.

        Returns:
            ``B v``, shape ``(n,)``, with the weight-decay term.

        Raises:
            RuntimeError: The closure calls ``backward`` itself or its model is compiled, and ``hessian="exact"``.
        """
        if self._differences:
            return self._difference_product(v)
        gradient = self._gradient_with_graph()
        pairs = [(g, w) for g, w in zip(gradient, self.layout.split(v), strict=True) if g is not None and g.requires_grad]
        product: Sequence[Tensor | None] = [None] * len(gradient)
        if pairs:
            outputs, directions = zip(*pairs, strict=True)
            with _explained():
                product = torch.autograd.grad(outputs, self.layout.parameters, directions, retain_graph=True, allow_unused=True)
        self.counts = replace(self.counts, hessian_products=self.counts.hessian_products + 1)
        flat = self._reduced(self.layout.flatten_like(product)) * self._sign
        for part, decay in self._active_decays():
            flat[part] += decay * v[part]
        return flat

    def learning_rate(self) -> float:
        """The largest ``lr`` of the groups: it scales the first trial step of every search."""
        return max(float(group["lr"]) for group in self._groups)

    def initial_scales(self) -> Tensor:
        """Each group's ``lr`` over the largest, spread over its parameters, shape ``(n,)``: the shape of the initial inverse Hessian.

        Raises:
            ValueError: Some groups have ``lr`` 0 and some have not: such a block could never move.
        """
        largest = self.learning_rate()
        if any(float(group["lr"]) == 0.0 for group in self._groups):
            raise ValueError("Expected lr > 0 in every group when the curvature is set, got lr=0 in some. Freeze a group with requires_grad_(False).")
        scales = torch.ones(self.layout.size, dtype=self.layout.dtype, device=self.layout.device)
        for part, lr in self.layout.per_group(self._groups, "lr"):
            scales[part] = lr / largest
        return scales

    def _evaluate(self, x: Tensor) -> Point:
        reported = self._run_closure()
        gradient = self.layout.gather_grads()
        self.counts = replace(self.counts, losses=self.counts.losses + 1, gradients=self.counts.gradients + 1)
        loss = reported.to(self.layout.device, torch.promote_types(self.layout.dtype, reported.dtype))
        if self._process_group is not None:
            joint = self._reduced(torch.cat([gradient.to(loss.dtype), loss.reshape(1)]))
            gradient, loss = joint[:-1].to(gradient.dtype), joint[-1]
            reported = loss.to(reported.dtype)
        if self._sign < 0:
            gradient, loss = -gradient, -loss
        for part, decay in self._active_decays():
            loss = loss + 0.5 * decay * torch.dot(x[part], x[part])
            gradient[part] += decay * x[part]
        number, largest = torch.stack([loss, gradient.abs().amax().to(loss.dtype)]).tolist()
        point = Point(x, number, gradient, largest, reported)
        self._remember(point)
        return point

    def _run_closure(self) -> Tensor:
        """The closure's loss, detached, with the gradients left in ``.grad``; ``backward`` is called here unless the closure did."""
        self._clear_gradients()
        with torch.enable_grad(), _watch_backward(self.layout.parameters) as arrived:
            loss = self._call_closure()
            if not arrived and not self._was_assigned():
                self._backward(loss)
        return loss.detach().reshape(()).clone()  # a closure may write its next loss into the same tensor

    def _was_assigned(self) -> bool:
        """Whether the closure wrote its own gradients, as after ``torch.autograd.grad``. All zeros are a reset: the loss has still to be differentiated."""
        return any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in self.layout.parameters)

    def _call_closure(self) -> Tensor:
        if self._closure is None:
            raise RuntimeError("Expected a closure before the first evaluation, got none. Call step(closure).")
        loss = self._closure()
        if isinstance(loss, numbers.Real) and not isinstance(loss, bool):
            loss = torch.tensor(float(loss), dtype=self.layout.dtype, device=self.layout.device)
        if not isinstance(loss, Tensor):
            raise TypeError(f"Expected the closure to return the loss, got {type(loss).__name__}. End it with `return loss`.")
        if loss.numel() != 1 or loss.is_complex():
            raise ValueError(f"Expected a loss of one real number, got shape {tuple(loss.shape)} and {loss.dtype}. Reduce it with .mean() or .sum().")
        return loss

    def _backward(self, loss: Tensor) -> None:
        if torch.is_inference_mode_enabled():
            raise RuntimeError("No gradient can be had in inference mode. Call step outside torch.inference_mode().")
        if not loss.requires_grad:
            raise RuntimeError("The closure returned a loss without a graph and did not call backward. Return the loss tensor itself, not loss.item().")
        self._clear_gradients()
        torch.autograd.backward(loss.reshape(()), inputs=self.layout.parameters)
        if all(parameter.grad is None for parameter in self.layout.parameters):
            raise RuntimeError("No trainable parameter is reached by the loss. Check that the closure uses the parameters given to the optimizer.")

    def _clear_gradients(self) -> None:
        for parameter in self.layout.parameters:
            parameter.grad = None

    def _gradient_with_graph(self) -> list[Tensor | None]:
        """The gradient at the present parameters with its graph, kept until they change."""
        x = self.layout.gather()
        if self._gradient_graph is not None and self.layout.versions() == self._graph_versions and torch.equal(x, self._graph_x):
            return self._gradient_graph
        self._clear_gradients()
        with torch.enable_grad(), _watch_backward(self.layout.parameters) as arrived:
            loss = self._call_closure()
            if arrived or not loss.requires_grad:
                raise RuntimeError(f"Exact Hessian products need a closure that only returns the loss; this one called backward. {_DIFFERENCES_REMEDY}")
            with _explained():
                gradient = torch.autograd.grad(loss, self.layout.parameters, create_graph=True, allow_unused=True)
        self.counts = replace(self.counts, losses=self.counts.losses + 1, gradients=self.counts.gradients + 1)
        self._gradient_graph, self._graph_versions, self._graph_x = list(gradient), self.layout.versions(), x
        return self._gradient_graph

    def _difference_product(self, v: Tensor) -> Tensor:
        base = self.here()
        length = self.space.norm(v)
        if length == 0.0:
            return torch.zeros_like(v)
        h: float = torch.finfo(v.dtype).eps ** (1 / 3) * max(1.0, self.space.norm(base.x)) / length
        ahead, behind = self.at(base.x + h * v), self.at(base.x - h * v)
        self.write(base)
        return (ahead.grad - behind.grad) / (2.0 * h)

    def _active_decays(self) -> list[tuple[slice, float]]:
        return [(part, decay) for part, decay in self._decays if decay != 0.0]

    def _reduced(self, joint: Tensor) -> Tensor:
        """The sum or mean over the ranks; itself without a process group."""
        if self._process_group is None:
            return joint
        dist.all_reduce(joint, group=self._process_group)
        if self._mean_over_ranks:
            joint /= dist.get_world_size(self._process_group)
        return joint

    def _remember(self, point: Point) -> None:
        self._current = point
        self._current_versions = self.layout.versions()
        self._gradient_graph = None
        if point.is_finite and (self.best is None or point.loss < self.best.loss):
            self.best = point


@contextmanager
def _explained() -> Iterator[None]:
    """Add the remedy to what torch says when a second derivative cannot be had."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(f"The gradient cannot be differentiated again (a compiled model?). {_DIFFERENCES_REMEDY}") from error


def _is_same(one: Closure, other: Closure | None) -> bool:
    """Whether two closures are one object; a bound method is a new object at each access, so its parts are compared."""
    if isinstance(one, MethodType) and isinstance(other, MethodType):
        return one.__self__ is other.__self__ and one.__func__ is other.__func__
    return one is other


@contextmanager
def _watch_backward(parameters: Sequence[Tensor]) -> Iterator[list[bool]]:
    """Yields a list that is non-empty once a gradient was accumulated into one of the parameters."""
    arrived: list[bool] = []

    def note(_: Tensor) -> None:
        arrived.append(True)

    handles = [parameter.register_post_accumulate_grad_hook(note) for parameter in parameters]  # type: ignore[no-untyped-call]
    try:
        yield arrived
    finally:
        for handle in handles:
            handle.remove()
