"""The Jacobian of residuals at points, row by row, from what one backward pass leaves at every layer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from secant.derivatives.jet import Jet
from secant.jacobians import jacobian_of, real_size

_PRODUCTS = frozenset(("matmul", "mm", "__matmul__"))
_ELEMENTWISE = frozenset("add __add__ __radd__ sub subtract __sub__ rsub __rsub__ mul multiply __mul__ __rmul__ div divide true_divide __truediv__".split())  # noqa: SIM905

_POINTS_AT_ONCE = 512
"""Points whose products of a layer are formed together: what is summed over the channels stays in cache."""


@final
@dataclass(frozen=True, slots=True)
class Linear:
    """A weight of shape ``(outputs, inputs)``, or the transposed, and what went in and came out, shapes ``(channels, points, features)``."""

    weight: Tensor
    is_transposed: bool
    bias: Tensor | None
    inputs: Tensor
    outputs: Tensor


@final
@dataclass(frozen=True, slots=True)
class Copied:
    """A tensor that takes part elementwise, and its copy for each point."""

    source: Tensor
    copies: Tensor


@final
class Taps(TorchFunctionMode):
    """Notes the trained tensors that a network applies to jets: in linear layers, and elementwise.

    These enter the graph as constants or as copies, so that a backward pass stops at the layers' outputs and at the copies. Tensors that are used in another
    way stay in the graph.
    """

    def __init__(self) -> None:
        super().__init__()
        self.linear: list[Linear] = []
        self.copied: list[Copied] = []

    def __torch_function__(self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        options = dict(kwargs or {})
        values = (*args, *options.values())
        if not any(isinstance(value, Jet) for value in values):
            return func(*args, **options)
        if not any(_is_trained(value) for value in values):
            return Jet.__torch_function__(func, types, args, options)
        name = getattr(func, "__name__", "")
        if func is torch.nn.functional.linear and isinstance(args[0], Jet):
            return self._linear(*args, **options)
        if name in _PRODUCTS and isinstance(args[0], Jet) and args[0].value.ndim == 2 and args[1].ndim == 2 and not args[1].is_complex():
            product = args[0] @ args[1].detach()
            return self._noted(args[0], args[1], True, None, product)
        if name in _ELEMENTWISE:
            jet = next(value for value in args if isinstance(value, Jet))
            return Jet.__torch_function__(func, types, tuple(self._copied(value, jet) if _is_trained(value) else value for value in args), options)
        with self:  # layers that are written out in the operations above
            return Jet.__torch_function__(func, types, args, options)

    def _linear(self, input: Jet, weight: Tensor, bias: Tensor | None = None) -> Jet:
        if input.value.ndim != 2 or weight.is_complex():
            return torch.nn.functional.linear(input, weight, bias)  # type: ignore[arg-type, return-value]
        fixed: Any = torch.nn.functional.linear(input, weight.detach(), None if bias is None else bias.detach())  # type: ignore[arg-type]
        return self._noted(input, weight, False, bias, fixed)

    def _noted(self, inputs: Jet, weight: Tensor, is_transposed: bool, bias: Tensor | None, product: Jet) -> Jet:
        outputs = product.tensor if product.tensor.requires_grad else product.tensor.detach().requires_grad_()
        self.linear.append(Linear(weight, is_transposed, bias, inputs.tensor.detach(), outputs))
        return product.with_tensor(outputs)

    def _copied(self, source: Tensor, jet: Jet) -> Tensor:
        """One copy per point, so that the derivative by the copy is that of the point's own residual."""
        features = source.shape[source.ndim == jet.value.ndim :]
        if source.is_complex() or source.numel() != features.numel():
            return source  # it has a row per point
        shape = (len(jet), *(1,) * (jet.value.ndim - 1 - len(features)), *features)
        copies = source.detach().expand(shape).clone().requires_grad_()
        self.copied.append(Copied(source, copies))
        return copies


def _is_trained(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def jacobian_by_taps(values: Tensor, taps: Taps, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Residuals and their Jacobian, both without a graph.

    Args:
        values: The residuals, shape ``(points, m)``, with a graph to what was tapped; row ``i`` depends on point ``i`` only.
        taps: What was noted on the way.
        parameters: What to differentiate by; any of them may still be in the graph untapped, which takes a backward pass per element.

    Returns:
        Shapes ``(points * m,)`` and ``(points * m, n)``; the Jacobian's columns are contiguous.
    """
    columns = _Columns(parameters, values)
    untapped: dict[int, Tensor] = {}
    if values.requires_grad:
        all_taps: list[Linear | Copied] = [*taps.linear, *taps.copied]
        ends = [*(tap.outputs for tap in taps.linear), *(tap.copies for tap in taps.copied)]
        for component, value in enumerate(values.unbind(1)):
            gradients = torch.autograd.grad(value.sum(), [*ends, *parameters], retain_graph=True, allow_unused=True) if value.requires_grad else ()
            for tap, adjoint in zip(all_taps, gradients, strict=False):
                if adjoint is not None:
                    columns.add(tap, adjoint, component)
            untapped.update({id(p): p for p, adjoint in zip(parameters, gradients[len(ends) :], strict=False) if adjoint is not None})
        columns.add_untapped(values.reshape(-1), list(untapped.values()))
    return values.detach().reshape(-1), columns.jacobian()


def jacobian_of_adjoints(values: Tensor, adjoints: Sequence[tuple[Linear | Copied, Tensor, int]], parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The same from adjoints that are known, each with its tap and the component of the residual it belongs to."""
    columns = _Columns(parameters, values)
    for tap, adjoint, component in adjoints:
        columns.add(tap, adjoint, component)
    return values.detach().reshape(-1), columns.jacobian()


@final
class _Columns:
    """The Jacobian while it is written, transposed: shape ``(n, points, m)``."""

    def __init__(self, parameters: Sequence[Tensor], values: Tensor) -> None:
        sizes = [real_size(parameter) for parameter in parameters]
        ends = list(itertools.accumulate(sizes, initial=0))
        self._parameters = parameters
        self._places = {id(parameter): slice(start, stop) for parameter, (start, stop) in zip(parameters, itertools.pairwise(ends), strict=True)}
        self._transposed = values.new_zeros(ends[-1], *values.shape)

    def add(self, tap: Linear | Copied, adjoint: Tensor, component: int) -> None:
        """Add the rows that a tap's adjoint makes."""
        if isinstance(tap, Copied):
            self._add(tap.source, adjoint.reshape(len(adjoint), tap.source.numel()).T, component)
            return
        if tap.bias is not None and tap.bias.requires_grad:
            self._add(tap.bias, adjoint[0].T, component)
        if tap.weight.requires_grad:
            left, right = (tap.inputs, adjoint) if tap.is_transposed else (adjoint, tap.inputs)
            place = self._places.get(id(tap.weight))
            if place is not None:
                _add_products(self._transposed[place, :, component].view(*tap.weight.shape, adjoint.shape[1]), left, right)
            elif not tap.weight.is_leaf:
                products = adjoint.new_zeros(*tap.weight.shape, adjoint.shape[1])
                _add_products(products, left, right)
                self._add(tap.weight, products.flatten(0, 1), component)

    def add_untapped(self, r: Tensor, parameters: Sequence[Tensor]) -> None:
        """Add what the graph itself still knows of some parameters."""
        if parameters:
            pieces = torch.split(jacobian_of(r, parameters), [real_size(parameter) for parameter in parameters], dim=1)
            for parameter, piece in zip(parameters, pieces, strict=True):
                self._transposed[self._places[id(parameter)]] += piece.T.reshape(-1, *self._transposed.shape[1:])

    def jacobian(self) -> Tensor:
        """Shape ``(points * m, n)``."""
        return self._transposed.flatten(1).T

    def _add(self, tensor: Tensor, columns: Tensor, component: int) -> None:
        """Add the derivatives by a tensor, shape ``(elements, points)``; those of one that is computed from parameters go on to these."""
        place = self._places.get(id(tensor))
        if place is not None:
            self._transposed[place, :, component] += columns
        elif not tensor.is_leaf:
            directions = columns.T.reshape(-1, *tensor.shape)
            rows = torch.autograd.grad(tensor, self._parameters, directions, retain_graph=True, allow_unused=True, is_grads_batched=True)
            for parameter, row in zip(self._parameters, rows, strict=True):
                if row is not None:
                    self._add(parameter, row.reshape(len(row), parameter.numel()).T, component)


def _add_products(products: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``sum_c left[c, :, i] right[c, :, j]`` to ``products[i, j, :]``."""
    for start in range(0, products.shape[2], _POINTS_AT_ONCE):
        points = slice(start, start + _POINTS_AT_ONCE)
        part = products[:, :, points]
        for a, b in zip(left, right, strict=True):
            part.addcmul_(a[points].T[:, None], b[points].T[None])
