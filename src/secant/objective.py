"""The border with torch: evaluates the closure, counts, and speaks in flat vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor

from secant.closures import Closure, backward, is_same, loss_of, watch_backward, were_assigned
from secant.jacobians import pulled, pushed
from secant.layout import Layout, ParamGroup
from secant.residuals import SumOfSquares, half_sum_of_squares
from secant.space import LocalSpace, Space
from secant.step import Point

HessianProduct = Callable[[Tensor], Tensor]

T = TypeVar("T")
_Gradient = list[Tensor | None]

_DIFFERENCES_REMEDY = "Return the loss without calling backward (of the uncompiled model), or build the method with hessian='differences'."


@dataclass(frozen=True, slots=True)
class Counts:
    """How often the closure was used, each time a whole pass over its data.

    Attributes:
        losses: Evaluations of the loss, or of the residuals it is made of.
        gradients: Gradients.
        hessian_products: Products with the Hessian, or with ``J' J``.
        jacobians: Jacobians of the residuals.
    """

    losses: int = 0
    gradients: int = 0
    hessian_products: int = 0
    jacobians: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, earlier: Counts) -> Counts:
        """What was added since."""
        return Counts(*(mine - its for mine, its in zip(astuple(self), astuple(earlier), strict=True)))


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
        hessian: ``"exact"`` for reverse-over-reverse products, ``"differences"`` for central differences of gradients, ``"auto"`` for differences where the
            closure calls ``backward`` and exact products elsewhere.
        keeps_graph: Keep the graph of every gradient, so that exact Hessian products at the point evaluated last need no evaluation of their own. For methods
            that ask for products at every point; costs the memory of the graph, and evaluations take somewhat longer.
        process_group: Ranks over which loss and gradient are reduced; None communicates nothing.
        reduction: ``"mean"`` (as DDP does) or ``"sum"`` over the ranks.
    """

    def __init__(
        self,
        groups: Sequence[ParamGroup],
        *,
        maximize: bool = False,
        hessian: str = "exact",
        keeps_graph: bool = False,
        process_group: dist.ProcessGroup | None = None,
        reduction: str = "mean",
    ) -> None:
        if hessian not in ("auto", "exact", "differences"):
            raise ValueError(f"Expected hessian to be 'auto', 'exact' or 'differences', got {hessian!r}.")
        if reduction not in ("mean", "sum"):
            raise ValueError(f"Expected reduction to be 'mean' or 'sum', got {reduction!r}.")
        self._groups = groups
        self._decays: list[tuple[slice, float]] = []
        self._sign = -1.0 if maximize else 1.0
        self._hessian = hessian
        self._keeps_graph = keeps_graph and hessian != "differences"
        self._calls_backward = False
        self._process_group = process_group
        self._mean_over_ranks = reduction == "mean"
        self.layout = Layout(groups)
        self._like = torch.empty(0, dtype=self.layout.dtype, device=self.layout.device)
        self.space: Space = LocalSpace()
        self.counts = Counts()
        self.best: Point | None = None
        self._closure: Closure | None = None
        self._current: Point | None = None
        self._current_versions: tuple[int, ...] = ()
        self._graph: tuple[Point, _Gradient] | None = None
        self._tried: Tensor | None = None
        self._rows: tuple[Point, list[tuple[Tensor, Tensor]]] | None = None

    def bind(self, closure: Closure, groups: Sequence[ParamGroup]) -> None:
        """Use ``closure`` with the options in ``groups`` from now on.

        Another closure object than before, or another weight decay, is another objective: nothing known is reused.
        """
        self._groups = groups
        decays = self.layout.per_group(groups, "weight_decay")
        if not is_same(closure, self._closure) or decays != self._decays:
            self.forget()
        self._closure, self._decays = closure, decays
        if isinstance(closure, SumOfSquares):
            closure.differentiate_by(self.layout.parameters)

    def forget(self) -> None:
        """Drop what is known of the current point, so that ``here`` evaluates again."""
        self._current = None
        self._graph = None
        self._rows = None
        self._drop_trial()

    def here(self) -> Point:
        """The evaluation at the present parameters; free when it is known already.

        It is known when the parameters were evaluated last by the same closure object, with a finite result, and neither their versions nor their values
        changed since.
        """
        x = self.layout.gather()
        known = self._current
        if known is not None and known.is_finite and self.layout.versions() == self._current_versions and torch.equal(known.x, x):
            return known
        self._drop_trial()
        return self._evaluate(x)

    def at(self, x: Tensor) -> Point:
        """Write ``x``, shape ``(n,)``, into the parameters and evaluate there. The point holds what the parameters hold, rounded where they are narrower."""
        if x is not self._tried:
            self.forget()  # a closure that raises leaves the parameters here, unevaluated
            self.layout.write(x)
        return self._evaluate(self.layout.gather() if self.layout.rounds else x)

    def write(self, point: Point) -> None:
        """Put the parameters at an evaluated point; free when they are there."""
        if self._current is not point:
            self._drop_trial()
            self.layout.write(point.x)
            self._remember(point)

    def moved_to(self, point: Point) -> None:
        """Take note that somebody else put the parameters at an evaluated point."""
        self._remember(point)

    @property
    def takes_differences(self) -> bool:
        """Whether Hessian products are differences of gradients."""
        return self._hessian == "differences" or (self._hessian == "auto" and self._calls_backward)

    def hessian_times(self, v: Tensor) -> Tensor:
        """The Hessian product ``B v`` at the present parameters, shape ``(n,)``; see :meth:`hessian_at`."""
        return self.hessian_at(self.here())(v)

    def hessian_at(self, point: Point) -> HessianProduct:
        """Products with the Hessian at an evaluated point; they stay what they are wherever the parameters go.

        Exact products differentiate the gradient (reverse over reverse), whose graph is kept as long as the function that is returned; each costs about one
        gradient. The graph is that of the evaluation itself with ``keeps_graph``, while the point is the last one evaluated; else the closure is called once
        more, at ``point``. By differences a product is ``(g(x + h v) - g(x - h v)) / 2h`` with ``h = eps^(1/3) max(1, |x|) / |v|``, counted as
        two gradients.

        Args:
            point: Evaluated with the present closure and weight decay.

        Returns:
            The function ``v -> B v`` of vectors of shape ``(n,)``, with the weight-decay term. The parameters stand afterwards where they stood.

        Raises:
            RuntimeError: The closure calls ``backward`` itself or its model is compiled, and ``hessian="exact"``.
        """
        if self.takes_differences:
            return partial(self._difference_product, point)
        if self._graph is None or self._graph[0] is not point:
            self._graph = point, self._staying(lambda: self._differentiable_gradient(point))
        return partial(self._exact_product, self._graph[1])

    @property
    def residuals(self) -> SumOfSquares:
        """The residuals that the loss is made of.

        Raises:
            TypeError: The closure returns a loss.
        """
        if not isinstance(self._closure, SumOfSquares):
            raise TypeError("Expected residuals, got a closure that returns a loss. Use LevenbergMarquardt or GaussNewton, whose step takes the residuals.")
        return self._closure

    @property
    def row_count(self) -> int:
        """The number of residuals that were evaluated last, with those that stand for the weight decay."""
        decayed: int = sum(part.stop - part.start for part, _ in self._active_decays())
        return self.residuals.size + decayed

    def trial(self, x: Tensor) -> Tensor:
        """The residuals at ``x``, shape ``(N,)``, without a gradient; ``at(x)`` afterwards adds just that where it can.

        A weight decay ``d`` is so many more residuals ``sqrt(d) x`` here and below, so that half their sum of squares is the minimized number.
        """
        self.forget()
        self.layout.write(x)
        r = self.residuals.values()
        self._tried = x
        self.counts = replace(self.counts, losses=self.counts.losses + 1)
        return torch.cat([r, *(math.sqrt(decay) * x[part] for part, decay in self._active_decays())])

    def linearized_at(self, x: Tensor) -> Point:
        """The evaluation at ``x`` by the Jacobian, which is kept for ``row_blocks`` at that point: no backward pass for the gradient alone."""
        is_known = x is self._tried
        if not is_known:
            self.forget()
            self.layout.write(x)
        blocks = list(self.residuals.linearized(self.layout.parameters, self.layout.size))
        losses = self.counts.losses + (not is_known)
        self.counts = replace(self.counts, losses=losses, gradients=self.counts.gradients + 1, jacobians=self.counts.jacobians + 1)
        reported = half_sum_of_squares([r for r, _ in blocks])
        gradient = torch.stack([J.T @ r for r, J in blocks]).sum(0).to(self.layout.dtype)
        point = self._completed(self.layout.gather() if self.layout.rounds else x, reported, gradient)
        self._rows = point, blocks
        return point

    def row_blocks(self, point: Point) -> Iterator[tuple[Tensor, Tensor]]:
        """The residuals at an evaluated point, shape ``(rows,)``, and their Jacobian, shape ``(rows, n)``, block after block."""
        if self._rows is not None and self._rows[0] is point:
            blocks, self._rows = self._rows[1], None
            yield from blocks
        else:
            self.write(point)
            self.counts = replace(self.counts, jacobians=self.counts.jacobians + 1)
            yield from self.residuals.linearized(self.layout.parameters, self.layout.size)
        for part, decay in self._active_decays():
            x = point.x[part]
            J = x.new_zeros(x.numel(), self.layout.size)
            J[:, part].diagonal().fill_(math.sqrt(decay))
            yield math.sqrt(decay) * x, J

    def jacobian_times(self, point: Point, v: Tensor) -> Tensor:
        """``J v`` at an evaluated point, shape ``(N,)``, without the Jacobian. Cost: one evaluation with a backward pass and one through that."""
        self.write(point)
        pieces = [pushed(block, self.layout.parameters, self.layout.split(v)) for block in self.residuals.graphs()]
        return torch.cat([*pieces, *(math.sqrt(decay) * v[part] for part, decay in self._active_decays())])

    def jacobian_transposed_times(self, point: Point, u: Tensor) -> Tensor:
        """``J' u`` at an evaluated point, shape ``(n,)``, for ``u`` of shape ``(N,)``, without the Jacobian. Cost: one evaluation with its backward pass."""
        self.write(point)
        total, start = torch.zeros_like(point.x), 0
        for block in self.residuals.graphs():
            piece, start = u[start : start + block.numel()], start + block.numel()
            total += self.layout.flatten_like(pulled(block, self.layout.parameters, piece))
        for part, decay in self._active_decays():
            piece, start = u[start : start + part.stop - part.start], start + part.stop - part.start
            total[part] += math.sqrt(decay) * piece
        return total

    def gauss_newton_times(self, point: Point, v: Tensor) -> Tensor:
        """``J' J v`` at an evaluated point, shape ``(n,)``, without the Jacobian. Cost: an evaluation, two backward passes and one through the first."""
        self.write(point)
        self.counts = replace(self.counts, hessian_products=self.counts.hessian_products + 1)
        total = torch.zeros_like(v)
        for block in self.residuals.graphs():
            image = pushed(block, self.layout.parameters, self.layout.split(v))
            total += self.layout.flatten_like(pulled(block, self.layout.parameters, image))
        for part, decay in self._active_decays():
            total[part] += decay * v[part]
        return total

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
        is_known = self._tried is not None and self.residuals.is_kept  # a trial whose residuals wait for their gradient
        reported, graph = self._run_closure()
        gradient = self.layout.gather_grads()
        self.counts = replace(self.counts, losses=self.counts.losses + (not is_known), gradients=self.counts.gradients + 1)
        point = self._completed(x, reported, gradient)
        self._graph = None if graph is None else (point, graph)
        return point

    def _completed(self, x: Tensor, reported: Tensor, gradient: Tensor) -> Point:
        """The point at ``x``, from the closure's loss and gradient and what the options add to them."""
        self._tried = None
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
        number, largest = torch.stack([loss, torch.linalg.vector_norm(gradient, math.inf).to(loss.dtype)]).tolist()
        point = Point(x, number, gradient, largest, reported)
        self._remember(point)
        return point

    def _run_closure(self) -> tuple[Tensor, _Gradient | None]:
        """The closure's loss, detached, with the gradients left in ``.grad``; ``backward`` is called here unless the closure did.

        With ``keeps_graph`` also the gradients with their graph, unless the closure called ``backward``.
        """
        self._clear_gradients()
        graph = None
        with torch.enable_grad(), watch_backward(self.layout.parameters) as arrived, self._outliving_writes(self._keeps_graph):
            loss = self._call_closure()
            self._calls_backward = bool(arrived) or were_assigned(self.layout.parameters)
            if not self._calls_backward:
                backward(loss, self.layout.parameters, create_graph=self._keeps_graph)
                graph = self._taken_graph() if self._keeps_graph else None
        return loss.detach().reshape(()).clone(), graph  # a closure may write its next loss into the same tensor

    def _call_closure(self) -> Tensor:
        if self._closure is None:
            raise RuntimeError("Expected a closure before the first evaluation, got none. Call step(closure).")
        return loss_of(self._closure, self._like)

    def _clear_gradients(self) -> None:
        for parameter in self.layout.parameters:
            parameter.grad = None

    def _taken_graph(self) -> _Gradient:
        """The gradients with their graph; ``.grad`` keeps the numbers alone."""
        gradient = [parameter.grad for parameter in self.layout.parameters]
        for parameter, g in zip(self.layout.parameters, gradient, strict=True):
            parameter.grad = None if g is None else g.detach()
        return gradient

    def _differentiable_gradient(self, point: Point) -> _Gradient:
        """The gradient at ``point`` with its graph, by one more evaluation there."""
        self.write(point)
        self._clear_gradients()
        with torch.enable_grad(), watch_backward(self.layout.parameters) as arrived, self._outliving_writes(True):
            loss = self._call_closure()
            if arrived or not loss.requires_grad:
                raise RuntimeError(f"Exact Hessian products need a closure that only returns the loss; this one called backward. {_DIFFERENCES_REMEDY}")
            with _explained():
                gradient = torch.autograd.grad(loss, self.layout.parameters, create_graph=True, allow_unused=True)
        self.counts = replace(self.counts, losses=self.counts.losses + 1, gradients=self.counts.gradients + 1)
        return list(gradient)

    def _exact_product(self, gradient: _Gradient, v: Tensor) -> Tensor:
        pairs = [(g, w.to(g.dtype, copy=True)) for g, w in zip(gradient, self.layout.split(v), strict=True) if g is not None and g.requires_grad]
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

    def _difference_product(self, point: Point, v: Tensor) -> Tensor:
        length = self.space.norm(v)
        if length == 0.0:
            return torch.zeros_like(v)
        h: float = torch.finfo(v.dtype).eps ** (1 / 3) * max(1.0, self.space.norm(point.x)) / length
        ahead, behind = self._staying(lambda: (self.at(point.x + h * v), self.at(point.x - h * v)))
        return (ahead.grad - behind.grad) / (2.0 * h)

    def _staying(self, work: Callable[[], T]) -> T:
        """What ``work`` returns; the parameters stand afterwards where they stood."""
        before, x = self._current, self.layout.gather()
        try:
            return work()
        finally:
            if before is not None:
                self.write(before)
            else:
                self.layout.write(x)

    def _outliving_writes(self, wanted: bool) -> AbstractContextManager[object]:
        """Graphs made inside hold copies of the parameters where they need their values: writing to the parameters does not spoil them."""
        if not wanted:
            return nullcontext()
        owned = {parameter.untyped_storage().data_ptr() for parameter in self.layout.parameters}
        return torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone() if t.untyped_storage().data_ptr() in owned else t, lambda t: t)

    def _drop_trial(self) -> None:
        """Forget the residuals that waited for their gradient: the parameters are about to stand elsewhere."""
        if self._tried is not None:
            self._tried = None
            self.residuals.forget()

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
        if point.is_finite and (self.best is None or point.loss < self.best.loss):
            self.best = point


@contextmanager
def _explained() -> Iterator[None]:
    """Add the remedy to what torch says when a second derivative cannot be had."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(f"The gradient cannot be differentiated again (a compiled model?). {_DIFFERENCES_REMEDY}") from error
