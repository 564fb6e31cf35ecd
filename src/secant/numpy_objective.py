"""Functions of NumPy arrays, as SciPy's ``minimize`` takes them, made differentiable twice by torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize._numdiff import approx_derivative
from torch import Tensor, nn

from secant.objective import Counts
from secant.tree import tensors_in

Array = NDArray[Any]
Difference = Literal["2-point", "3-point"]
_RESOLUTION: Mapping[Difference, float] = MappingProxyType({"2-point": 1e-6, "3-point": 1e-9})


def is_array_like(x0: Any) -> bool:
    """Whether a start is one of SciPy's: a number, an array, or a sequence that holds no tensor."""
    if isinstance(x0, (Tensor, nn.Module, Mapping)):
        return False
    if isinstance(x0, (list, tuple)):
        return next(tensors_in(x0), None) is None
    return isinstance(x0, (int, float, complex)) or hasattr(x0, "__array__")


@final
class NumpyObjective:
    """A function of a NumPy vector as a closure of torch.

    The loss it returns can be differentiated twice: the first derivative calls ``jac`` (or differences of ``fun``), the second ``hess`` or ``hessp``. What
    was evaluated at the present point is kept, so that nothing is called twice there. The functions get copies, which they may overwrite.

    Attributes:
        variable: The point, a leaf tensor of shape ``(n,)``.
        counts: What was really called: ``fun`` (also for differences), gradients formed, ``hess`` or ``hessp``.

    Args:
        fun: ``fun(x, *args)`` returns a number, or the number and the gradient with ``jac=True``.
        x0: Array-like of shape ``(n,)`` or ``()``; integers become float64, floating-point types are kept.
        args: What ``fun``, ``jac``, ``hess`` and ``hessp`` get besides; a value that is no tuple is one argument.
        jac: ``jac(x, *args)`` of shape ``(n,)``, True, or ``"2-point"`` or ``"3-point"`` for differences; None and False mean ``"2-point"``.
        hess: ``hess(x, *args)``: an array, a sparse matrix or a ``LinearOperator`` of shape ``(n, n)``.
        hessp: ``hessp(x, p, *args)`` of shape ``(n,)``; not used where ``hess`` is given.

    Raises:
        ValueError: ``x0`` is empty or has more than one dimension, or ``jac`` is an unknown word.
        TypeError: ``x0`` is not of real numbers, or something that should be a function is not.
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        x0: Any,
        args: Any = (),
        *,
        jac: Callable[..., Any] | bool | str | None = None,
        hess: Callable[..., Any] | None = None,
        hessp: Callable[..., Any] | None = None,
    ) -> None:
        for name, function in (("hess", hess), ("hessp", hessp)):
            if function is not None and not callable(function):
                raise TypeError(f"Expected {name} to be a function, got {function!r}. Leave it out: the methods learn the curvature from gradients.")
        self.variable = torch.from_numpy(_checked_start(x0)).requires_grad_()
        self.counts = Counts()
        self._fun = fun
        self._args = args if isinstance(args, tuple) else (args,)
        self._jac = _checked_gradient(jac)
        self._hess = hess
        self._hessp = hessp
        self._x: Array = np.empty(0)
        self._value: Tensor | None = None
        self._gradient: Tensor | None = None
        self._hessian: Any = None

    @property
    def differentiates(self) -> bool:
        """Whether gradients are differences of ``fun``."""
        return isinstance(self._jac, str)

    @property
    def resolution(self) -> float:
        """The gradient, relative to the first one, below which differences are mostly error: about 100 times ``eps^(1/2)`` or ``eps^(2/3)`` of float64."""
        return _RESOLUTION[self._jac] if isinstance(self._jac, str) else 0.0

    def loss(self) -> Tensor:
        """The closure: the loss at ``variable`` with a graph, in the dtype in which ``fun`` returned it and at least float32."""
        value: Tensor = _Loss.apply(self.variable, self)  # type: ignore[no-untyped-call]
        return value

    def value_at(self, variable: Tensor) -> Tensor:
        """``fun`` there, a tensor with one number."""
        self._stand_at(variable)
        if self._value is None:
            returned = self._called(self._fun)
            if self._jac is True:
                returned, gradient = _checked_pair(returned)
                self._gradient = self._vector(gradient, "fun to return (loss, gradient), the gradient")
                self._count(gradients=1)
            self._value = _checked_loss(returned)
            self._count(losses=1)
        return self._value

    def gradient_at(self, variable: Tensor) -> Tensor:
        """The gradient there, shape ``(n,)``, in the dtype of ``x0``."""
        value = self.value_at(variable)
        if self._gradient is None:
            assert self._jac is not True  # else the gradient came with the value
            gradient = self._called(self._jac) if callable(self._jac) else self._differences(self._jac, float(value))
            self._gradient = self._vector(gradient, "jac to return an array")
            self._count(gradients=1)
        return self._gradient

    def hessian_product(self, variable: Tensor, direction: Tensor) -> Tensor:
        """The Hessian there times a vector of shape ``(n,)``."""
        self._stand_at(variable)
        if self._hess is not None:
            if self._hessian is None:
                self._hessian = self._checked_hessian(self._called(self._hess))
                self._count(hessian_products=1)
            product = self._hessian @ direction.numpy()
        elif self._hessp is not None:
            product = self._hessp(self._x.copy(), direction.numpy().copy(), *self._args)
            self._count(hessian_products=1)
        else:
            raise TypeError("This method needs second derivatives. Pass hess= or hessp=, or options={'hessian': 'differences'}.")
        return self._vector(product, "hessp to return an array")

    def _stand_at(self, variable: Tensor) -> None:
        x = variable.detach().numpy()
        if not np.array_equal(x, self._x):
            self._x = x.copy()
            self._value = self._gradient = self._hessian = None

    def _called(self, function: Callable[..., Any]) -> Any:
        return function(self._x.copy(), *self._args)

    def _differences(self, scheme: Difference, value: float) -> Array:
        """Differences of ``fun``; around a value that is no number there are none."""
        if not np.isfinite(value):
            return np.full(self._x.shape, np.nan)

        def counted(x: Array) -> float:
            self._count(losses=1)
            return float(_checked_loss(self._fun(x.copy(), *self._args)))

        with np.errstate(invalid="ignore"):  # the difference of infinities, where a neighbor lies outside the domain
            gradient: Array = approx_derivative(counted, self._x, method=scheme, f0=value)
        return gradient

    def _vector(self, returned: Any, what: str) -> Tensor:
        array = np.asarray(returned)
        size = self._x.size
        if array.dtype.kind not in "fiub":
            raise TypeError(f"Expected {what} of real numbers, got {array.dtype}.")
        if array.shape != (size,) and not (size == 1 and array.shape == ()):
            raise ValueError(f"Expected {what} of shape ({size},), got {array.shape}. Return it with .ravel() if its order is that of x.")
        return torch.from_numpy(array.reshape(size).astype(self._x.dtype))  # astype copies: the function may write into its array again

    def _checked_hessian(self, returned: Any) -> Any:
        matrix = returned if hasattr(returned, "shape") and hasattr(returned, "__matmul__") else np.asarray(returned)
        size = self._x.size
        if tuple(matrix.shape) != (size, size):
            raise ValueError(f"Expected hess to return a matrix of shape ({size}, {size}), got {tuple(matrix.shape)}.")
        return matrix.copy() if isinstance(matrix, np.ndarray) else matrix

    def _count(self, *, losses: int = 0, gradients: int = 0, hessian_products: int = 0) -> None:
        now = self.counts
        self.counts = Counts(now.losses + losses, now.gradients + gradients, now.hessian_products + hessian_products)


class _Loss(torch.autograd.Function):
    """``fun``, whose derivative is :class:`_Gradient`."""

    @staticmethod
    def forward(ctx: Any, variable: Tensor, objective: NumpyObjective) -> Tensor:
        """The loss."""
        ctx.save_for_backward(variable)
        ctx.objective = objective
        return objective.value_at(variable).clone()

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        """The gradient, itself differentiable."""
        (variable,) = ctx.saved_tensors
        gradient: Tensor = _Gradient.apply(variable, ctx.objective)  # type: ignore[no-untyped-call]
        return gradient * outer[0].to(gradient.dtype), None


class _Gradient(torch.autograd.Function):
    """The gradient, whose derivative are Hessian products; the Hessian is symmetric, so no transpose is needed."""

    @staticmethod
    def forward(ctx: Any, variable: Tensor, objective: NumpyObjective) -> Tensor:
        """The gradient."""
        ctx.save_for_backward(variable)
        ctx.objective = objective
        return objective.gradient_at(variable).clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outer: Any) -> Any:
        """The Hessian times ``outer``."""
        (variable,) = ctx.saved_tensors
        return ctx.objective.hessian_product(variable, outer[0]), None


def _checked_start(x0: Any) -> Array:
    array = np.asarray(x0)
    if array.dtype.kind in "iub":
        array = array.astype(np.float64)
    if array.dtype.kind == "c":
        raise TypeError(f"Expected x0 of real numbers, got {array.dtype}. Pass torch.as_tensor(x0) and a function of tensors to minimize over complex numbers.")
    native = array.dtype.newbyteorder("=")
    if native not in (np.float16, np.float32, np.float64):
        raise TypeError(f"Expected x0 of floating-point numbers up to float64, got {array.dtype}. Convert it with numpy.asarray(x0, dtype=float).")
    if array.ndim > 1:
        raise ValueError(f"Expected x0 of one dimension, got shape {array.shape}. Pass x0.ravel() and reshape inside fun.")
    if array.size == 0:
        raise ValueError("Expected x0 with at least one number, got an empty one.")
    return np.array(np.atleast_1d(array), order="C", dtype=native)


def _checked_gradient(jac: Callable[..., Any] | bool | str | None) -> Callable[..., Any] | Literal[True] | Difference:
    if jac is None or jac is False:
        return "2-point"
    if jac is True or callable(jac):
        return jac
    if isinstance(jac, str) and jac in ("2-point", "3-point"):
        return jac  # type: ignore[return-value]  # one of the two words
    raise ValueError(f"Expected jac to be a function, True, '2-point' or '3-point', got {jac!r}.")


def _checked_pair(returned: Any) -> tuple[Any, Any]:
    if not isinstance(returned, (tuple, list)) or len(returned) != 2:
        raise TypeError(f"Expected fun to return (loss, gradient) because jac=True, got {type(returned).__name__}.")
    return returned[0], returned[1]


def _checked_loss(returned: Any) -> Tensor:
    """The loss as a tensor of shape ``()``; an array of one element is taken, as SciPy does."""
    if isinstance(returned, tuple):
        raise TypeError("Expected fun to return one real number, got a tuple. If it returns (loss, gradient), pass jac=True.")
    array = np.asarray(returned)
    if array.dtype.kind not in "fiub":
        kind = type(returned).__name__ if array.dtype.kind == "O" else array.dtype
        raise TypeError(f"Expected fun to return one real number, got {kind}. End it with `return loss`.")
    if array.size != 1:
        raise ValueError(f"Expected fun to return one number, got an array of shape {array.shape}. Reduce it with .sum() or .mean().")
    kept = np.float32 if array.dtype == np.float32 else np.float64
    return torch.tensor(array.reshape(()).astype(kept).item(), dtype=torch.float32 if kept is np.float32 else torch.float64)
