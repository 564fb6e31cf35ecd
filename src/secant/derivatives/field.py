"""A network as a function of coordinates, with its derivatives."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from secant.derivatives.algebra import Algebra, Index, algebra_of, terms_of
from secant.derivatives.fallback import check_points_apart, nested_derivatives
from secant.derivatives.jet import Jet, lifted
from secant.derivatives.names import Name, coordinate_names, index_of
from secant.derivatives.refusals import CoupledPointsError, KinkError, NotUnderstoodError
from secant.notice import warn_user


@final
class Field:
    """A network as a function of named coordinates, with its partial derivatives up to fourth order.

    The derivatives are carried forward through the network beside the values: one pass, and every linear layer stays one matrix product. That works for any
    module or function of torch made of linear layers, smooth elementwise functions, arithmetic, concatenation, indexing and reductions over features, layer
    norm and softmax. Whatever else it meets (convolutions, attention, writes in place, custom autograd functions) is differentiated by nested automatic
    differentiation instead, which is several times slower; a warning says so once and names the operation.

    Example:
        >>> import torch
        >>> class Wave(torch.nn.Module):
        ...     def forward(self, points):
        ...         return torch.sin(points[:, 1:] - 3.0 * points[:, :1])
        >>> field = Field(Wave(), "tx")
        >>> points = torch.rand(5, 2, dtype=torch.float64)
        >>> u_tt, u_xx = field.derivatives(points, ("tt", "xx"))
        >>> u_tt.shape, torch.allclose(u_tt, 9.0 * u_xx)
        (torch.Size([5]), True)

    Args:
        network: From inputs ``(N, inputs)`` to outputs ``(N, m)`` or ``(N,)``; a point's output may depend on that point only. Of a compiled module, the module
            itself is used: compile the loss instead.
        coordinates: One name per column of the points: letters in one string, ``"tx"``, or a sequence of names, ``("time", "x")``.
        input_transform: Turns points ``(N, d)`` into the network's inputs ``(N, inputs)``, for instance Fourier features.
        output_transform: Turns points and the network's outputs into the field's values, ``(N, m)`` or ``(N,)``, for instance to meet boundary conditions. Both
            are ordinary torch code, and the derivatives are those of the whole.

    Raises:
        ValueError: For coordinates without names, or with equal ones.

    Source:
        Taylor arithmetic in several variables, Griewank & Walther (2008), chapter 13; the Laplacian is one channel for all dimensions, as in the forward
        Laplacian of Li et al. (2024), Nature Machine Intelligence 6, 209.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        coordinates: str | Sequence[str],
        *,
        input_transform: Callable[[Tensor], Tensor] | None = None,
        output_transform: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        if not callable(network):
            raise TypeError(f"A field needs a network that can be called with a tensor of inputs, got {type(network).__name__}.")
        self.network: Callable[[Tensor], Tensor] = getattr(network, "_orig_mod", network)
        self.coordinates = coordinate_names(coordinates)
        self.input_transform = input_transform
        self.output_transform = output_transform
        self._slow_because: str | None = None
        self._rehearsed = False
        self._points_apart: set[bool] = set()

    @property
    def slow_because(self) -> str | None:
        """Why this field is differentiated by nested automatic differentiation; None as long as the derivatives are carried forward."""
        return self._slow_because

    def __call__(self, points: Tensor) -> Tensor:
        """The values at the points.

        Args:
            points: Shape ``(N, d)``, real floating.

        Returns:
            Shape ``(N,)`` when the field has one output, else ``(N, m)``.
        """
        self.check_points(points)
        return _squeezed(self._function(points), 1)

    def derivatives(self, points: Tensor, names: Sequence[Name]) -> tuple[Tensor, ...]:
        """Partial derivatives at the points.

        Args:
            points: Shape ``(N, d)``, real floating.
            names: Which: ``""`` the value, ``"x"``, ``"tx"`` and so on to fourth order in any sequence of letters, ``"laplacian"`` the sum of the second
                derivatives by all coordinates. Where a coordinate has a longer name, a tuple of names: ``("time", "x")``. A mapping from names to numbers,
                such as ``{"t": 1.0, "xx": -0.1}``, is the weighted sum of these derivatives; up to second order it is carried as one, which saves the others.

        Returns:
            One tensor per name, of shape ``(N,)`` when the field has one output, else ``(N, m)``; differentiable by the network's parameters, twice too, and
            by the points if they require a gradient. Cost: that of the values times the number of derivatives carried, which are those asked for and all that
            they contain (``"xx"`` contains ``""`` and ``"x"``); the Laplacian in ``d`` dimensions takes ``d + 2``.

        Raises:
            ValueError: For unknown coordinates, an order above four, points or outputs of a wrong shape, points that the network mixes, and second or higher
                derivatives through a function with a kink such as ``relu``.
            TypeError: For points that are not real floating, or names in one string.
        """
        self.check_points(points)
        indices = self.indices(names)
        if not indices:
            return ()
        reason = self._slow_because
        if reason is None:
            carried = self._carried(points, names)
            if not isinstance(carried, str):
                return carried
            reason = carried
        results = nested_derivatives(self._function, points, indices)
        training = bool(getattr(self.network, "training", False))
        if training not in self._points_apart and len(points) > 1:
            check_points_apart(self._function, points)
            self._points_apart.add(training)
        if self._slow_because is None:
            self._slow_because = reason
            warn_user(
                f"This field is differentiated by nested automatic differentiation, several times slower than need be, because of {reason}. "
                "Write that part with linear layers, smooth elementwise functions, arithmetic and operations on features, or accept the cost."
            )
        return tuple(_squeezed(result, 1) for result in results)

    def indices(self, names: Sequence[Name]) -> tuple[Index, ...]:
        """The axes of the named derivatives, sorted within each.

        Raises:
            ValueError: For unknown coordinates, and an order above four.
            TypeError: For names in one string, or anything else that is not a sequence of names.
        """
        if isinstance(names, str):
            raise TypeError(f'Derivatives need a tuple of names, got the string {names!r}. Write ("{names}",) for this one.')
        if not isinstance(names, Sequence) or not all(isinstance(name, (str, tuple, Mapping)) for name in names):
            raise TypeError(f'Derivatives need a tuple of names such as ("", "{self.coordinates[0]}", "laplacian"), got {names!r}.')
        return tuple(index_of(name, self.coordinates) for name in names)

    def algebra(self, names: Sequence[Name]) -> Algebra:
        """What a jet must carry so that the named derivatives can be read off it."""
        return algebra_of(frozenset(self.indices(names)), len(self.coordinates))

    def lift(self, points: Tensor, algebra: Algebra) -> Jet:
        """The points as a jet: the first derivatives are unit vectors, and their sums accordingly."""
        tensor = points.new_zeros(len(algebra.indices), *points.shape)
        tensor[0] = points
        for channel, index in enumerate(algebra.indices):
            for term, weight in terms_of(index, len(self.coordinates)):
                if len(term) == 1:
                    tensor[channel, :, term[0]] = weight
        return Jet(tensor, algebra, torch.is_grad_enabled())

    def inputs(self, points: Jet) -> Jet:
        """The network's inputs; they do not depend on the network, so that they can be kept from call to call.

        Raises:
            NotUnderstoodError: When the transform needs an operation without a rule.
        """
        if self.input_transform is None:
            return points
        result: Any = self.input_transform(points)  # type: ignore[arg-type]
        return result if isinstance(result, Jet) else lifted(result, points)

    def outputs(self, points: Jet, inputs: Jet) -> Jet:
        """The field from the points and :meth:`inputs`.

        Raises:
            NotUnderstoodError: When the network or the transform needs an operation without a rule.
            ValueError: For outputs of a wrong shape.
        """
        result: Any = self.network(inputs)  # type: ignore[arg-type]
        if self.output_transform is not None:
            result = self.output_transform(points, result)  # type: ignore[arg-type]
        _check_outputs(result.value if isinstance(result, Jet) else result, len(points))
        return result if isinstance(result, Jet) else lifted(result, points)

    def read(self, jet: Jet, names: Sequence[Name]) -> tuple[Tensor, ...]:
        """The named derivatives off a jet of :meth:`outputs`."""
        channels = _squeezed(jet.tensor, 2).unbind(0)
        return tuple(self._channel(index, jet.algebra, channels) for index in self.indices(names))

    def check_points(self, points: Tensor) -> None:
        """Check points at the border.

        Raises:
            TypeError: For anything but a real floating tensor.
            ValueError: For a shape other than ``(N, d)``.
        """
        count = len(self.coordinates)
        if not isinstance(points, Tensor) or not points.is_floating_point():
            got = points.dtype if isinstance(points, Tensor) else type(points).__name__
            raise TypeError(f"A field needs points as a real floating tensor, got {got}. Convert them, for instance by points.double().")
        if points.ndim != 2 or points.shape[1] != count:
            raise ValueError(f"A field of {', '.join(self.coordinates)} needs points of shape (N, {count}), one column per name, got {tuple(points.shape)}.")

    def _function(self, points: Tensor) -> Tensor:
        outputs = self.network(points if self.input_transform is None else self.input_transform(points))
        if self.output_transform is not None:
            outputs = self.output_transform(points, outputs)
        _check_outputs(outputs, len(points))
        return outputs

    def _carried(self, points: Tensor, names: Sequence[Name]) -> tuple[Tensor, ...] | str:
        """The derivatives carried forward, or why they cannot be."""
        algebra = self.algebra(names)
        try:
            if not (torch.is_grad_enabled() or self._rehearsed):
                # A custom autograd function gives itself away by switching gradients off, which shows only where they are on.
                with torch.inference_mode(False), torch.enable_grad():
                    self._propagated(points[:1].clone(), algebra)
            jet = self._propagated(points, algebra)
        except (CoupledPointsError, KinkError, torch.OutOfMemoryError):
            raise
        except NotUnderstoodError as reason:
            return reason.operation
        except (TypeError, ValueError, AttributeError, RuntimeError, AssertionError, LookupError) as error:
            # Code that asks what its input is: if it fails on a tensor, too, the nested path will say so.
            return f"{type(error).__name__} ({textwrap.shorten(str(error), 120)})"
        self._rehearsed = True
        return self.read(jet, names)

    def _propagated(self, points: Tensor, algebra: Algebra) -> Jet:
        jet = self.lift(points, algebra)
        return self.outputs(jet, self.inputs(jet))

    def _channel(self, index: Index, algebra: Algebra, channels: Sequence[Tensor]) -> Tensor:
        if index in algebra.indices:
            return channels[algebra.position(index)]
        parts = [(channels[algebra.position(term)], weight) for term, weight in terms_of(index, len(self.coordinates))]
        return sum((weight * part for part, weight in parts[1:]), parts[0][1] * parts[0][0])


def _squeezed(outputs: Tensor, dim: int) -> Tensor:
    return outputs.squeeze(dim) if outputs.ndim == dim + 1 else outputs


def _check_outputs(outputs: Any, points: int) -> None:
    if not isinstance(outputs, Tensor):
        raise TypeError(f"A field needs a network that returns one tensor, got {type(outputs).__name__}. Wrap it in a function that returns the tensor.")
    if outputs.ndim not in (1, 2) or len(outputs) != points:
        raise ValueError(f"A field needs one row of outputs per point, shape ({points}, m) or ({points},), got {tuple(outputs.shape)}.")
