"""The curvature of a sum of squares: ``J' J`` at the point where the method stands."""

from __future__ import annotations

import math
from typing import Any, Literal, final

import torch
from torch import Tensor

from secant.curvature.curvature import DampedModel, State
from secant.linearization.choice import Choice, Solver, bytes_of, choose
from secant.linearization.cholesky import NormalEquations
from secant.linearization.conjugate_gradients import GaussNewtonProducts
from secant.linearization.linear_model import LinearModel
from secant.linearization.orthogonal import OrthogonalFactors
from secant.linearization.rows import Rows, StoredRows, StreamedRows
from secant.linearization.sketch import SketchedRows
from secant.linearization.woodbury import ResidualKernel
from secant.memory import free_bytes
from secant.objective import Objective
from secant.space import LocalSpace, Space
from secant.step import Correction, Point, Step
from secant.subproblem.eigenbasis import Eigenbasis
from secant.subproblem.solution import Solution

SolverName = Literal["auto", "cholesky", "qr", "woodbury", "cg", "sketch"]
Scaling = Literal["identity", "columns"]

_SKETCHED_ROWS = 4  # times the parameters
_KRYLOV_LIMIT = 500
_SMALL_BYTES = 1 << 24
"""Below this nobody asks what memory is free: the answer takes a millisecond."""
_STORED_BYTES = 1 << 30
"""A Jacobian up to this size is kept for the products that the acceleration needs; a larger one is streamed, and the products cost an evaluation each."""


@final
class GaussNewton(DampedModel):
    """``B = J' J``, the Hessian of ``0.5 |r|^2`` without the second derivatives of the residuals.

    Attributes:
        choice: The solver of the present point and the reason; None before the first.
        age: Corrections since the Jacobian was exact.

    Args:
        solver: How damped steps are computed; ``"auto"`` chooses by sizes, free memory and what normal equations were seen to lose.
        scaling: What the damping measures steps by: all parameters alike, or each by the largest norm its column of ``J`` has had.
        jacobian_every: The Jacobian is exact at every so manieth point; between them the last one gets Broyden's rank-one corrections, and is kept whole.
        seed: Of the random signs of the sketch.

    Raises:
        ValueError: An option is out of range.

    Source:
        Nocedal & Wright (2006), sections 10.3 and 11.1; Broyden (1965), Math. Comp. 19; scaling: More (1978), section 6.
    """

    def __init__(self, *, solver: SolverName = "auto", scaling: Scaling = "identity", jacobian_every: int = 1, seed: int = 0) -> None:
        solvers = ("auto", *(member.value for member in Solver))
        if solver not in solvers:
            raise ValueError(f"Expected solver among {', '.join(map(repr, solvers))}, got {solver!r}.")
        if scaling not in ("identity", "columns"):
            raise ValueError(f"Expected scaling to be 'identity' or 'columns', got {scaling!r}.")
        if jacobian_every < 1:
            raise ValueError(f"Expected jacobian_every >= 1, got {jacobian_every}.")
        if jacobian_every > 1 and solver in ("cg", "sketch"):
            raise ValueError(f"Expected a solver that keeps the Jacobian with jacobian_every={jacobian_every}, got {solver!r}. Use 'cholesky' or 'qr'.")
        self._solver = solver
        self._scaling = scaling
        self._jacobian_every = jacobian_every
        self._seed = seed
        self._space: Space = LocalSpace()
        self._model: LinearModel | None = None
        self._rows: Rows | None = None
        self._point: Point | None = None
        self._x: Tensor | None = None
        self._is_resumed = False
        self._scale = torch.empty(0)
        self._dtype = torch.float64
        self._unit = 1.0
        self._steepest = 0.0
        self._drawn = 0
        self._sketched_rows = 0
        self._is_ill_conditioned = False
        self.age = 0
        self.choice: Choice | None = None

    @property
    def negative_eigenvalues(self) -> int | None:
        """0: ``J' J`` has none."""
        return 0

    @property
    def keeps_rows(self) -> bool:
        """Whether the Jacobian fits into memory and an exact one is due."""
        return isinstance(self._rows, StoredRows) and self.age + 1 >= self._jacobian_every

    @property
    def has_factors(self) -> bool:
        """Whether the solver is a direct one."""
        return not isinstance(self._model, GaussNewtonProducts)

    @property
    def rows(self) -> Rows:
        """The residuals and their Jacobian at the present point."""
        if self._rows is None:
            raise RuntimeError("Expected a linearization, got none yet: take a step first.")
        return self._rows

    def update(self, objective: Objective, point: Point, last: Step | None) -> Correction:
        """Linearize the residuals at ``point``. Cost: one Jacobian, or one evaluation for Broyden's correction, and the solver's algebra."""
        if point is self._point:
            return Correction.NOTHING_NEW
        if self._rows is None:
            objective.initial_scales()  # refuses groups that could never move
        self._is_ill_conditioned = self._has_lost_digits
        self._sketched_rows = max(self._rows_of_sketch, _SKETCHED_ROWS * point.x.numel())  # what the guard asked for stays
        self._model, self._point = None, None  # the next model may need the memory of the last
        self._space, self._dtype = objective.space, point.x.dtype
        if not self._has_returned_to(point):
            rows = self._corrected(objective, point, last)
            self.age = 0 if rows is None else self.age + 1
            self._drawn += 1
            self._rows = self._evaluated(objective, point) if rows is None else rows
        elif not isinstance(self._rows, StoredRows):
            self._rows = self._evaluated(objective, point)
        self._is_resumed, self._x = False, point.x
        self._steepest = max(self._steepest, self._space.norm(point.grad))
        model = self._linear_model(point, objective.row_count)
        is_usable = math.isfinite(float(model.column_squares.sum()))
        if not is_usable:
            self.age = self._jacobian_every  # the next one shall be exact
            model = ResidualKernel([(point.grad.new_ones(1), point.grad[None])])
        self._model, self._point = model, point
        self._measure(model.column_squares)
        assert self.choice is not None
        return Correction.JACOBIAN_UNUSABLE if not is_usable else Correction.JACOBIAN_CORRECTED if self.age > 0 else _LINEARIZED[self.choice.solver]

    def damped(self, damping: float) -> Solution:
        """See :class:`~secant.curvature.curvature.DampedModel`. Cost: that of the solver, never a Jacobian."""
        step = self._present.damped(damping * self._unit, self._scale)
        return Solution(step.p.to(self._dtype), step.length, step.slope, step.curvature, is_on_boundary=False, has_negative_curvature=False)

    def pull_back(self, p: Tensor, damping: float) -> Tensor:
        """See :class:`~secant.curvature.curvature.DampedModel`."""
        return (damping * self._unit * self._scale).to(p.dtype) * p

    def damped_solve(self, v: Tensor, damping: float) -> Tensor:
        """See :class:`~secant.curvature.curvature.DampedModel`."""
        return self._present.damped_solve(v, damping * self._unit, self._scale).to(v.dtype)

    def solve(self, v: Tensor) -> Tensor:
        """``(J' J)^-1 v``, shape ``(n,)``; directions that ``J`` does not see to rounding are left out, or damped by that rounding."""
        return self._present.solve(v).to(v.dtype)

    def multiply(self, v: Tensor) -> Tensor:
        """``J' J v``, shape ``(n,)``."""
        return self._present.multiply(v).to(v.dtype)

    def dense(self) -> Tensor:
        """``J' J`` as a new matrix of shape ``(n, n)``."""
        return self._present.dense().to(self._dtype)

    def dense_inverse(self) -> Tensor:
        """``(J' J)^+`` as a new matrix of shape ``(n, n)``: times the variance of the residuals, the covariance of fitted parameters.

        It is made of the singular values of ``J``, whatever the solver. Cost: ``2 N n^2`` and some ``20 n^3`` flops, and a Jacobian where it was not kept.
        """
        return OrthogonalFactors(self.rows.blocks(), len(self._scale)).dense_inverse().to(self._dtype)

    def eigenbasis(self, g: Tensor) -> Eigenbasis | None:
        """None: the damped step needs none."""
        return None

    def reset(self) -> None:
        """Begin again as at the first point."""
        self._model, self._rows, self._point, self._x, self._is_resumed = None, None, None, None, False
        self._scale, self._unit, self._steepest, self._is_ill_conditioned = torch.empty(0), 1.0, 0.0, False
        self._drawn, self._sketched_rows, self.age, self.choice = 0, 0, 0, None

    def bytes_needed(self, size: int, bytes_per_number: int) -> int:
        """What the solver needs beside the Jacobian, whose rows nobody has counted yet; ``"auto"`` finds a way with what is free."""
        return 0 if self._solver == "auto" else bytes_of(Solver(self._solver), 1, size)

    def state(self) -> State:
        """See :class:`~secant.curvature.curvature.Curvature`; with the Jacobian where it is corrected, else it is evaluated again at the next step."""
        if self._rows is None or self._x is None or self.choice is None:
            return {}
        saved: State = {"x": self._x.clone(), "scale": self._scale.clone(), "steepest": self._steepest, "age": self.age}
        saved |= {"is_ill_conditioned": int(self._has_lost_digits), "drawn": self._drawn, "sketched_rows": self._rows_of_sketch}
        saved |= {"solver": self.choice.solver.value, "reason": self.choice.reason}
        if self._jacobian_every > 1 and isinstance(self._rows, StoredRows):
            saved["residuals"] = self._rows.residuals()
            saved["jacobian"] = self._rows.jacobian()
        return saved

    def load(self, state: State, like: Tensor) -> None:
        """See :class:`~secant.curvature.curvature.Curvature`."""
        self.reset()
        x, scale, r, J = (state.get(name) for name in ("x", "scale", "residuals", "jacobian"))
        if not isinstance(x, Tensor) or not isinstance(scale, Tensor):
            return
        self._x, self._scale, self._is_resumed = x.to(like.device, copy=True), scale.to(like.device, copy=True), True
        self._steepest, self._is_ill_conditioned = float(state["steepest"] or 0.0), bool(state["is_ill_conditioned"])
        self.age, self._drawn, self._sketched_rows = (int(state[name] or 0) for name in ("age", "drawn", "sketched_rows"))
        self.choice = Choice(Solver(state["solver"]), str(state["reason"]))
        if isinstance(r, Tensor) and isinstance(J, Tensor):
            self._rows = StoredRows([(r.to(like.device, copy=True), J.to(like.device, copy=True))])

    def __getstate__(self) -> dict[str, Any]:
        """All but the model, which is made again at the next step, and rows that hold the closure."""
        kept = self._rows if isinstance(self._rows, StoredRows) and self._jacobian_every > 1 else None
        forgotten = {"_model": None, "_rows": kept, "_point": None, "_is_resumed": self._x is not None}
        return self.__dict__ | forgotten | {"_is_ill_conditioned": self._has_lost_digits, "_sketched_rows": self._rows_of_sketch}

    @property
    def _has_lost_digits(self) -> bool:
        """Whether a factorization of normal equations has failed so far."""
        return self._is_ill_conditioned or (isinstance(self._model, NormalEquations) and self._model.is_at_rounding)

    @property
    def _rows_of_sketch(self) -> int:
        """With how many rows the guard was content."""
        return self._model.rows if isinstance(self._model, SketchedRows) else self._sketched_rows

    def _has_returned_to(self, point: Point) -> bool:
        """Whether this is where the saved state was taken: the Jacobian is then of the same age."""
        return self._is_resumed and self._x is not None and torch.equal(self._x, point.x)

    @property
    def _present(self) -> LinearModel:
        if self._model is None:
            raise RuntimeError("Expected a linearization, got none yet: take a step first.")
        return self._model

    def _corrected(self, objective: Objective, point: Point, last: Step | None) -> StoredRows | None:
        """The last Jacobian with Broyden's correction; None where an exact one is due."""
        if self.age + 1 >= self._jacobian_every or not isinstance(self._rows, StoredRows):
            return None
        if last is None or last.kept is not last.trial or last.outcome.stops:
            return None
        if last.kept is not point and not (self._is_resumed and torch.equal(last.kept.x, point.x)):
            return None
        s = point.x - last.start.x
        return self._rows.corrected(objective.trial(point.x), s) if bool((s != 0.0).any()) else None

    def _evaluated(self, objective: Objective, point: Point) -> Rows:
        """The exact Jacobian: kept where its memory is small or its correction is asked for."""
        streamed = StreamedRows(objective, point)
        residuals, size = objective.row_count, point.x.numel()
        largest = max(bytes_of(solver, residuals, size) for solver in Solver)
        free = free_bytes(point.x.device) if largest > _SMALL_BYTES else None
        if self._solver == "auto":
            self.choice = choose(residuals, size, free, is_ill_conditioned=self._is_ill_conditioned)
        else:
            self.choice = Choice(Solver(self._solver), "as asked for")
        needed = residuals * size * point.x.element_size()
        fits = needed <= _STORED_BYTES and (free is None or needed <= free // 4)
        if self._jacobian_every > 1:
            whole = StoredRows(list(streamed.blocks()))
            return StoredRows([(whole.residuals(), whole.jacobian())])  # one block, as a saved state has
        if fits and self.choice.solver is not Solver.CG:
            return StoredRows(list(streamed.blocks()))
        return streamed

    def _linear_model(self, point: Point, residuals: int) -> LinearModel:
        rows, size = self.rows, point.x.numel()
        assert self.choice is not None
        match self.choice.solver:
            case Solver.CHOLESKY:
                return NormalEquations(rows.blocks(), size)
            case Solver.QR:
                return OrthogonalFactors(rows.blocks(), size)
            case Solver.WOODBURY:
                return ResidualKernel(rows.blocks())
            case Solver.CG:
                tolerance = min(0.1, math.sqrt(self._space.norm(point.grad) / self._steepest)) if self._steepest > 0.0 else 0.1
                return GaussNewtonProducts(point.grad, rows.gram_times, self._space, tolerance=tolerance, limit=_KRYLOV_LIMIT)
            case Solver.SKETCH:
                g = rows.transposed_times(rows.residuals()) if isinstance(rows, StoredRows) else point.grad
                return SketchedRows(rows, g, rows=self._sketched_rows, residuals=residuals, seed=self._seed + self._drawn)

    def _measure(self, squares: Tensor) -> None:
        """The diagonal ``D`` and the largest curvature along a parameter in its units, by which dampings are relative."""
        if self._scaling == "identity":
            self._scale = torch.ones_like(squares)
        else:
            largest = squares if self._scale.numel() == 0 else torch.maximum(squares, self._scale.to(squares.dtype))
            self._scale = torch.where(largest > 0.0, largest, torch.ones_like(largest))
        self._unit = max(float((squares / self._scale).amax()), torch.finfo(squares.dtype).tiny)


_LINEARIZED = {
    Solver.CHOLESKY: Correction.LINEARIZED_CHOLESKY,
    Solver.QR: Correction.LINEARIZED_QR,
    Solver.WOODBURY: Correction.LINEARIZED_WOODBURY,
    Solver.CG: Correction.LINEARIZED_CG,
    Solver.SKETCH: Correction.LINEARIZED_SKETCH,
}
