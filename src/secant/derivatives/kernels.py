"""The three operations on all channels of a jet that cost time: affine layers, elementwise functions and products.

Channels stand first: a jet's tensor has shape ``(channels, points, *features)``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from secant.derivatives.algebra import Algebra
from secant.derivatives.scalar import Derivatives


@final
@dataclass(frozen=True, slots=True)
class Scalar:
    """A smooth function of one number, applied elementwise."""

    value: functools.partial[Tensor]
    derivatives: Derivatives


@final
class Affine(torch.autograd.Function):
    """``x weight' + bias`` of all channels by one matrix product; the bias is added to the value alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``x`` of shape ``(channels, points, ..., inputs)`` to ``(channels, points, ..., outputs)``."""
        ctx.save_for_backward(x, weight)
        return _affine(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The cotangents of ``x``, ``weight`` and ``bias``."""
        x, weight = ctx.saved_tensors
        columns = _columns(cotangent)
        by_x = _from_columns(weight.T @ columns, x.shape) if ctx.needs_input_grad[0] else None
        by_weight = columns @ _columns(x).T if ctx.needs_input_grad[1] else None
        by_bias = _sum_of_columns(_columns(cotangent[0])) if ctx.needs_input_grad[2] else None
        return by_x, by_weight, by_bias


@final
class Elementwise(torch.autograd.Function):
    """A smooth function of all channels by the chain rule, with a backward pass that is differentiable again.

    Channels multiply like truncated power series, in which the derivative of ``f(z)`` is multiplication by ``f'(z)``: its channels are kept for the backward
    pass, which is the transposed product.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, scalar: Scalar, algebra: Algebra) -> Tensor:
        """See :func:`chain`."""
        ctx.scalar, ctx.algebra = scalar, algebra
        value = scalar.value(z[0])
        slopes = scalar.derivatives(z[0], value, algebra.order + 1)
        result, *kept = _chains(z, (value,) if _is_traced() else (value, slopes[0]), slopes, algebra)
        ctx.save_for_backward(z, result, *kept)
        return result

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        """The transposed product of the cotangent with the channels of ``f'(z)``."""
        z, result, *kept = ctx.saved_tensors
        factor: Tensor | list[Tensor]
        if kept and not torch.is_grad_enabled():
            factor = kept[0]
        else:
            slopes = ctx.scalar.derivatives(z[0], result[0], ctx.algebra.order + 1)
            factor = _chain_terms(z, slopes[0], slopes[1:], ctx.algebra)
        return _product_transposed(cotangent, factor, ctx.algebra), None, None


@final
class Product(torch.autograd.Function):
    """A product of two jets."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, algebra: Algebra) -> Tensor:
        """See :func:`product`."""
        ctx.save_for_backward(left, right)
        ctx.algebra = algebra
        return _product(left, right, algebra)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """The cotangents of both factors, each the transposed product with the other."""
        left, right = ctx.saved_tensors
        by_left, by_right = (
            _product_transposed(cotangent, other, ctx.algebra).sum_to_size(factor.shape) if wanted else None
            for factor, other, wanted in zip((left, right), (right, left), ctx.needs_input_grad[:2], strict=True)
        )
        return by_left, by_right, None


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The channels of an affine layer; differentiable by all three, any number of times. Features come out first in memory, where the product is fastest."""
    # Where types are chosen by operation (autocast), torch's own backward passes know which.
    if torch.is_grad_enabled() and not _is_transformed() and not torch.is_autocast_enabled(x.device.type):
        result: Tensor = Affine.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return result
    return _affine(x, weight, bias)


def elementwise(z: Tensor, scalar: Scalar, algebra: Algebra) -> Tensor:
    """The channels of an elementwise function; differentiable any number of times."""
    if torch.is_grad_enabled() and not _is_transformed() and z.requires_grad:
        result: Tensor = Elementwise.apply(z, scalar, algebra)  # type: ignore[no-untyped-call]
        return result
    return chain(z, scalar, algebra)


def chain(z: Tensor, scalar: Scalar, algebra: Algebra) -> Tensor:
    """All channels of ``f(z)`` by Faa di Bruno's rule."""
    value = scalar.value(z[0])
    return _chains(z, (value,), scalar.derivatives(z[0], value, algebra.order), algebra)[0]


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product = _from_columns(weight @ _columns(x), (*x.shape[:-1], weight.shape[0]))
    if bias is None:
        return product
    if _is_pure():
        return _stacked([product[0] + bias, *product[1:].unbind(0)])
    product[0].add_(bias)
    return product


def _columns(x: Tensor) -> Tensor:
    """Features by everything else; a view of what came from here."""
    x = x.permute(2, 0, 1) if x.ndim == 3 else x.movedim(-1, 0)
    return x.reshape(x.shape[0], x.shape[1:].numel())


def _from_columns(columns: Tensor, shape: Sequence[int]) -> Tensor:
    result = columns.view(shape[-1], *shape[:-1])
    return result.permute(1, 2, 0) if result.ndim == 3 else result.movedim(0, -1)


def _sum_of_columns(columns: Tensor) -> Tensor:
    if _is_traced():  # a compiler would fuse the sum with what makes its terms, and lose their vector instructions
        return (columns @ columns.new_ones(columns.shape[1], 1)).squeeze(1)
    return columns.sum(1)


def _stacked(channels: Sequence[Tensor]) -> Tensor:
    """Channels side by side, features first in memory."""
    if channels[0].ndim < 2:
        return torch.stack(list(channels))
    return torch.stack([channel.movedim(-1, 0) for channel in channels], 1).movedim(0, -1)


def _chains(z: Tensor, values: Sequence[Tensor], slopes: Sequence[Tensor], algebra: Algebra) -> list[Tensor]:
    """The channels of a function and of its derivatives, from their values and from the derivatives ``slopes`` of the first at ``z_0``."""
    if _is_pure():
        return [_stacked(_chain_terms(z, value, slopes[level:], algebra)) for level, value in enumerate(values)]
    parts = z.unbind(0)
    monomials = [(channel, term.order, term.weight, _monomial(parts, term.powers)) for channel, terms in enumerate(algebra.chains) for term in terms]
    results = []
    for level, value in enumerate(values):
        result = z * slopes[level]
        rows = result.unbind(0)
        rows[0].copy_(value)
        for channel, order, weight, monomial in monomials:
            rows[channel].addcmul_(slopes[level + order - 1], monomial, value=weight)
        results.append(result)
    return results


def _chain_terms(z: Tensor, value: Tensor, slopes: Sequence[Tensor], algebra: Algebra) -> list[Tensor]:
    parts = z.unbind(0)
    rows = [value]
    for part, terms in zip(parts[1:], algebra.chains[1:], strict=True):
        rows.append(sum((term.weight * (slopes[term.order - 1] * _monomial(parts, term.powers)) for term in terms), slopes[0] * part))
    return rows


def _product_transposed(cotangent: Tensor, factor: Tensor | Sequence[Tensor], algebra: Algebra) -> Tensor:
    """The transposed of multiplication by a factor, applied to a cotangent of shape ``(channels, points, *features)``."""
    parts = cotangent.unbind(0)
    factors = factor.unbind(0) if isinstance(factor, Tensor) else factor
    terms = [(channel, *term) for channel, terms in enumerate(algebra.products) for term in terms if term[1] > 0]
    if _is_pure() or torch.is_grad_enabled():
        rows = [part * factors[0] for part in parts]
        for channel, weight, left, right in terms:
            rows[right] = rows[right] + weight * (factors[left] * parts[channel])
        return _stacked(rows)
    result = cotangent * factors[0]
    written = result.unbind(0)
    for channel, weight, left, right in terms:
        written[right].addcmul_(factors[left], parts[channel], value=weight)
    return result


def _is_traced() -> bool:
    """Whether the operations are being recorded for a compiler."""
    return get_proxy_mode() is not None


def _is_transformed() -> bool:
    """Whether a transform of ``torch.func`` is at work, which has no rule for an autograd function."""
    return torch._C._are_functorch_transforms_active()


def _is_pure() -> bool:
    """Whether nothing may be written in place: compilers and transforms make poor code of it, or refuse."""
    return _is_traced() or _is_transformed()


def _monomial(channels: Sequence[Tensor], powers: tuple[tuple[int, int], ...]) -> Tensor:
    return functools.reduce(torch.mul, [channels[channel] for channel, power in powers for _ in range(power)])


def product(left: Tensor, right: Tensor, algebra: Algebra) -> Tensor:
    """All channels of a product by Leibniz's rule; differentiable by both, any number of times."""
    if torch.is_grad_enabled() and not _is_transformed() and (left.requires_grad or right.requires_grad):
        result: Tensor = Product.apply(left, right, algebra)  # type: ignore[no-untyped-call]
        return result
    return _product(left, right, algebra)


def _product(left: Tensor, right: Tensor, algebra: Algebra) -> Tensor:
    if _is_pure():
        return _stacked(
            [sum((weight * (left[i] * right[j]) for weight, i, j in terms[1:]), left[terms[0][1]] * right[terms[0][2]]) for terms in algebra.products]
        )
    result = left[0] * right
    rows, lefts, rights = result.unbind(0), left.unbind(0), right.unbind(0)
    for channel, terms in enumerate(algebra.products):
        for weight, i, j in terms:
            if i > 0:
                rows[channel].addcmul_(lefts[i], rights[j], value=weight)
    return result
