"""Smooth functions of one number with their derivatives."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

Derivatives = Callable[..., list[Tensor]]
"""``derivatives(x, y, order, *options) -> [f'(x), ..., f^(order)(x)]`` with ``y = f(x)`` already known; differentiable by ``x`` and ``y``."""


def _polynomials(slope: tuple[int, ...], shift: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """``Q_1 = 1`` and ``Q_{k+1} = Q_k' slope + shift Q_k`` up to ``k = 7``; coefficients from the lowest power on."""
    polynomials: list[tuple[int, ...]] = [(1,)]
    while len(polynomials) < 7:
        last = polynomials[-1]
        derivative = tuple(power * coefficient for power, coefficient in enumerate(last))[1:]
        polynomials.append(_add(_times(derivative, slope), _times(shift, last)))
    return tuple(polynomials)


def _times(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    result = [0] * (len(left) + len(right) - 1) if left and right else []
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            result[i + j] += a * b
    return tuple(result)


def _add(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    size = max(len(left), len(right))
    return tuple((left[i] if i < len(left) else 0) + (right[i] if i < len(right) else 0) for i in range(size))


_TANH = _polynomials(slope=(1, 0, -1), shift=(0, -2))
_SIGMOID = _polynomials(slope=(0, 1, -1), shift=(1, -2))
_TAN = _polynomials(slope=(1, 0, 1), shift=(0, 2))


def _tanh(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
    """``f^(k) = f' Q_k(y)`` with ``f' = 1 - y^2``, ``Q_1 = 1`` and ``Q_{k+1} = Q_k' f' - 2 y Q_k``."""
    square = y * y
    slope = 1.0 - square
    return [slope, *(_even_or_odd(polynomial, y, square) * slope for polynomial in _TANH[1:order])]


def _sigmoid(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
    """``f^(k) = f' Q_k(y)`` with ``f' = y (1 - y)`` and ``Q_{k+1} = Q_k' f' + (1 - 2 y) Q_k``."""
    slope = y * (1.0 - y)
    return [slope, *(_polynomial(polynomial, y) * slope for polynomial in _SIGMOID[1:order])]


def _polynomial(coefficients: tuple[int, ...], x: Tensor) -> Tensor:
    """Horner's scheme."""
    *lower, top = coefficients
    if not lower:
        return torch.full_like(x, top)
    value = top * x + lower[-1] if lower[-1] else top * x
    for coefficient in reversed(lower[:-1]):
        value = value * x + coefficient if coefficient else value * x
    return value


def _even_or_odd(coefficients: tuple[int, ...], x: Tensor, square: Tensor) -> Tensor:
    if len(coefficients) % 2:
        return _polynomial(coefficients[::2], square)
    odd = coefficients[1::2]
    return odd[0] * x if len(odd) == 1 else _polynomial(odd, square) * x


def _exp(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
    return [y] * order


def _exp2(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
    return [math.log(2.0) ** k * y for k in range(1, order + 1)]


def _expm1(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
    return [torch.exp(x)] * order


def _sin(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
    cosine = torch.cos(x)
    return [(cosine, -y, -cosine, y)[k % 4] for k in range(order)]


def _cos(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
    sine = torch.sin(x)
    return [(-sine, -y, sine, y)[k % 4] for k in range(order)]


def _sinh(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
    other = torch.cosh(x)
    return [(other, y)[k % 2] for k in range(order)]


def _cosh(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
    other = torch.sinh(x)
    return [(other, y)[k % 2] for k in range(order)]


def _tan(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
    slope = 1.0 + y * y
    return [slope, *(_polynomial(polynomial, y) * slope for polynomial in _TAN[1:order])]


def _power(x: Tensor, y: Tensor, order: int, exponent: float) -> list[Tensor]:
    derivatives, factor = [], 1.0
    for k in range(order):
        factor *= exponent - k
        derivatives.append(torch.zeros_like(x) if factor == 0.0 else factor * x.pow(exponent - k - 1))
    return derivatives


def _square(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
    return _power(x, y, order, 2)


def _sqrt(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
    return _power(x, y, order, 0.5)


def _rsqrt(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
    return _power(x, y, order, -0.5)


def _reciprocal(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
    """``f^(k) = (-1)^k k! y^(k+1)``."""
    return [(-1) ** k * math.factorial(k) * y.pow(k + 1) for k in range(1, order + 1)]


def _log(x: Tensor, y: Tensor, order: int, scale: float = 1.0, shift: float = 0.0) -> list[Tensor]:
    inverse = (x + shift).reciprocal() if shift else x.reciprocal()
    return [scale * (-1) ** (k - 1) * math.factorial(k - 1) * inverse.pow(k) for k in range(1, order + 1)]


def _gaussian_family(x: Tensor, order: int, first: tuple[float, ...], factor: float) -> list[Tensor]:
    """The derivatives of orders 0 to ``order - 1`` of ``P(x) factor exp(-a x^2)`` where ``first = (a, *coefficients of P)``: ``P_{k+1} = P_k' - 2 a x P_k``."""
    rate, *coefficients = first
    bell = factor * torch.exp(-rate * x * x)
    derivatives = []
    for _ in range(order):
        value = torch.full_like(x, coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            value = value * x + coefficient
        derivatives.append(value * bell)
        slope = [*(power * coefficients[power] for power in range(1, len(coefficients))), 0.0, 0.0]
        coefficients = [a - 2.0 * rate * b for a, b in zip(slope, [0.0, *coefficients], strict=True)]
    return derivatives


def _erf(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
    return _gaussian_family(x, order, (1.0, 1.0), 2.0 / math.sqrt(math.pi))


def _gelu(x: Tensor, y: Tensor, order: int, approximate: str = "none") -> list[Tensor]:
    """``x Phi(x)``: the first derivative is ``Phi + x phi``, the second ``(2 - x^2) phi``. Or ``x (1 + tanh(c (x + a x^3))) / 2``."""
    if approximate == "tanh":
        scale, cubic = math.sqrt(2.0 / math.pi), 0.044715
        inner = scale * (x + cubic * x.pow(3))
        slopes = [scale * (1.0 + 3.0 * cubic * x * x), 6.0 * scale * cubic * x, torch.full_like(x, 6.0 * scale * cubic)]
        value = torch.tanh(inner)
        outer = compose(_tanh(inner, value, order), slopes)
        return times_identity(x, [0.5 * (1.0 + value), *(0.5 * derivative for derivative in outer)])
    bell = torch.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    slope = 0.5 * (1.0 + torch.erf(x * math.sqrt(0.5))) + x * bell
    return [slope, *_gaussian_family(x, order - 1, (0.5, 2.0, 0.0, -1.0), 1.0 / math.sqrt(2.0 * math.pi))]


def _silu(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
    gate = torch.sigmoid(x)
    return times_identity(x, [gate, *_sigmoid(x, gate, order)])


def _softplus(x: Tensor, y: Tensor, order: int, beta: float = 1.0, threshold: float = 20.0) -> list[Tensor]:
    """The derivatives of what torch computes: beyond the threshold the function is ``x``."""
    gate = torch.sigmoid(beta * x)
    smooth = [gate, *(beta**k * derivative for k, derivative in enumerate(_sigmoid(x, gate, order - 1), start=1))][:order]
    linear = beta * x > threshold
    return [torch.where(linear, 0.0 if k else 1.0, derivative) for k, derivative in enumerate(smooth)]


def _logsigmoid(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
    """``f'(x) = sigmoid(-x)``."""
    gate = torch.sigmoid(-x)
    return [gate, *((-1) ** k * derivative for k, derivative in enumerate(_sigmoid(x, gate, order - 1), start=1))][:order]


def _mish(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
    inner = functional.softplus(x, threshold=1e3)
    value = torch.tanh(inner)
    outer = compose(_tanh(inner, value, order), _softplus(x, inner, order, threshold=1e3))
    return times_identity(x, [value, *outer])


def _tanhshrink(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
    slope, *higher = _tanh(x, torch.tanh(x), order)
    return [1.0 - slope, *(-derivative for derivative in higher)]


def _slope_is_power(constant: float, square: float, exponent: float, sign: float = 1.0) -> Derivatives:
    """For a function with the slope ``sign (constant + square x^2)^exponent``, such as ``atan`` and ``asinh``."""

    def derivatives(x: Tensor, y: Tensor, order: int) -> list[Tensor]:
        inner = constant + square * x * x
        value = sign * inner.pow(exponent)
        outer = [sign * derivative for derivative in _power(inner, value, order, exponent)]
        return [value, *compose(outer, [2.0 * square * x, torch.full_like(x, 2.0 * square)])][:order]

    return derivatives


def compose(outer: list[Tensor], inner: list[Tensor]) -> list[Tensor]:
    """The derivatives of ``f(g(x))`` from those of ``f`` at ``g(x)`` and of ``g`` at ``x``, both from the first on; what ``inner`` leaves out is zero.

    Args:
        outer: As many as are wanted.
        inner: At least one.

    Returns:
        As many as ``outer``.

    Source:
        Faa di Bruno's formula by Bell polynomials, ``B_{n,k} = sum_i binomial(n-1, i-1) g^(i) B_{n-i,k-1}``; Comtet (1974), section 3.3.
    """
    order = len(outer)
    bell: dict[tuple[int, int], Tensor] = {}
    for n in range(1, order + 1):
        for k in range(1, n + 1):
            terms = [inner[n - 1]] if k == 1 and n <= len(inner) else []
            known = [i for i in range(1, len(inner) + 1) if (n - i, k - 1) in bell]
            terms.extend(math.comb(n - 1, i - 1) * inner[i - 1] * bell[n - i, k - 1] for i in known)
            if terms:
                bell[n, k] = functools.reduce(torch.add, terms)
    return [functools.reduce(torch.add, [outer[k - 1] * bell[n, k] for k in range(1, n + 1) if (n, k) in bell]) for n in range(1, order + 1)]


def times_identity(x: Tensor, factor: list[Tensor]) -> list[Tensor]:
    """The derivatives of ``x g(x)``, from the first on, from those of ``g``, from the value on: ``x g^(k) + k g^(k-1)``."""
    return [x * derivative + (k * lower if k > 1 else lower) for k, (lower, derivative) in enumerate(itertools.pairwise(factor), start=1)]


SMOOTH: Mapping[str, Derivatives] = {
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "expit": _sigmoid,
    "special_expit": _sigmoid,
    "exp": _exp,
    "exp2": _exp2,
    "expm1": _expm1,
    "sin": _sin,
    "cos": _cos,
    "tan": _tan,
    "sinh": _sinh,
    "cosh": _cosh,
    "asin": _slope_is_power(1.0, -1.0, -0.5),
    "acos": _slope_is_power(1.0, -1.0, -0.5, sign=-1.0),
    "atan": _slope_is_power(1.0, 1.0, -1.0),
    "asinh": _slope_is_power(1.0, 1.0, -0.5),
    "acosh": _slope_is_power(-1.0, 1.0, -0.5),
    "atanh": _slope_is_power(1.0, -1.0, -1.0),
    "arcsin": _slope_is_power(1.0, -1.0, -0.5),
    "arctan": _slope_is_power(1.0, 1.0, -1.0),
    "pow": _power,
    "square": _square,
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "reciprocal": _reciprocal,
    "log": _log,
    "log2": functools.partial(_log, scale=1.0 / math.log(2.0)),
    "log10": functools.partial(_log, scale=1.0 / math.log(10.0)),
    "log1p": functools.partial(_log, shift=1.0),
    "erf": _erf,
    "gelu": _gelu,
    "silu": _silu,
    "softplus": _softplus,
    "logsigmoid": _logsigmoid,
    "log_sigmoid": _logsigmoid,
    "mish": _mish,
    "tanhshrink": _tanhshrink,
}
"""Functions by their names in torch. The options after the tensor are handed on to both the function and its derivatives."""
