"""A sum of groups of elements, with gradient and Hessian products, evaluated in a few array operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]
Formula: TypeAlias = Callable[[int, Any], Any]
"""``formula(order, values)``: value and gradient with ``order`` 2, and the Hessian with 3, of all members of a batch at once; the batch is the last axis."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Elements:
    """All elements of one formula.

    Attributes:
        formula: Takes values of shape ``(k, 1, batch)``; its gradient has shape ``(k, batch)``, its Hessian ``(k, k, batch)``.
        variables: Which variables each element reads, shape ``(k, batch)``.
    """

    formula: Formula
    variables: Indices


@final
@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """All groups of one formula; one without a formula is the identity.

    Attributes:
        formula: Takes values of shape ``(batch,)``.
        members: The numbers of the groups, shape ``(batch,)``.
    """

    formula: Formula
    members: Indices


@final
@dataclass(frozen=True, slots=True, eq=False)
class GroupSum:
    """``f(x) = x.Qx / 2 + sum_i g_i(a_i) / s_i`` with ``a = A x - b + W e(x)``: groups ``g_i`` of one number each, elements ``e_j`` of a few variables each.

    Attributes:
        linear: ``A``, dense, shape ``(groups, n)``; None where it is zero.
        constants: ``b``, shape ``(groups,)``.
        scales: ``s``, shape ``(groups,)``.
        groups: The groups that are not the identity, by formula.
        elements: The elements by formula; their numbers ``j`` run through them in this order.
        users: The group of each use of an element.
        used: The element of each use.
        weights: ``W`` at each use.
        quadratic: ``Q``, dense, shape ``(n, n)``; None where it is zero.

    Source:
        Conn, Gould & Toint (1992), LANCELOT, section 1.1: group partially separable functions.
    """

    linear: Vector | None
    constants: Vector
    scales: Vector
    groups: tuple[Groups, ...]
    elements: tuple[Elements, ...]
    users: Indices
    used: Indices
    weights: Vector
    quadratic: Vector | None

    def at(self, x: Vector) -> Evaluation:
        """Value and gradient at ``x``, shape ``(n,)``, which must not change afterwards. Overflow and undefined operations give inf and NaN, silently."""
        with np.errstate(all="ignore"):
            return _evaluate(self, x)


@final
class Evaluation:
    """A :class:`GroupSum` at one point.

    Attributes:
        value: ``f``.
        gradient: Shape ``(n,)``.
    """

    def __init__(self, function: GroupSum, x: Vector, value: float, gradient: Vector) -> None:
        self.value = value
        self.gradient = gradient
        self._function = function
        self._x = x

    def hessian_times(self, v: Vector) -> Vector:
        """``B v``, shape ``(n,)``. The first product evaluates the second derivatives, which later ones share."""
        with np.errstate(all="ignore"):
            return self._curvature.times(v)

    @cached_property
    def _curvature(self) -> _Curvature:
        return _second_derivatives(self._function, self._x)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Curvature:
    """``J' D J + sum_j c_j B_j + Q`` with ``J`` the derivative of ``a``, ``D = g''/s``, and ``c = W' (g'/s)`` on the Hessians of the elements."""

    function: GroupSum
    second: Vector
    slopes: tuple[Vector, ...]
    bent: tuple[Vector, ...]

    def times(self, v: Vector) -> Vector:
        function = self.function
        parts = [v[elements.variables] for elements in function.elements]
        inner = [np.einsum("kb,kb->b", slope, part) for slope, part in zip(self.slopes, parts, strict=True)]
        ahead = _gathered(function, v, inner) * self.second
        back = _spread(function, ahead)
        local = [
            slope * back[place] + np.einsum("klb,lb->kb", bent, part)
            for place, slope, bent, part in zip(_places(function), self.slopes, self.bent, parts, strict=True)
        ]
        return _collected(function, v, ahead, local)


def _evaluate(function: GroupSum, x: Vector) -> Evaluation:
    values, slopes = [], []
    for elements in function.elements:
        value, slope = elements.formula(2, x[elements.variables][:, None])
        values.append(_full(value, elements.variables.shape[1:]))
        slopes.append(_full(slope, elements.variables.shape))
    inner = _gathered(function, x, values) - function.constants
    outer, first = inner.copy(), np.ones_like(inner)
    for groups in function.groups:
        outer[groups.members], first[groups.members] = groups.formula(2, inner[groups.members])
    first /= function.scales
    back = _spread(function, first)
    local = [slope * back[place] for place, slope in zip(_places(function), slopes, strict=True)]
    value = float(np.sum(outer / function.scales))
    if function.quadratic is not None:
        value += 0.5 * float(x @ function.quadratic @ x)
    return Evaluation(function, x, value, _collected(function, x, first, local))


def _second_derivatives(function: GroupSum, x: Vector) -> _Curvature:
    values, slopes, bent = [], [], []
    for elements in function.elements:
        k, batch = elements.variables.shape
        value, slope, hessian = elements.formula(3, x[elements.variables][:, None])
        values.append(_full(value, (batch,)))
        slopes.append(_full(slope, (k, batch)))
        bent.append(_full(hessian, (k, k, batch)))
    inner = _gathered(function, x, values) - function.constants
    first, second = np.ones_like(inner), np.zeros_like(inner)
    for groups in function.groups:
        _, first[groups.members], second[groups.members] = groups.formula(3, inner[groups.members])
    back = _spread(function, first / function.scales)
    weighted = tuple(hessian * back[place] for place, hessian in zip(_places(function), bent, strict=True))
    return _Curvature(function, second / function.scales, tuple(slopes), weighted)


def _full(values: Any, shape: tuple[int, ...]) -> Vector:
    """``values`` in the whole shape: a formula without variables gives one number for all."""
    return np.broadcast_to(np.asarray(values, dtype=np.float64), shape)


def _places(function: GroupSum) -> list[slice]:
    """Where the elements of each formula stand among all."""
    places, start = [], 0
    for elements in function.elements:
        stop = start + elements.variables.shape[1]
        places.append(slice(start, stop))
        start = stop
    return places


def _gathered(function: GroupSum, x: Vector, values: list[Vector]) -> Vector:
    """``A x + W e``, shape ``(groups,)``."""
    inner = np.zeros_like(function.constants) if function.linear is None else function.linear @ x
    if values:
        uses = np.concatenate(values)[function.used] * function.weights
        inner = inner + np.bincount(function.users, uses, minlength=len(inner))
    return inner


def _spread(function: GroupSum, outer: Vector) -> Vector:
    """``W' outer``, one number per element."""
    count = sum(elements.variables.shape[1] for elements in function.elements)
    return np.bincount(function.used, outer[function.users] * function.weights, minlength=count).astype(np.float64, copy=False)


def _collected(function: GroupSum, x: Vector, outer: Vector, local: list[Vector]) -> Vector:
    """``A' outer + Q x`` and what each element adds to its variables, shape ``(n,)``."""
    total = np.zeros_like(x) if function.linear is None else outer @ function.linear
    for elements, part in zip(function.elements, local, strict=True):
        total = total + np.bincount(elements.variables.ravel(), part.ravel(), minlength=len(x))
    return total if function.quadratic is None else total + function.quadratic @ x
