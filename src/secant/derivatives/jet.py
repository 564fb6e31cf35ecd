"""Values that carry their derivatives by the coordinates through ordinary torch code."""

from __future__ import annotations

import functools
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from secant.derivatives.algebra import Algebra
from secant.derivatives.composites import COMPOSITES
from secant.derivatives.kernels import Scalar, affine, elementwise, product
from secant.derivatives.refusals import KINKED, CoupledPointsError, KinkError, NotUnderstoodError
from secant.derivatives.scalar import SMOOTH
from secant.derivatives.shapes import CONSTANT, ELEMENTWISE_LINEAR, LINEAR, feature_index, keeps_points, per_channel


def _call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """The function of torch, as if called by name: function modes see it, too."""
    return handle_torch_function(function, tuple(arg for arg in args if isinstance(arg, Jet)), *args, **options)


def _operator(function: Callable[..., Any]) -> Callable[[Jet, Any], Any]:
    return lambda self, other: _call(function, self, other)


def _reflected(function: Callable[..., Any]) -> Callable[[Jet, Any], Any]:
    return lambda self, other: _call(function, other, self)


def _in_place(self: Jet, other: Any) -> Any:
    raise NotUnderstoodError("an operation in place such as +=")


@final
class Jet:
    """A tensor of shape ``(points, *features)`` with its derivatives by the coordinates of its point, to be used like that tensor.

    Functions of torch applied to it return a jet where they differentiate, and a plain tensor where they do not (comparisons, ``zeros_like``, ``detach``).

    Args:
        tensor: All channels, shape ``(channels, points, *features)``: the derivatives that ``algebra.indices`` names, the value first.
        algebra: Which derivatives these are.
        recording: Whether gradients by parameters were being recorded where the jet began.

    Raises:
        NotUnderstoodError: From an operation without a rule.
        CoupledPointsError: From an operation that would mix points.
        KinkError: From a function with a kink, when second or higher derivatives are carried.
    """

    __slots__ = ("algebra", "recording", "tensor")
    __hash__ = object.__hash__

    def __init__(self, tensor: Tensor, algebra: Algebra, recording: bool) -> None:
        self.tensor = tensor
        self.algebra = algebra
        self.recording = recording

    @property
    def value(self) -> Tensor:
        """The values alone, shape ``(points, *features)``."""
        return self.tensor[0]

    @property
    def ndim(self) -> int:
        """Dimensions of the values, the points' among them."""
        return self.tensor.ndim - 1

    def with_tensor(self, tensor: Tensor) -> Jet:
        """Another jet with the same derivatives."""
        return Jet(tensor, self.algebra, self.recording)

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """The jet of a function of torch."""
        options = dict(kwargs or {})
        name = getattr(func, "__name__", type(func).__name__)
        jet = _first_jet((*args, *options.values()))
        if jet.recording != torch.is_grad_enabled():
            raise NotUnderstoodError(f"{name} with gradients switched {'off' if jet.recording else 'on'} by the network or a custom autograd function")
        if options.pop("out", None) is not None or options.pop("inplace", False) or (name.endswith("_") and not name.startswith("_")):
            raise NotUnderstoodError(f"{name} in place")
        if name in KINKED and jet.algebra.order > 1:
            raise KinkError(name)
        return _rule(name)(jet, name, func, args, options)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(Tensor, name, None)
        if attribute is None or name.startswith("__"):
            raise AttributeError(f"Jet has no attribute {name}")
        if name == "T" and self.ndim == 2:
            return Columns(self)
        if name in _PLAIN_ATTRIBUTES:
            return getattr(self.value, name)
        if callable(attribute):
            return functools.partial(_call, attribute, self)
        raise NotUnderstoodError(name)

    def __getitem__(self, index: Any) -> Jet:
        items = index if isinstance(index, tuple) else (index,)
        return self.with_tensor(self.tensor[(slice(None), *feature_index(items, self.ndim))])

    def __setitem__(self, index: Any, value: Any) -> None:
        raise NotUnderstoodError("assignment to elements")

    def __iter__(self) -> Iterator[Jet]:
        raise NotUnderstoodError("iteration over points")

    def __len__(self) -> int:
        return self.tensor.shape[1]

    def __bool__(self) -> bool:
        raise NotUnderstoodError("bool")

    def __repr__(self) -> str:
        return f"Jet(shape={tuple(self.value.shape)}, indices={self.algebra.indices})"

    def __neg__(self) -> Jet:
        return self.with_tensor(-self.tensor)

    def __pos__(self) -> Jet:
        return self

    def __abs__(self) -> Any:
        return _call(torch.abs, self)

    __add__, __radd__ = _operator(torch.add), _reflected(torch.add)
    __sub__, __rsub__ = _operator(torch.sub), _reflected(torch.sub)
    __mul__, __rmul__ = _operator(torch.mul), _reflected(torch.mul)
    __truediv__, __rtruediv__ = _operator(torch.div), _reflected(torch.div)
    __pow__, __rpow__ = _operator(torch.pow), _reflected(torch.pow)
    __matmul__, __rmatmul__ = _operator(torch.matmul), _reflected(torch.matmul)
    __gt__, __ge__, __lt__, __le__ = _operator(torch.gt), _operator(torch.ge), _operator(torch.lt), _operator(torch.le)
    __eq__, __ne__ = _operator(torch.eq), _operator(torch.ne)
    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = _in_place


@final
class Columns(Sequence[Jet]):
    """A transposed jet of points by features, as far as it is taken apart again: ``t, x = points.T``."""

    __slots__ = ("_columns",)

    def __init__(self, jet: Jet) -> None:
        self._columns = tuple(jet.with_tensor(column) for column in jet.tensor.unbind(2))

    def __len__(self) -> int:
        return len(self._columns)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, int):
            raise NotUnderstoodError("an index that selects points")
        return self._columns[index]


Rule = Callable[[Jet, str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""``rule(a jet among the arguments, name, function, arguments, options)``."""


def _rule(name: str) -> Rule:
    if name in _ARITHMETIC:
        return _ARITHMETIC[name]
    for names, rule in ((SMOOTH, _smooth), (LINEAR, _linear), (COMPOSITES, _composite), (ELEMENTWISE_LINEAR, _all_channels), (CONSTANT, _constant)):
        if name in names:
            return rule
    raise NotUnderstoodError(name)


def _first_jet(values: tuple[Any, ...]) -> Jet:
    for value in values:
        if isinstance(value, Jet):
            return value
        if isinstance(value, (tuple, list)):
            for item in value:
                if isinstance(item, Jet):
                    return item
    raise TypeError("Expected a Jet among the arguments, got none.")


def _smooth(jet: Jet, name: str, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    if not (args and args[0] is jet) or any(isinstance(option, (Tensor, Jet)) for option in (*args[1:], *options.values())):
        raise NotUnderstoodError(f"{name} of several tensors")
    if jet.algebra.order == 0:
        return jet.with_tensor(func(jet.tensor, *args[1:], **options))
    value = functools.partial(_swapped, func, args[1:], options)
    derivatives = SMOOTH[name]
    if args[1:] or options:
        derivatives = functools.partial(_with_options, derivatives, args[1:], options)
    return jet.with_tensor(elementwise(jet.tensor, Scalar(value, derivatives), jet.algebra))


def _swapped(func: Callable[..., Tensor], args: tuple[Any, ...], options: Mapping[str, Any], x: Tensor) -> Tensor:
    return func(x, *args, **options)


def _with_options(
    derivatives: Callable[..., list[Tensor]], args: tuple[Any, ...], options: Mapping[str, Any], x: Tensor, y: Tensor, order: int
) -> list[Tensor]:
    return derivatives(x, y, order, *args, **options)


def _linear(jet: Jet, name: str, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    if not (args and args[0] is jet):
        raise NotUnderstoodError(f"{name} of several tensors")
    LINEAR[name](name, jet.value, args[1:], options)
    result = per_channel(func, jet.tensor, args[1:], options)
    keeps_points(result, len(jet), name)
    return tuple(jet.with_tensor(part) for part in result) if isinstance(result, (tuple, list)) else jet.with_tensor(result)


def _all_channels(jet: Jet, name: str, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return jet.with_tensor(func(jet.tensor, *args[1:], **options))


def _composite(jet: Jet, name: str, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return COMPOSITES[name](*args, **options)


def _constant(jet: Jet, name: str, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return func(*(arg.value if isinstance(arg, Jet) else arg for arg in args), **options)


def _affine(jet: Jet, name: str, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    x, weight, bias = (*args, *(options[key] for key in ("input", "weight", "bias") if key in options), None)[:3]
    if x is not jet or isinstance(weight, Jet) or isinstance(bias, Jet):
        raise NotUnderstoodError("linear with weights that depend on the point")
    if jet.ndim < 2:
        raise CoupledPointsError("linear of a tensor without features")
    return jet.with_tensor(affine(jet.tensor, weight, bias))


def _add(jet: Jet, name: str, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    left, right = args
    alpha = options.get("alpha", 1)
    right = right if alpha == 1 else alpha * right
    if name in ("sub", "subtract", "__sub__"):
        right = -right
    if name in ("rsub", "__rsub__"):
        left = -left
    if isinstance(left, Jet) and isinstance(right, Jet):
        _check_aligned(left, right)
        return jet.with_tensor(left.tensor + right.tensor)
    jet, constant = (left, right) if isinstance(left, Jet) else (right, left)
    _check_constant(jet, constant)
    value = jet.value + constant
    derivatives = jet.tensor[1:]
    return jet.with_tensor(torch.cat((value.unsqueeze(0), derivatives.expand(derivatives.shape[0], *value.shape))))


def _mul(jet: Jet, name: str, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    left, right = args
    if isinstance(left, Jet) and isinstance(right, Jet):
        _check_aligned(left, right)
        return jet.with_tensor(product(left.tensor, right.tensor, jet.algebra))
    constant = right if jet is left else left
    _check_constant(jet, constant)
    return jet.with_tensor(jet.tensor * constant)


def _div(jet: Jet, name: str, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    left, right = args
    if options.get("rounding_mode") is not None:
        raise NotUnderstoodError("div with rounding")
    if isinstance(right, Jet):
        return left * _call(torch.reciprocal, right)
    _check_constant(left, right)
    return left.with_tensor(left.tensor / right)


def _pow(jet: Jet, name: str, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    base, exponent = args if len(args) == 2 else (args[0], options["exponent"])
    if isinstance(exponent, Tensor):
        raise NotUnderstoodError("pow with a tensor as exponent")
    if not isinstance(exponent, Jet):
        return _smooth(jet, "pow", torch.pow, (base, exponent), {})
    if isinstance(base, (int, float)):
        base = torch.as_tensor(base, dtype=jet.value.dtype, device=jet.value.device)
    return _call(torch.exp, exponent * torch.log(base))


def _matmul(jet: Jet, name: str, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    left, right = args
    if isinstance(left, Jet) and isinstance(right, Tensor) and right.ndim == 2 and left.ndim >= 2:
        return jet.with_tensor(left.tensor @ right)
    if isinstance(left, Jet) and isinstance(right, Tensor) and right.ndim == 1 and left.ndim >= 2:
        return jet.with_tensor(left.tensor @ right)
    raise NotUnderstoodError(f"{name} of these shapes")


def _transpose(jet: Jet, name: str, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return jet.T


def _einsum(jet: Jet, name: str, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Of one or two jets that keep their points, a label of its own, in front."""
    equation, *operands = args
    operands = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    inputs, arrow, output = equation.replace(" ", "").partition("->") if isinstance(equation, str) else ("", "", "")
    labels = inputs.split(",")
    jets = [place for place, operand in enumerate(operands) if isinstance(operand, Jet)]
    if not arrow or "." in equation or len(jets) > 2 or len({labels[place][:1] for place in jets} | {output[:1]}) > 1:
        raise NotUnderstoodError("einsum of this form")
    if len(jets) == 1:
        free = next(letter for letter in string.ascii_letters if letter not in equation)
        equation = ",".join(free + part if place in jets else part for place, part in enumerate(labels)) + f"->{free}{output}"
        return jet.with_tensor(func(equation, *(operand.tensor if isinstance(operand, Jet) else operand for operand in operands)))
    left, right = (operands[place] for place in jets)
    _check_algebra(left, right)

    def multiply(a: Tensor, b: Tensor) -> Tensor:
        channels = dict(zip(jets, (a, b), strict=True))
        result: Tensor = func(equation, *(channels.get(place, operand) for place, operand in enumerate(operands)))
        return result

    rows = [torch.stack([weight * multiply(left.tensor[i], right.tensor[j]) for weight, i, j in terms]).sum(0) for terms in jet.algebra.products]
    return jet.with_tensor(torch.stack(rows))


def _join(jet: Jet, name: str, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    parts = [part if isinstance(part, Jet) else lifted(part, jet) for part in args[0]]
    dim = args[1] if len(args) > 1 else options.get("dim", 0)
    dim %= jet.ndim + (name == "stack")
    if dim == 0 or any(len(part) != len(jet) for part in parts):
        raise NotUnderstoodError(f"{name} along the points")
    return jet.with_tensor(func([part.tensor for part in parts], dim + 1))


def _where(jet: Jet, name: str, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    condition, left, right = args
    left, right = (part if isinstance(part, Jet) else lifted(part, jet) for part in (left, right))
    _check_aligned(left, right)
    _check_constant(left, condition)
    return jet.with_tensor(torch.where(condition, left.tensor, right.tensor))


def _piecewise(slope: Callable[..., Tensor]) -> Rule:
    def rule(jet: Jet, name: str, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return jet.with_tensor(jet.tensor * slope(jet.value, *args[1:], **options))

    return rule


def _leaky_slope(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    return torch.where(x > 0.0, torch.ones_like(x), negative_slope)


def lifted(constant: Any, jet: Jet) -> Jet:
    """A constant as a jet."""
    value = torch.as_tensor(constant, dtype=jet.value.dtype, device=jet.value.device) if not isinstance(constant, Tensor) else constant
    if value.ndim < jet.ndim:
        value = value.expand(jet.value.shape)
    return jet.with_tensor(torch.cat((value.unsqueeze(0), value.new_zeros(jet.tensor.shape[0] - 1, *value.shape))))


def _check_algebra(left: Jet, right: Jet) -> None:
    if left.algebra is not right.algebra:
        raise NotUnderstoodError("jets of different derivatives")


def _check_aligned(left: Jet, right: Jet) -> None:
    _check_algebra(left, right)
    if left.ndim != right.ndim or len(left) != len(right):
        raise NotUnderstoodError("broadcasting that moves points")


def _check_constant(jet: Jet, constant: Any) -> None:
    if not isinstance(constant, Tensor) or constant.ndim == 0:
        return
    if constant.ndim > jet.ndim or (constant.ndim == jet.ndim and constant.shape[0] not in (1, len(jet))):
        raise NotUnderstoodError("broadcasting that moves points")


_PLAIN_ATTRIBUTES = frozenset("shape dtype device ndim is_cuda is_sparse layout requires_grad is_nested itemsize is_meta is_mps".split())  # noqa: SIM905

_ARITHMETIC: Mapping[str, Rule] = {
    "linear": _affine,
    **dict.fromkeys(("add", "__add__", "__radd__", "sub", "subtract", "__sub__", "rsub", "__rsub__"), _add),
    **dict.fromkeys(("mul", "multiply", "__mul__", "__rmul__"), _mul),
    **dict.fromkeys(("div", "divide", "true_divide", "__truediv__", "__rtruediv__", "__rdiv__"), _div),
    **dict.fromkeys(("pow", "__pow__", "__rpow__", "float_power"), _pow),
    **dict.fromkeys(("matmul", "mm", "mv", "__matmul__"), _matmul),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), _join),
    "where": _where,
    "einsum": _einsum,
    "t": _transpose,
    "relu": _piecewise(lambda x: (x > 0.0).to(x.dtype)),
    "leaky_relu": _piecewise(_leaky_slope),
    **dict.fromkeys(("abs", "absolute"), _piecewise(torch.sign)),
}
