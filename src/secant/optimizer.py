"""The loop, written once: evaluate, correct the inverse, choose how far to trust it, write back."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from secant.closures import Closure
from secant.curvature.curvature import Curvature, DampedModel, PositiveDefiniteInverse, QuadraticModel
from secant.curvature.exact import ExactHessian
from secant.globalization.globalization import Globalization
from secant.layout import Layout
from secant.memory import require_memory
from secant.notice import warn_user
from secant.objective import Counts, Objective
from secant.overlap import seen_on_overlap
from secant.residuals import ResidualClosure, SumOfSquares
from secant.saving import load_step, save_step
from secant.step import Correction, Outcome, Point, Step
from secant.stopping import Progress

C = TypeVar("C", bound=Curvature)
Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]

_SAVED = "secant"


@dataclass(frozen=True, slots=True, eq=False)
class Iteration:
    """What a callback sees after every iteration.

    Attributes:
        number: Iterations so far, counted from 1.
        x: Flat parameters, shape ``(n,)``; not to be written to.
        loss: The minimized number at ``x``.
        largest_grad: ``max |grad|`` at ``x``.
        outcome: Why the step ended as it did.
        correction: What became of the inverse Hessian before the step.
        counts: Evaluations so far.
    """

    number: int
    x: Tensor
    loss: float
    largest_grad: float
    outcome: Outcome
    correction: Correction
    counts: Counts


Callback = Callable[[Iteration], object]


@dataclass(frozen=True, slots=True)
class StepLimits:
    """Absolute tests for methods that promise them; nothing is limited by default.

    Attributes:
        evaluations: A call of ``step`` begins no further iteration once it made so many evaluations.
        gradient: ``max |grad|`` at which the outcome is ``CONVERGED``.
        change: ``|loss change|`` and ``max |parameter change|`` of an accepted step; where one of them is no larger the outcome is ``SMALL_CHANGE``.
    """

    evaluations: float = math.inf
    gradient: float = 0.0
    change: float = 0.0


class CurvatureOptimizer(torch.optim.Optimizer, Generic[C]):
    """A torch optimizer that steps along ``-H g`` with a curvature ``H`` and a globalization.

    It needs a closure that evaluates the loss, with or without calling ``backward``; ``.grad`` is cleared first either way. The evaluation at the end of one
    step is used again at the start of the next while the closure is the same object and nothing wrote to the parameters; where the closure's data change
    behind its back, call :meth:`objective_changed`.

    What is sound with batches: a closure may add up several batches. It must return the same numbers at the same parameters for the whole of one call of
    ``step``: a closure that draws the next batch, or fresh dropout masks, whenever it is called makes the line search compare two functions, and its secant
    pairs are noise. The batch may change between two calls; pass a new closure then. Both points of a secant pair are evaluated on one batch in any case: on
    the step's own, once more at the new point (``same_batch``), or on what it shares with the next one (``overlap``). The noise of a small batch is larger
    than the change of its gradient over a short step; layer-wise methods such as :class:`secant.RankOneKron` are made for that.

    Attributes:
        outcome: Why the last iteration ended as it did, or why the run stopped; None before the first.
        correction: What became of the inverse Hessian before the last step; None before the first.
        last_step: Where the last iteration started, what was tried, what was kept and why; None before the first.
        point: The evaluation at which the last ``step`` left the parameters; None before the first.

    Args:
        params: As for every torch optimizer.
        curvature: The model of the inverse Hessian.
        globalization: How far to trust it.
        lr: Multiplies the first trial length of every search, or the first trust radius. The ratios between the groups' values scale the blocks of the
            initial ``H`` and are read when it is set. A number or a tensor with one element.
        weight_decay: The term ``0.5 * weight_decay * |x|^2`` becomes part of the objective; ``step`` still returns the closure's own loss.
        maximize: Maximize instead of minimizing.
        iterations_per_step: Iterations in one call of ``step``.
        gradient_tolerance: ``max |grad|`` relative to the first one at which the outcome is ``CONVERGED``; 0 goes on to the rounding floor.
        max_step_length: Largest Euclidean distance between the parameters before and after an iteration, of the trials too; None sets no limit. What clipping
            is to a first-order method: it keeps one bad direction from throwing the parameters far away.
        callback: Called with an :class:`Iteration` after each; raising ``StopIteration`` stops.
        process_group: Ranks over which loss and gradient are reduced; None communicates nothing.
        reduction: ``"mean"`` or ``"sum"`` over the ranks.

    Raises:
        TypeError: The globalization needs more than the curvature offers, or a parameter is of an unsupported kind.
        ValueError: An option is out of range, or there is nothing to train.
        MemoryError: The curvature does not fit into what is free.
    """

    def __init__(
        self,
        params: Params,
        curvature: C,
        globalization: Globalization[C],
        *,
        lr: float | Tensor = 1.0,
        weight_decay: float = 0.0,
        maximize: bool = False,
        iterations_per_step: int = 1,
        gradient_tolerance: float = 0.0,
        max_step_length: float | None = None,
        callback: Callback | None = None,
        process_group: dist.ProcessGroup | None = None,
        reduction: str = "mean",
    ) -> None:
        _check_group(lr, weight_decay)
        _check_options(iterations_per_step, gradient_tolerance, max_step_length)
        if not isinstance(globalization, Globalization):
            name = getattr(globalization, "__name__", type(globalization).__name__)
            raise TypeError(f"Expected a globalization such as HagerZhang(), got {name}. If that is the class, build it: {name}().")
        if not isinstance(curvature, globalization.needs):
            raise TypeError(
                f"{type(globalization).__name__} needs a curvature that offers multiply(v); {type(curvature).__name__} offers only solve(v). "
                "Use SR1 or a line search."
            )
        self._objective: Objective | None = None
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self._curvature = curvature
        self._globalization = copy.deepcopy(globalization)  # it remembers earlier steps, and the caller may give the same one to several optimizers
        self._globalization.forget()
        self._iterations_per_step = iterations_per_step
        self._gradient_tolerance = gradient_tolerance
        self._longest = math.inf if max_step_length is None else max_step_length
        self._callback = callback
        self._limits = StepLimits()
        self._objective_options = {"maximize": maximize, "process_group": process_group, "reduction": reduction}
        if isinstance(curvature, ExactHessian):
            self._objective_options |= {"hessian": curvature.hessian, "keeps_graph": True}
        self._progress = Progress()
        self._unused: Step | None = None
        self._pending_reset: Correction | None = None
        self._overlap: Objective | None = None
        self._squares: SumOfSquares | None = None
        self._warned_float32 = False
        self.last_step: Step | None = None
        self.point: Point | None = None
        self.outcome: Outcome | None = None
        self.correction: Correction | None = None
        self._objective = self._new_objective()

    @property
    def counts(self) -> Counts:
        """Losses, gradients and Hessian products evaluated so far."""
        return self._border().counts

    @property
    def curvature(self) -> C:
        """The model of the inverse Hessian."""
        return self._curvature

    @property
    def size(self) -> int:
        """``n``, the number of trainable real numbers."""
        return self._border().layout.size

    @property
    def iteration(self) -> int:
        """Iterations so far."""
        return self._progress.iteration

    def step(  # type: ignore[override]
        self, closure: Closure | Sequence[ResidualClosure] | None = None, *, same_batch: bool = True, overlap: Closure | None = None
    ) -> Tensor:
        """Take ``iterations_per_step`` iterations, fewer when an outcome stops them.

        Args:
            closure: Evaluates the loss of the full batch, or of the batch of this step, and returns it, with or without calling ``backward``. For the methods
                of least squares it returns the residuals, see :class:`secant.LevenbergMarquardt`.
            same_batch: Take the secant pairs of this step on its own batch, which is evaluated again at the new point (every search does so anyway).
            overlap: With ``same_batch=False``, a closure over the data that this batch shares with the next one, on which the secant pairs are taken instead.
                It should be a good share of the batch (a quarter, say). Cost: two evaluations of it per iteration, counted as such. The rules of self-scaling
                take a step to be a multiple of ``-H g``, which it is not in the eyes of the overlap: BFGS, L-BFGS, SR1 and L-SR1 are the choice here.

        Returns:
            The closure's loss at the start of the step, detached.

        Raises:
            TypeError: No closure was given, or it returns no loss.
            ValueError: ``same_batch`` and ``overlap`` contradict each other.
            RuntimeError: The loss has no graph or reaches no parameter.
        """
        if closure is None:
            raise TypeError(
                f"{type(self).__name__}.step needs a closure that evaluates the loss. Define it once and pass it to every call: optimizer.step(closure)."
            )
        if overlap is not None and isinstance(self._curvature, DampedModel):
            raise ValueError(f"Expected no overlap, got one: {type(self).__name__} forms no secant pairs, and may be given another batch at every step.")
        if same_batch == (overlap is not None):
            got = f"same_batch={same_batch}, overlap {'given' if overlap is not None else 'not given'}"
            raise ValueError(f"Expected same_batch=True without an overlap, or same_batch=False with one, got {got}. A pair across two batches would be noise.")
        self._renew_layout()
        objective = self._border()
        objective.bind(self._as_loss(closure), self.param_groups)
        self._overlap = None
        if overlap is not None:
            self._overlap = Objective(self.param_groups, **self._objective_options)  # type: ignore[arg-type]
            self._overlap.bind(overlap, self.param_groups)
        most = objective.counts.losses + self._limits.evaluations
        start = point = objective.here()
        objective.best = start if start.is_finite else None
        try:
            for _ in range(self._iterations_per_step):
                point = self._iterate(objective, point)
                if self.outcome is None or self.outcome.stops or self.outcome in _ENDS_STEP or objective.counts.losses >= most:
                    break
        except BaseException:
            # The parameters stand at some trial point: the best finite one of this call is where a user who interrupts wants them.
            self.go_to(objective.best or start)
            raise
        if self.outcome is Outcome.NOT_FINITE and objective.best is not None and objective.best.loss < point.loss:
            point = objective.best
        self.go_to(point)
        return start.reported

    def _as_loss(self, closure: Closure | Sequence[ResidualClosure]) -> Closure:
        """The closure as one of a loss: half the sum of squares where it returns residuals."""
        if not isinstance(self._curvature, DampedModel):
            if not callable(closure):
                raise TypeError(f"Expected a closure that returns the loss, got {type(closure).__name__}. Pass one function: step(closure).")
            return closure
        if isinstance(closure, SumOfSquares):
            return closure
        if self._squares is None or not self._squares.is_of(closure):
            self._squares = SumOfSquares(closure)
        return self._squares

    def go_to(self, point: Point) -> None:
        """Put the parameters at a point that was evaluated before."""
        self._border().write(point)
        self.point = point

    def correct(self) -> None:
        """Correct the curvature with the last step now, not at the start of the next: to read it, or when no step will follow."""
        if self.point is not None and (self._unused is not None or isinstance(self._curvature, DampedModel)):
            self.correction = self._correct(self._border(), self.point)

    def objective_changed(self) -> None:
        """Evaluate again at the next step although closure and parameters look the same: its data changed. No pair is formed across the change.

        The inverse Hessian is kept, corrected with the last step, if it is still positive definite; else the next step begins anew and says so
        (``Correction.RESET_INDEFINITE``). SR1 is kept in any case, because it may be indefinite. Cost: a Cholesky factorization of a dense inverse.
        """
        if not isinstance(self._curvature, (DampedModel, ExactHessian)):  # these would look at the new data
            self.correct()
        self._border().forget()
        if self._squares is not None:
            self._squares.renew()
        self._globalization.objective_changed()
        if isinstance(self._curvature, PositiveDefiniteInverse) and not self._curvature.is_positive_definite():
            self._forget_curvature(Correction.RESET_INDEFINITE)

    def reset_curvature(self) -> None:
        """Start again from the initial scale at the next step."""
        self._forget_curvature(Correction.RESET_REQUESTED)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as in torch; the curvature is reset, because its size changes. A group that is refused is not added."""
        super().add_param_group(param_group)
        try:
            group = self.param_groups[-1]
            _check_group(group["lr"], group["weight_decay"])
            if self._objective is not None:  # else torch's constructor is still collecting groups
                Layout(self.param_groups)  # a frozen parameter must be of a supported kind, too
                self._renew_layout()
        except (TypeError, ValueError, MemoryError):
            self.param_groups.pop()
            raise

    def state_dict(self) -> dict[str, Any]:
        """The dictionary of torch and, under ``"secant"``, all that is needed to resume bit for bit: tensors and plain numbers, in their own dtypes.

        The curvature's tensors are copies, which doubles its memory: a dictionary that is kept stays what it was while the run goes on.
        """
        layout = self._border().layout
        saved = {
            "method": type(self).__name__,
            "parts": self._parts(),
            "size": layout.size,
            "dtype": str(layout.dtype),
            "curvature": self._curvature.state(),
            "globalization": self._globalization.memory(),
            "progress": asdict(self._progress),
            "last": save_step(self._unused),
            "counts": asdict(self.counts),
            "outcome": None if self.outcome is None else self.outcome.name,
            "correction": None if self.correction is None else self.correction.name,
            "pending_reset": None if self._pending_reset is None else self._pending_reset.name,
        }
        return super().state_dict() | {_SAVED: saved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state; the next step goes on bit for bit where it was taken.

        Options of the constructor (``maximize``, ``theta``, the constants of a globalization) are not saved: build the optimizer as it was.

        Raises:
            ValueError: The dictionary was saved by another kind of optimizer, or for parameters of another total size or type. Nothing is changed then.
        """
        self._check_saved(state_dict)
        saved = state_dict[_SAVED]
        super().load_state_dict({key: value for key, value in state_dict.items() if key != _SAVED})
        self._curvature.reset()
        self._objective = self._new_objective()
        layout = self._objective.layout
        like = torch.empty(0, dtype=layout.dtype, device=layout.device)
        self._unused = self.last_step = load_step(saved["last"], like)
        self.point = None
        self._curvature.load(saved["curvature"], like)
        self._globalization.recall(saved["globalization"])
        self._progress = Progress(**saved["progress"])
        self._objective.counts = Counts(**saved["counts"])
        self.outcome = None if saved["outcome"] is None else Outcome[saved["outcome"]]
        self.correction = None if saved["correction"] is None else Correction[saved["correction"]]
        self._pending_reset = None if saved["pending_reset"] is None else Correction[saved["pending_reset"]]

    def __getstate__(self) -> dict[str, Any]:
        """What ``pickle`` and ``deepcopy`` take: everything but the last closure, which belongs to the caller's program."""
        mine = {name: value for name, value in self.__dict__.items() if name in _PICKLED}
        return super().__getstate__() | mine | {"_saved_counts": self.counts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the border with torch around the copied parameters."""
        counts = state.pop("_saved_counts", None)
        super().__setstate__(state)
        if counts is not None:
            self._objective = self._new_objective()
            self._objective.counts = counts
            self._squares = None

    def _parts(self) -> list[str]:
        return [type(self._curvature).__name__, type(self._globalization).__name__]

    def _check_saved(self, state_dict: dict[str, Any]) -> None:
        name, layout = type(self).__name__, self._border().layout
        if _SAVED not in state_dict:
            raise ValueError(f"Expected a state_dict saved by {name}, got one without the entry {_SAVED!r}.")
        saved = state_dict[_SAVED]
        if saved["method"] != name:
            raise ValueError(f"Expected a state_dict saved by {name}, got one of {saved['method']}.")
        parts = self._parts()
        if saved["parts"] != parts:
            raise ValueError(f"Expected a state saved with {' and '.join(parts)}, got one with {' and '.join(saved['parts'])}. Build the optimizer as it was.")
        if saved["size"] != layout.size:
            raise ValueError(f"Expected a state for {layout.size} trainable numbers, got one for {saved['size']}.")
        if saved["dtype"] != str(layout.dtype):
            raise ValueError(f"Expected a state in {layout.dtype}, got one in {saved['dtype']}. Convert the model to it before loading.")

    def _iterate(self, objective: Objective, start: Point) -> Point:
        """One iteration from ``start``, where the parameters stand; the point that was kept."""
        self._progress = self._progress.begun(start)
        lr = objective.learning_rate()
        if not start.is_finite:
            step = Step(start, None, start, Outcome.NOT_FINITE)
        elif lr == 0.0:
            self.outcome = Outcome.ZERO_LEARNING_RATE
            return start
        elif start.largest_grad <= self._tolerance() * self._progress.first_grad:
            self.outcome = Outcome.CONVERGED
            return start
        else:
            step = self._advance(objective, start, lr)
        if start.is_finite:
            self._unused = step if self._overlap is None else self._lesson_of(objective, step, self._overlap)
        self.last_step = step
        objective.write(step.kept)
        self._progress = self._progress.after(step)
        self.outcome = self._progress.verdict(step.kept, self._tolerance()) or self._small_change(step) or self._named(step)
        self._warn_float32(objective)
        self._report(step)
        return step.kept

    def _lesson_of(self, objective: Objective, step: Step, overlap: Objective) -> Step | None:
        before = overlap.counts
        lesson = seen_on_overlap(step, overlap)
        objective.counts += overlap.counts - before
        if step.trial is not None:
            objective.moved_to(step.kept)
        return lesson

    def _tolerance(self) -> float:
        """``max |grad|`` relative to the first one that counts as converged."""
        first = self._progress.first_grad
        return max(self._gradient_tolerance, self._limits.gradient / first) if first > 0.0 else self._gradient_tolerance

    def _small_change(self, step: Step) -> Outcome | None:
        if self._limits.change == 0.0 or not step.outcome.is_accepted:
            return None
        change = abs(step.kept.loss - step.start.loss)
        is_small = change <= self._limits.change or float((step.kept.x - step.start.x).abs().amax()) <= self._limits.change
        return Outcome.SMALL_CHANGE if is_small else None

    def _named(self, step: Step) -> Outcome:
        """The step's outcome; that negative curvature of the model was used is more telling than the test the step passed."""
        model = self._curvature
        uses = step.outcome.is_accepted and isinstance(model, QuadraticModel) and bool(model.negative_eigenvalues)
        return Outcome.NEGATIVE_CURVATURE if uses else step.outcome

    def _advance(self, objective: Objective, start: Point, lr: float) -> Step:
        """Correct, then step; once more from a fresh curvature where the corrected one leads nowhere."""
        self.correction = self._correct(objective, start)
        step = self._globalization.advance(objective, start, self._curvature, lr, self._longest)
        reason = self._reason_to_reset(step)
        if reason is None:
            return step
        self._forget_curvature(reason)
        self.correction = self._correct(objective, start)
        step = self._globalization.advance(objective, start, self._curvature, lr, self._longest)
        return replace(step, outcome=Outcome.STUCK) if step.outcome in (Outcome.NO_DECREASE, Outcome.NO_DESCENT) else step

    def _correct(self, objective: Objective, start: Point) -> Correction:
        correction = self._curvature.update(objective, start, self._unused)
        if self._pending_reset is not None and correction in _BEGINS:
            correction = self._pending_reset
        self._pending_reset, self._unused = None, None
        return correction

    def _reason_to_reset(self, step: Step) -> Correction | None:
        if step.outcome is Outcome.NO_DESCENT:
            return Correction.RESET_NO_DESCENT
        if step.outcome in (Outcome.NO_DECREASE, Outcome.NOT_FINITE) and self._progress.failures >= 1:
            return Correction.RESET_NO_DECREASE
        return None

    def _forget_curvature(self, reason: Correction) -> None:
        self._curvature.reset()
        self._globalization.forget()
        self._unused, self._pending_reset = None, reason

    def _renew_layout(self) -> None:
        """Notice parameters that were added, frozen, unfrozen, moved or converted since the last step."""
        border = self._border()
        if border.layout.matches(self.param_groups):
            return
        self._forget_curvature(Correction.RESET_PARAMETERS)
        self._objective = self._new_objective()
        self._objective.counts = border.counts
        self._progress = Progress(iteration=self._progress.iteration)

    def _new_objective(self) -> Objective:
        objective = Objective(self.param_groups, **self._objective_options)  # type: ignore[arg-type]
        layout = objective.layout
        bytes_per_number = torch.finfo(layout.dtype).bits // 8
        needed = self._curvature.bytes_needed(layout.size, bytes_per_number)
        require_memory(needed, layout.device, f"The curvature of {type(self).__name__} for {layout.size} parameters")
        return objective

    def _border(self) -> Objective:
        assert self._objective is not None
        return self._objective

    def _warn_float32(self, objective: Objective) -> None:
        stalls = self._progress.flat >= _STALLING or self.outcome in (Outcome.ROUNDING_FLOOR, Outcome.STUCK)
        if not stalls or self._warned_float32 or objective.layout.dtype != torch.float32:
            return
        self._warned_float32 = True
        warn_user(
            "float32 no longer resolves the decrease of the loss, so the run will stall about here. Convert the model and its data with .double() "
            "for more digits."
        )

    def _report(self, step: Step) -> None:
        if self._callback is None or self.outcome is None or self.correction is None:
            return
        kept = step.kept
        try:
            self._callback(Iteration(self._progress.iteration, kept.x, kept.loss, kept.largest_grad, self.outcome, self.correction, self.counts))
        except StopIteration:
            self.outcome = Outcome.CALLBACK


_STALLING = 3  # iterations without progress after which float32 is told to be the reason
_BEGINS = frozenset(
    {
        Correction.INITIAL,
        Correction.EXACT,
        Correction.DIFFERENCES,
        Correction.LINEARIZED_CHOLESKY,
        Correction.LINEARIZED_QR,
        Correction.LINEARIZED_WOODBURY,
        Correction.LINEARIZED_CG,
        Correction.LINEARIZED_SKETCH,
    }
)
_ENDS_STEP = frozenset({Outcome.ZERO_LEARNING_RATE, Outcome.NOT_FINITE})
_PICKLED = frozenset(
    {
        "_curvature",
        "_globalization",
        "_iterations_per_step",
        "_gradient_tolerance",
        "_longest",
        "_callback",
        "_limits",
        "_objective_options",
        "_progress",
        "_unused",
        "_pending_reset",
        "_warned_float32",
        "last_step",
        "point",
        "outcome",
        "correction",
    }
)


def _check_group(lr: float | Tensor, weight_decay: float) -> None:
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"Expected lr to be a number or a tensor with one element, got shape {tuple(lr.shape)}.")
    if not 0.0 <= float(lr) < math.inf:
        raise ValueError(f"Expected 0 <= lr < inf, got lr={float(lr)}.")
    if not 0.0 <= weight_decay < math.inf:
        raise ValueError(f"Expected 0 <= weight_decay < inf, got weight_decay={weight_decay}.")


def _check_options(iterations_per_step: int, gradient_tolerance: float, max_step_length: float | None) -> None:
    if iterations_per_step < 1:
        raise ValueError(f"Expected iterations_per_step >= 1, got {iterations_per_step}.")
    if not 0.0 <= gradient_tolerance < 1.0:
        raise ValueError(f"Expected 0 <= gradient_tolerance < 1 (relative to the first gradient), got {gradient_tolerance}.")
    if max_step_length is not None and not max_step_length > 0.0:
        raise ValueError(f"Expected max_step_length > 0, got {max_step_length}. Leave it out for steps of any length.")
