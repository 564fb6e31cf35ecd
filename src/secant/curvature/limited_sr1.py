"""Limited-memory SR1 in its compact form, with the eigenbasis of its few directions."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secant.curvature.curvature import QuadraticModel, State
from secant.curvature.initial import InitialScale
from secant.curvature.pair import ROUNDING_STEP
from secant.curvature.pair_memory import Draft, PairMemory, PairProducts
from secant.curvature.sr1 import DAMPING, SKIP_BELOW
from secant.objective import Objective
from secant.space import LocalSpace, Space
from secant.step import Correction, Point, Step
from secant.subproblem.eigenbasis import Eigenbasis

Array = NDArray[np.float64]

SHARE = 2.0  # of y.y / s.y: at 1 itself the newest pair's s - H y would be orthogonal to y; below, line searches start from steps that are too long
SOFTENING = 1e-2  # of b per step that ends in rounding: few of them in a row are taken for the floor
INVERSE_BELOW = 1e-3  # of b: smaller eigenvalues are read from the inverse, where they are not small differences
RANK = 1e-10  # a direction whose squared sine against the others is smaller is left out of the eigenbasis: the products cannot tell it from rounding
NOISE = 1e-13  # of its terms' squares: a squared residual below is rounding
REST = 1e-8  # share of |g|^2 outside the span that is rounding


@dataclass(frozen=True, slots=True, eq=False)
class _Compact:
    """``B = b I + W C W'`` and its inverse ``H = I / b + W E W'`` with ``W = (Y - b S) diag(weights)``.

    Attributes:
        b: The multiple of the identity.
        weights: Powers of two, one per pair: ``1 / |s|`` over the curvature's unit.
        C, E: Shape ``(k, k)``; rows of pairs that are left out are zero.
        values: The eigenvalues of ``B`` other than ``b``, shape ``(r,)``.
        basis: ``W basis`` are their orthonormal eigenvectors, shape ``(k, r)``.
        newest: What became of the newest pair.
    """

    b: float
    weights: Array
    C: Array
    E: Array
    values: Array
    basis: Array
    newest: Correction


@final
class LimitedSR1(QuadraticModel):
    """The model ``B`` that SR1 makes of ``b I`` and the newest ``m`` pairs, and its inverse.

    With the pairs as columns of ``S`` and ``Y``, ``W = Y - b S``, ``D`` the diagonal and ``L`` the part of ``S'Y`` below it:

        B = b I + W M^-1 W',   M = D + L + L' - b S'S

    ``M^-1`` is built pair by pair, and a pair whose residual ``r = y - B s`` fails ``|r.s| >= 1e-8 |r| |s|``, or whose dual ``s - H y`` fails the same against
    ``y``, is left out, as the dense method would. ``B`` has at most ``m`` eigenvalues other than ``b``; their eigenvectors are combinations of the columns of
    ``W`` and come from small matrices alone.

    Args:
        memory: ``m``, the number of pairs.
        initial: ``"auto"``: ``b`` is twice ``y.y / s.y`` of the newest pair with positive curvature, ``|g|`` before the first. A number is ``1 / b``
            throughout. Where the loss is straight along a step, ``b`` falls to a tenth, where a step ends in rounding to a hundredth: ``y.y / s.y`` is near the
            largest curvature, and steps into softer directions would never grow long enough to be seen.

    Source:
        Byrd, Nocedal & Schnabel (1994), Math. Program. 63, theorem 5.1; eigenbasis: Brust, Erway & Marcia (2017), Comput. Optim. Appl. 66, and Burdakov, Gong,
        Zikrin & Yuan (2017), Math. Program. Comput. 9. Departure: the orthonormal basis comes from the eigenvectors of ``W'W`` with normalized columns, so that
        no vector but the step is formed; eigenvalues far below ``b`` are read from ``H``; and where the pair of a rejected step would be left out, the older
        half of the pairs is dropped until it is not.
    """

    def __init__(self, *, memory: int, initial: InitialScale) -> None:
        self._capacity = memory
        self._initial = initial
        self._memory: PairMemory | None = None
        self._b = 1.0
        self._compact: _Compact | None = None
        self._space: Space = LocalSpace()

    @property
    def negative_eigenvalues(self) -> int:
        """How many eigenvalues of ``B`` are negative."""
        return 0 if self._compact is None else int((self._compact.values < 0.0).sum())

    def update(self, objective: Objective, point: Point, last: Step | None) -> Correction:
        """Take the pair of the last step, accepted or rejected, into the memory. Cost: two passes over the pairs, O(n) and O(m^3)."""
        self._space = objective.space
        if self._memory is None:
            self._start(objective, point)
            return Correction.INITIAL
        if last is None or last.trial is None or last.trial is last.start or not last.trial.is_finite:
            return Correction.NOTHING_NEW
        memory = self._memory
        draft = memory.draft(last, self._space)
        limit = (ROUNDING_STEP * torch.finfo(point.x.dtype).eps) ** 2
        if draft.ss < limit * draft.xx:
            return self._rounding()
        if not sys.float_info.min <= draft.ss < math.inf or not draft.yy < math.inf:
            return self._refused(Correction.SKIPPED_DENOMINATOR)
        if self._is_held_back(draft, last):
            self._scale(DAMPING)
            return Correction.DAMPED
        memory.keep(draft, last, self._space, memory.row_products(draft, self._space))
        b = self._next_b(draft)
        compact = _compact(memory, b)
        while compact is not None and compact.newest is not Correction.APPLIED and last.kept is not last.trial and len(memory) > 1:
            memory.forget_all_but(len(memory) // 2)  # the model cannot be right about a step that was rejected: its old pairs stand in the way
            compact = _compact(memory, b)
        if compact is None:
            self.reset()
            self.update(objective, point, None)
            return Correction.RESET_INDEFINITE
        if compact.newest is not Correction.APPLIED:
            memory.discard_newest()
            return self._refused(compact.newest)
        self._b, self._compact = b, compact
        return Correction.APPLIED

    def solve(self, v: Tensor) -> Tensor:
        """``H v``, shape ``(n,)``, a new tensor. Cost: one pass over the pairs for the gradient of the last update, two for any other vector."""
        memory = self._known_memory()
        compact = self._compact
        if compact is None or not len(memory):
            return memory.combination(v, 1.0 / self._b, torch.zeros(0), torch.zeros(0))
        c = compact.E @ self._seen(compact, memory.products(v, self._space))
        return self._vector(compact, v, 1.0 / compact.b, c)

    def multiply(self, v: Tensor) -> Tensor:
        """``B v``, shape ``(n,)``, a new tensor. Cost: as of :meth:`solve`."""
        memory = self._known_memory()
        diagonal = None if memory.root is None else memory.root**2
        v = v if diagonal is None else v / diagonal
        compact = self._compact
        if compact is None or not len(memory):
            product = memory.combination(v, self._b, torch.zeros(0), torch.zeros(0))
        else:
            product = self._vector(compact, v, compact.b, compact.C @ self._seen(compact, memory.products(v, self._space)))
        return product if diagonal is None else product / diagonal

    def eigenbasis(self, g: Tensor) -> Eigenbasis | None:
        """The eigenvectors other than those of ``b``, and the normalized rest of ``g``; None where the groups' learning rates differ.

        Cost: no pass over the pairs for the gradient of the last update, and one for every vector made of the basis.
        """
        memory = self._known_memory()
        if memory.root is not None:
            return None
        compact, gg = self._compact, self._space.dot(g, g)
        if compact is None or not len(memory):
            length = math.sqrt(gg)
            return Eigenbasis(_host([self._b]), _host([length]), lambda c: g * (float(c[0]) / length if length > 0.0 else 0.0))
        inside = compact.basis.T @ self._seen(compact, memory.products(g, self._space))
        outside = gg - float(inside @ inside)
        if outside <= REST * gg:
            return Eigenbasis(_host(compact.values), _host(inside), lambda c: self._of_length(c, self._vector(compact, g, 0.0, compact.basis @ c.numpy())))
        length = math.sqrt(outside)

        def vector(c: Tensor) -> Tensor:
            multiple = float(c[-1]) / length
            return self._of_length(c, self._vector(compact, g, multiple, compact.basis @ (c[:-1].numpy() - multiple * inside)))

        return Eigenbasis(_host([*compact.values, compact.b]), _host([*inside, length]), vector)

    def dense(self) -> Tensor:
        """``B`` as a new symmetric matrix of shape ``(n, n)``."""
        return self._dense(inverse=False)

    def dense_inverse(self) -> Tensor:
        """``H`` as a new symmetric matrix of shape ``(n, n)``."""
        return self._dense(inverse=True)

    def reset(self) -> None:
        """Forget the pairs; the next ``update`` starts from the initial scale."""
        self._memory = self._compact = None

    def bytes_needed(self, size: int, bytes_per_number: int) -> int:
        """``2 m n`` numbers; see :meth:`PairMemory.bytes_needed`."""
        return PairMemory.bytes_needed(self._capacity, size, bytes_per_number)

    def state(self) -> State:
        """See :class:`~secant.curvature.curvature.Curvature`."""
        return {} if self._memory is None else self._memory.state() | {"b": self._b}

    def load(self, state: State, like: Tensor) -> None:
        """See :class:`~secant.curvature.curvature.Curvature`."""
        self.reset()
        if state:
            self._memory = PairMemory.from_state(state, self._capacity, like)
            self._b = float(state["b"])  # type: ignore[arg-type]
            self._compact = self._rebuilt(self._memory)

    def _start(self, objective: Objective, point: Point) -> None:
        self._memory = PairMemory(self._capacity, objective.initial_scales())
        length = self._space.norm(point.grad) if self._initial == "auto" else 1.0
        self._b = 1.0 / float(self._initial) if self._initial != "auto" else length if length > 0.0 else 1.0
        self._compact = None

    def _is_held_back(self, draft: Draft, last: Step) -> bool:
        """Whether the loss is straight along the step and ``b`` is what kept it short: such a pair has no inverse."""
        if self._initial != "auto" or last.trial is None or draft.yy > SKIP_BELOW * self._b * SKIP_BELOW * self._b * draft.ss:
            return False
        slope = self._space.dot(last.trial.x - last.start.x, last.start.grad)
        return self._b * draft.ss > DAMPING * abs(slope)

    def _rounding(self) -> Correction:
        """A step that ends in rounding where the gradient does not is too short for ``b``, which then hides the softer directions for ever."""
        if self._initial == "auto":
            self._scale(SOFTENING)
        return self._refused(Correction.SKIPPED_ROUNDING)

    def _scale(self, factor: float) -> None:
        memory = self._known_memory()
        measured = (memory.yy.diagonal() / memory.ss.diagonal()).sqrt()
        least = float(measured.amax()) * sys.float_info.epsilon**2 if len(memory) else 0.0  # further away nothing of the pairs is left beside it
        self._b = max(factor * self._b, least, sys.float_info.min)
        self._compact = self._rebuilt(memory)

    def _rebuilt(self, memory: PairMemory) -> _Compact | None:
        """The model of what is in the memory; pairs whose products leave the range of numbers are given up."""
        compact = _compact(memory, self._b) if len(memory) else None
        if compact is None:
            memory.forget_all_but(0)
        return compact

    def _next_b(self, draft: Draft) -> float:
        if self._initial != "auto" or not draft.sy > SKIP_BELOW * math.sqrt(draft.ss) * math.sqrt(draft.yy):
            return self._b
        return SHARE * draft.yy / draft.sy

    def _refused(self, reason: Correction) -> Correction:
        """The pair is not kept; the model may have lost its oldest pair to it."""
        memory = self._known_memory()
        if self._compact is not None and len(memory) < len(self._compact.weights):
            self._compact = self._rebuilt(memory)
        return reason

    def _seen(self, compact: _Compact, products: PairProducts) -> Array:
        """``W'v``."""
        found: Array = compact.weights * (products.on_y.numpy() - compact.b * products.on_s.numpy())
        return found

    def _vector(self, compact: _Compact, v: Tensor, multiple: float, c: Array) -> Tensor:
        """``multiple v + W c``."""
        of_y = torch.from_numpy(compact.weights * c)
        return self._known_memory().combination(v, multiple, -compact.b * of_y, of_y)

    def _of_length(self, c: Tensor, vector: Tensor) -> Tensor:
        """The vector, no longer than its coordinates: small products make a basis orthonormal to half the digits where directions nearly coincide."""
        length, found = float(torch.linalg.vector_norm(c)), self._space.norm(vector)
        return vector.mul_(length / found) if found > length else vector

    def _dense(self, *, inverse: bool) -> Tensor:
        memory, compact = self._known_memory(), self._compact
        multiple = 1.0 / self._b if inverse else self._b
        k = len(memory)
        if compact is None or not k:
            return memory.dense(multiple, torch.zeros(2 * k, 2 * k, dtype=torch.float64), inverse=inverse)
        outer = np.outer(compact.weights, compact.weights) * (compact.E if inverse else compact.C)
        mixed = np.block([[compact.b * compact.b * outer, -compact.b * outer], [-compact.b * outer, outer]])
        return memory.dense(multiple, torch.from_numpy(mixed), inverse=inverse)

    def _known_memory(self) -> PairMemory:
        if self._memory is None:
            raise RuntimeError("Expected a curvature, got none yet: take a step first.")
        return self._memory


def _host(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def _power_of_two(value: float) -> float:
    return math.ldexp(1.0, math.frexp(value)[1])


def _compact(memory: PairMemory, b: float) -> _Compact | None:
    """The model with the scale ``b``; None where its numbers leave the range that a float can hold."""
    ss, sy, yy = memory.ss.numpy(), memory.sy.numpy(), memory.yy.numpy()
    unit = _power_of_two(b)
    per_s = np.array([1.0 / _power_of_two(math.sqrt(value)) for value in ss.diagonal()])
    scale = np.outer(per_s, per_s)
    with np.errstate(over="ignore", invalid="ignore"):
        ss, sy, yy, beta = ss * scale, sy * scale / unit, yy * scale / unit / unit, b / unit
        gram = yy - beta * (sy + sy.T) + beta * beta * ss  # W'W in units of the curvature
        C, E, newest = _recursions(gram, sy.T - beta * ss, yy - beta * sy, ss.diagonal(), yy.diagonal(), beta)
        # W is (Y - b S) diag(weights) with weights = per_s / unit: C carries the unit, E its inverse
        weights, in_units, inverse = per_s / unit, C * unit, E / unit
    if not all(bool(np.isfinite(part).all()) for part in (gram, C, E, weights, in_units, inverse)):
        return None
    values, basis = _eigenvectors(gram, C, E, beta)
    return _Compact(b, weights, in_units, inverse, values * unit, basis, newest)


def _eigenvectors(gram: Array, C: Array, E: Array, beta: float) -> tuple[Array, Array]:
    """The eigenvalues of ``B`` other than ``beta``, and the combinations of ``W`` that are their orthonormal eigenvectors."""
    used = C.any(axis=1)
    if not used.any():
        return np.empty(0), np.zeros((len(C), 0))
    part = np.ix_(used, used)
    norms = np.sqrt(np.maximum(gram.diagonal()[used], sys.float_info.min))
    squares, directions = np.linalg.eigh(gram[part] / np.outer(norms, norms))
    keep = squares > RANK * squares[-1]
    roots = np.sqrt(squares[keep])
    spread = (directions[:, keep] * roots).T * norms
    shifts, turns = _eigh(spread @ C[part] @ spread.T)
    values = beta + shifts
    if np.abs(values).min() < INVERSE_BELOW * beta:
        inverse_shifts, inverse_turns = _eigh(spread @ E[part] @ spread.T)
        inverses = 1.0 / beta + inverse_shifts
        if np.abs(inverses).min() > np.finfo(np.float64).eps * np.abs(inverses).max():
            values, turns = 1.0 / inverses, inverse_turns
    basis = np.zeros((len(C), len(values)))
    basis[used] = (directions[:, keep] / roots / norms[:, None]) @ turns
    return values, basis


def _eigh(matrix: Array) -> tuple[Array, Array]:
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    return values, vectors


def _recursions(gram: Array, on_s: Array, on_y: Array, ss: Array, yy: Array, beta: float) -> tuple[Array, Array, Correction]:
    """The middle matrices of ``B`` and ``H``, pair by pair, leaving out those whose denominators are too small.

    ``on_s = W'S`` and ``on_y = W'Y``. In H: u = s - H y lies in the span of W, too: s_j - y_j / beta = -w_j / beta.
    """
    k, newest = len(ss), Correction.APPLIED
    C, E = np.zeros((k, k)), np.zeros((k, k))
    lengths = np.sqrt(gram.diagonal().clip(0.0))
    for j, unit in enumerate(np.eye(k)):
        r = unit - C @ on_s[:, j]
        u = -unit / beta - E @ on_y[:, j]
        reason = _reason(r, on_s[:, j], ss[j], gram, lengths) or _reason(u, on_y[:, j], yy[j], gram, lengths)
        newest = reason or Correction.APPLIED
        if reason is None:
            C += np.outer(r, r / (r @ on_s[:, j]))
            E += np.outer(u, u / (u @ on_y[:, j]))
    return C, E, newest


def _reason(residual: Array, products: Array, other: float, gram: Array, lengths: Array) -> Correction | None:
    """Why not to divide by ``residual . products``; the residual is given by its coefficients, ``other`` is the square of the vector it is multiplied with."""
    square, denominator = float(residual @ gram @ residual), float(residual @ products)
    largest = float(np.abs(residual) @ lengths)
    if not square > NOISE * largest * largest:  # a power of Python's numbers raises where a product is infinite
        return Correction.SKIPPED_KNOWN
    if not abs(denominator) >= max(SKIP_BELOW * math.sqrt(square) * math.sqrt(other), sys.float_info.min):
        return Correction.SKIPPED_DENOMINATOR
    return None
