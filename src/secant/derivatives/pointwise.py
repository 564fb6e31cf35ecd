"""Residuals of an equation at points, with their Jacobian at the cost of a few passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from secant.derivatives.block import Block
from secant.derivatives.compiled_rows import CompiledRows
from secant.derivatives.field import Field
from secant.derivatives.names import Name
from secant.derivatives.refusals import NotUnderstoodError
from secant.derivatives.taps import Taps, jacobian_by_taps
from secant.jacobians import jacobian_of
from secant.residuals import Residual

Equation = Callable[..., Tensor]
"""``equation(points, *derivatives, *coefficients)`` returns ``(N,)`` or ``(N, m)``."""

_POINTS_TOGETHER = 16
"""Points whose residuals are differentiated by one vectorized backward pass where the layers cannot be tapped: every row goes through all of them."""


@final
class PointResidual(Residual):
    """The residuals of an equation at points: what it leaves where it should leave zero.

    Boundary and initial conditions and data are residuals too, usually with ``derivatives=("",)``.

    Args:
        field: The unknown function.
        points: Shape ``(N, d)``, one column per coordinate of the field.
        equation: ``equation(points, *derivatives, *coefficients)`` returns ``(N,)``, or ``(N, m)`` for ``m`` equations. Row ``i`` may depend on row ``i`` of
            its arguments only.
        derivatives: Which derivatives of the field the equation is given, in its order; see :meth:`Field.derivatives`.
        coefficients: Leaf tensors that are trained beside the network, such as unknown constants of the equation.
        scale: Multiplies the residual: a number, or one per point, shape ``(N,)``. With ``sqrt(2 / N)`` the loss ``0.5 * sum(r^2)`` is the mean of squares.
        compile: Compile what the Jacobian is made of, here and now: some tens of seconds on a processor, or a few where the cache on disk has the same program.

    Raises:
        TypeError: For points that are not real floating, and an equation that returns no tensor.
        ValueError: For points, residuals or scales of a wrong shape, unknown derivatives, and points that the network mixes.

    Example:
        >>> import torch
        >>> field = Field(torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double(), "x")
        >>> decay = PointResidual(field, torch.rand(5, 1).double(), lambda points, u, u_x: u_x + u, ("", "x"))
        >>> residual, jacobian = decay.linearize(slice(0, 5), list(field.network.parameters()))
        >>> residual.shape, jacobian.shape
        (torch.Size([5]), torch.Size([5, 25]))
    """

    def __init__(
        self,
        field: Field,
        points: Tensor,
        equation: Equation,
        derivatives: Sequence[Name],
        *,
        coefficients: Sequence[Tensor] = (),
        scale: float | Tensor = 1.0,
        compile: bool = False,
    ) -> None:
        field.check_points(points)
        _keep_freed_memory()
        self.field = field
        self.equation = equation
        self.derivatives = tuple(derivatives)
        self.coefficients = tuple(coefficients)
        self._algebra = field.algebra(self.derivatives)
        self._points = points.detach().clone()
        self._scale = _checked_scale(scale, self._points)
        self._inputs: Tensor | None = None
        self._inputs_versions: tuple[int, ...] = ()
        self._replacements = 0
        self._is_verified = False
        # One point settles what only the network and the equation know: the number of equations, and whether derivatives can be carried forward.
        probe = self._points[:1] if len(points) else points.new_zeros(1, points.shape[1])
        with torch.enable_grad():
            self._components = self._equation_at(probe, field.derivatives(probe, self.derivatives)).shape[1]
        self._compiled = CompiledRows(self._tapped, self.block, len(self._points), self._trained()) if compile else None

    @property
    def points(self) -> Tensor:
        """Where the equation is asked, shape ``(N, d)``."""
        return self._points

    @property
    def scale(self) -> float | Tensor:
        """What multiplies the residual: a number, or shape ``(N,)``."""
        return self._scale

    @property
    def components(self) -> int:
        """``m``, the number of residuals at each point."""
        return self._components

    @property
    def size(self) -> int:
        """``N m``, the number of residuals."""
        return len(self._points) * self._components

    @property
    def revision(self) -> tuple[int, ...]:
        """Changes whenever what is fixed at the points does."""
        return self._replacements, *self._versions()

    def replace_points(self, points: Tensor, *, scale: float | Tensor | None = None) -> None:
        """Ask the equation at other points from now on.

        An optimizer that keeps what it knows of the loss has to be told by ``optimizer.objective_changed()``.

        Args:
            points: Shape ``(N, d)``; their number may be another.
            scale: As in the constructor; None keeps the present one.

        Raises:
            TypeError: For points that are not real floating.
            ValueError: For a wrong shape, and when one scale per point is kept for another number of points.
        """
        self.field.check_points(points)
        self._scale = _checked_scale(self._scale if scale is None else scale, points)
        self._points = points.detach().clone()
        self._inputs = None
        self._replacements += 1

    def rows(self, rows: slice) -> Tensor:
        """The residuals ``r[rows]``, shape ``(rows,)``, with a graph to the parameters; those of one point are side by side."""
        points, within = self._points_of(rows)
        return self.at(points).reshape(-1)[within]

    def values(self, rows: slice) -> Tensor:
        """The same numbers without a graph, at half the cost where derivatives are carried forward."""
        with torch.set_grad_enabled(self.field.slow_because is not None):
            return self.rows(rows).detach()

    def at(self, points: slice) -> Tensor:
        """The residuals at some of the points, shape ``(points, m)``, with a graph to the parameters."""
        return self.evaluate(self.block(points))

    def block(self, points: slice) -> Block:
        """What is fixed at some of the points."""
        scale = self._scale[points, None] if isinstance(self._scale, Tensor) else self._scale
        inputs = self._fixed_inputs()
        return Block(self._points[points], None if inputs is None else inputs[:, points], scale)

    def evaluate(self, block: Block) -> Tensor:
        """The residuals of a block, shape ``(points, m)``, with a graph to the parameters."""
        return self._equation_at(block.points, self._derivatives_of(block)) * block.scale

    def linearize(self, rows: slice, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The residuals ``r[rows]`` and their Jacobian, without a graph; see :class:`secant.residuals.Residual`.

        Points do not act on each other, so that one backward pass of the sum gives the derivatives of every residual by the outputs of every linear layer; the
        derivatives by its weights are products of these with the layer's inputs. Cost: a forward pass, ``m`` backward passes and writing the Jacobian.
        Parameters that are neither in linear layers nor multiplied or added elementwise take a backward pass per element, and a field that is differentiated by
        nested automatic differentiation takes one per residual of a few points.

        Raises:
            ValueError: At the first call, when the Jacobian contradicts the gradient: points act on each other.
        """
        points, within = self._points_of(rows)
        with torch.enable_grad():
            r, J = self._linearized(points, parameters)
            if not self._is_verified and len(r):
                self._is_verified = self._verify(points, r, J, parameters)
        return r[within], J[within]

    def parameters(self) -> Iterator[Tensor]:
        """The coefficients and the parameters of whatever module takes part, trainable or not, each once."""
        parts = (self.field.network, self.field.input_transform, self.field.output_transform, self.equation)
        tensors = [parameter for part in parts if isinstance(part, nn.Module) for parameter in part.parameters()]
        yield from {id(tensor): tensor for tensor in (*tensors, *self.coefficients)}.values()

    def _derivatives_of(self, block: Block) -> tuple[Tensor, ...]:
        field = self.field
        if field.slow_because is None:
            try:
                points = field.lift(block.points, self._algebra)
                inputs = field.inputs(points) if block.inputs is None else points.with_tensor(block.inputs)
                return field.read(field.outputs(points, inputs), self.derivatives)
            except NotUnderstoodError:
                pass  # the field knows what to do, and says so
        return field.derivatives(block.points, self.derivatives)

    def _fixed_inputs(self) -> Tensor | None:
        """The channels of the network's inputs at all points, kept from call to call; None where they are trained, or are the points."""
        transform = self.field.input_transform
        if transform is None or self.field.slow_because is not None:
            return None
        versions = self._versions()
        if self._inputs is None or versions != self._inputs_versions:
            with torch.enable_grad():  # otherwise nothing would look trained
                inputs = self.field.inputs(self.field.lift(self._points, self._algebra)).tensor
            if inputs.requires_grad:
                return None
            self._inputs, self._inputs_versions = inputs, versions
        return self._inputs

    def _versions(self) -> tuple[int, ...]:
        return tuple(tensor._version for tensor in _tensors_of(self.field.input_transform))

    def _equation_at(self, points: Tensor, derivatives: tuple[Tensor, ...]) -> Tensor:
        values: Any = self.equation(points, *derivatives, *self.coefficients)
        if not isinstance(values, Tensor):
            raise TypeError(f"Expected the equation to return a tensor of shape (N,) or (N, m), got {type(values).__name__}. Stack several equations on dim=1.")
        if values.ndim not in (1, 2) or len(values) != len(points):
            raise ValueError(f"Expected the equation to return a row per point, shape ({len(points)},) or ({len(points)}, m), got {tuple(values.shape)}.")
        return values if values.ndim == 2 else values[:, None]

    def _linearized(self, points: slice, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        if self._compiled is not None:
            return self._compiled.linearized(points, parameters, self._trained())
        if self.field.slow_because is None:
            values, taps = self._tapped(self.block(points))
            if self.field.slow_because is None:
                return jacobian_by_taps(values, taps, parameters)
        few = range(points.start, points.stop, _POINTS_TOGETHER)
        pieces = [self.at(slice(start, min(start + _POINTS_TOGETHER, points.stop))).reshape(-1) for start in few] or [self.at(points).reshape(-1)]
        return torch.cat([r.detach() for r in pieces]), torch.cat([jacobian_of(r, parameters) for r in pieces])

    def _tapped(self, block: Block) -> tuple[Tensor, Taps]:
        """The residuals of a block, shape ``(points, m)``, with a graph to what was tapped on the way."""
        with Taps() as taps:
            derivatives = self._derivatives_of(block)
        return self._equation_at(block.points, derivatives) * block.scale, taps

    def _trained(self) -> list[Tensor]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def _verify(self, points: slice, r: Tensor, J: Tensor, parameters: Sequence[Tensor]) -> bool:
        """Whether ``J' r`` is the gradient of ``0.5 * sum(r^2)``; not decided where they are not finite."""
        plain = self.at(points).reshape(-1)
        if not plain.requires_grad or any(parameter.is_complex() for parameter in parameters):
            return True
        gradients = torch.autograd.grad(0.5 * torch.dot(plain, plain), parameters, allow_unused=True, materialize_grads=True)
        difference = torch.linalg.vector_norm(J.T @ r - torch.cat([gradient.reshape(-1) for gradient in gradients]).to(J.dtype))
        size = torch.linalg.vector_norm(J) * torch.linalg.vector_norm(r)
        if not bool(torch.isfinite(difference)):
            return False
        if float(difference) > torch.finfo(J.dtype).eps ** 0.5 * float(size):
            raise ValueError(
                f"A PointResidual needs points that do not act on each other, but its Jacobian contradicts its gradient by {float(difference / size):.1e}. "
                "Let row i of the equation and of the network depend on point i alone, without randomness, or pass the residual as an ordinary closure."
            )
        return True

    def _points_of(self, rows: slice) -> tuple[slice, slice]:
        """The points that the rows belong to, and where the rows stand among the residuals of these points."""
        start, stop, step = rows.indices(self.size)
        if step < 1:
            raise ValueError(f"Expected rows in increasing order, got {rows}.")
        stop = max(start, stop)
        points = slice(start // self._components, -(-stop // self._components))
        return points, slice(start - points.start * self._components, stop - points.start * self._components, step)


def _keep_freed_memory() -> None:
    """Let the C library keep what is freed, for the next block of points.

    glibc hands freed memory back to the system above a threshold that follows the largest piece it was given and got back so far, 32 MiB at most. Below it the
    first touch of every page in every temporary, a page fault each, costs as much as the arithmetic. The piece is never touched, so that it costs nothing.
    """
    torch.empty((1 << 25) - (1 << 16), dtype=torch.uint8)


def _tensors_of(function: object) -> Iterator[Tensor]:
    if isinstance(function, nn.Module):
        yield from function.parameters()
        yield from function.buffers()


def _checked_scale(scale: float | Tensor, points: Tensor) -> float | Tensor:
    if not isinstance(scale, Tensor):
        return float(scale)
    if scale.ndim == 0:
        return float(scale)
    if scale.shape != (len(points),):
        raise ValueError(f"Expected scale as a number or of shape ({len(points)},), one per point, got shape {tuple(scale.shape)}.")
    return scale.detach().to(points)
