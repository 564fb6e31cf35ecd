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
_STORED_BYTES = 1 << 30
"""A Jacobian up to this size is kept for the products that the acceleration needs; a larger one is streamed, and the products cost an evaluation each."""


@final
class GaussNewton(DampedModel):
    """``B = J' J``, the Hessian of ``0.5 |r|^2`` without the second derivatives of the residuals.

    Attributes:
        choice: The solver of the present point and the reason; None before the first.

    Args:
        solver: How damped steps are computed; ``"auto"`` chooses by sizes, free memory and what normal equations were seen to lose.
        scaling: What the damping measures steps by: all parameters alike, or each by the largest norm its column of ``J`` has had.
        jacobian_every: The Jacobian is exact at every so manieth point; between them the last one gets Broyden's rank-one corrections, and is kept whole.
        seed: Of the random signs of the sketch.

    Raises:
        ValueError: An option is out of range.

    Source:
        Nocedal & Wright (2006), section 10.3; Broyden (1965), Math. Comp. 19, eq. 4.5; scaling: More (1978), eq. 6.3.
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
        self._generator = torch.Generator().manual_seed(seed)
        self._space: Space = LocalSpace()
        self._model: LinearModel | None = None
        self._rows: Rows | None = None
        self._point: Point | None = None
        self._scale = torch.empty(0)
        self._dtype = torch.float64
        self._unit = 1.0
        self._steepest = 0.0
        self._age = 0
        self._is_ill_conditioned = False
        self.choice: Choice | None = None

    @property
    def negative_eigenvalues(self) -> int | None:
        """0: ``J' J`` has none."""
        return 0

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
        if isinstance(self._model, NormalEquations):
            self._is_ill_conditioned |= self._model.is_at_rounding
        self._model, self._space, self._dtype = None, objective.space, point.x.dtype  # the next model may need the memory of the last
        rows = self._corrected(objective, point, last)
        is_corrected = rows is not None
        self._age = self._age + 1 if is_corrected else 0
        self._rows = rows or self._evaluated(objective, point)
        self._point = point
        self._steepest = max(self._steepest, self._space.norm(point.grad))
        model = self._linear_model(point)
        squares = model.column_squares
        is_usable = math.isfinite(float(squares.sum()))
        if not is_usable:
            self._rows = StoredRows([(point.grad.new_ones(1), point.grad[None])])
            model = ResidualKernel(self._rows.blocks())
            squares = model.column_squares
        self._model = model
        self._measure(squares)
        assert self.choice is not None
        return Correction.JACOBIAN_UNUSABLE if not is_usable else Correction.JACOBIAN_CORRECTED if is_corrected else _LINEARIZED[self.choice.solver]

    def damped(self, damping: float) -> Solution:
        """See :class:`~secant.curvature.curvature.DampedModel`. Cost: that of the solver, never a Jacobian."""
        step = self._present.damped(damping * self._unit, self._scale)
        return Solution(step.p.to(self._dtype), step.length, step.slope, step.curvature, is_on_boundary=False, has_negative_curvature=False)

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
        """``(J' J)^+`` as a new matrix of shape ``(n, n)``: times the variance of the residuals, the covariance of fitted parameters. Cost: O(n^3)."""
        inverse: Tensor = torch.linalg.pinv(self._present.dense(), hermitian=True)
        return (0.5 * (inverse + inverse.T)).to(self._dtype)

    def eigenbasis(self, g: Tensor) -> Eigenbasis | None:
        """None: the damped step needs none."""
        return None

    def reset(self) -> None:
        """Begin again as at the first point."""
        self._model, self._rows, self._point = None, None, None
        self._scale, self._unit, self._steepest, self._age, self._is_ill_conditioned = torch.empty(0), 1.0, 0.0, 0, False
        self._generator.manual_seed(self._seed)

    def bytes_needed(self, size: int, bytes_per_number: int) -> int:
        """What the solver needs beside the Jacobian, whose rows nobody has counted yet; ``"auto"`` finds a way with what is free."""
        return 0 if self._solver == "auto" else bytes_of(Solver(self._solver), 1, size)

    def state(self) -> State:
        """See :class:`~secant.curvature.curvature.Curvature`; with the Jacobian where it is corrected, else it is evaluated again at the next step."""
        if self._rows is None:
            return {}
        saved: State = {"scale": self._scale.clone(), "steepest": self._steepest, "age": self._age, "is_ill_conditioned": int(self._is_ill_conditioned)}
        saved["generator"] = self._generator.get_state()
        if self._jacobian_every > 1:
            saved["residuals"] = self._rows.residuals()
            saved["jacobian"] = torch.cat([J for _, J in self._rows.blocks()])
        return saved

    def load(self, state: State, like: Tensor) -> None:
        """See :class:`~secant.curvature.curvature.Curvature`."""
        self.reset()
        scale, generator, r, J = (state.get(name) for name in ("scale", "generator", "residuals", "jacobian"))
        if not isinstance(scale, Tensor) or not isinstance(generator, Tensor):
            return
        self._scale = scale.to(like.device, copy=True)
        self._generator.set_state(generator.cpu())
        self._steepest = float(state["steepest"] or 0.0)
        self._age, self._is_ill_conditioned = int(state["age"] or 0), bool(state["is_ill_conditioned"])
        if isinstance(r, Tensor) and isinstance(J, Tensor):
            self._rows = StoredRows([(r.to(like.device, copy=True), J.to(like.device, copy=True))])

    def __getstate__(self) -> dict[str, Any]:
        """All but the rows, which may hold the closure, and the model made of them: both are evaluated again at the next step."""
        kept = self._rows if isinstance(self._rows, StoredRows) else None
        return self.__dict__ | {"_model": None, "_rows": kept, "_point": None, "_generator": self._generator.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the generator, which cannot be pickled."""
        generator = torch.Generator()
        generator.set_state(state["_generator"])
        self.__dict__.update(state | {"_generator": generator})

    @property
    def _present(self) -> LinearModel:
        if self._model is None:
            raise RuntimeError("Expected a linearization, got none yet: take a step first.")
        return self._model

    def _corrected(self, objective: Objective, point: Point, last: Step | None) -> StoredRows | None:
        """The last Jacobian with Broyden's correction; None where an exact one is due."""
        if self._age + 1 >= self._jacobian_every or not isinstance(self._rows, StoredRows):
            return None
        if last is None or last.kept is not point or last.trial is not point or last.outcome.stops:
            return None
        s = point.x - last.start.x
        return self._rows.corrected(objective.trial(point.x), s) if bool((s != 0.0).any()) else None

    def _evaluated(self, objective: Objective, point: Point) -> Rows:
        """The exact Jacobian: kept where its memory is small or its correction is asked for."""
        streamed = StreamedRows(objective, point)
        residuals, size = max(objective.residuals.size, 1), point.x.numel()
        free = free_bytes(point.x.device)
        self.choice = choose(residuals, size, free, is_ill_conditioned=self._is_ill_conditioned)
        if self._solver != "auto":
            self.choice = Choice(Solver(self._solver), "as asked for")
        needed = residuals * size * point.x.element_size()
        fits = needed <= _STORED_BYTES and (free is None or needed <= free // 4)
        if self._jacobian_every > 1 or (fits and self.choice.solver is not Solver.CG):
            return StoredRows(list(streamed.blocks()))
        return streamed

    def _linear_model(self, point: Point) -> LinearModel:
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
                residuals = len(rows.residuals())
                return SketchedRows(rows, point.grad, rows=_SKETCHED_ROWS * size, residuals=residuals, generator=self._generator)

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
