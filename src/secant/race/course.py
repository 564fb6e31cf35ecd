"""The course of one run of a method that takes the full batch: the closure it sees, counted and timed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secant.race.errors import UsageError
from secant.race.gauge import untouched
from secant.race.health_log import FirstLayer, HealthLog
from secant.race.records import Setting, TrainingDetails
from secant.race.techniques import PLAIN, Techniques
from secant.race.tracer import Tracer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from secant.problems import Problem

_IDLE_STEPS = 20


class IdleError(RuntimeError):
    """A method that goes on without evaluating anything: it would never use up its budget."""


_AGREEMENT = 1e-4
"""Of a sum in parts with the sum in one; float32 sums of a mean agree to about 1e-6."""


@final
class Course:
    """One run under the clock.

    Each evaluation counts as one loss with its gradient, a Hessian product as so many as the tracer's price says. Before it, the budget is checked, and
    :class:`~secant.race.budget.BudgetExhausted` is raised instead of one evaluation too many. Loss and error of the trace are measured at the parameters
    that the method keeps at the end of an iteration, with the clock paused and the evaluation not counted, so they cost no method anything.

    Attributes:
        parameters: The trainable parameters, which methods may write to.
        tracer: The clock, the counts and the trace.
        techniques: What the user asked for, for methods that heed it; the closures heed ``accumulate`` themselves.
        steps: Length of the run; None when it is not known before its end.
        clipped_steps: Steps whose length was limited, counted by the method.
    """

    def __init__(
        self, problem: Problem, tracer: Tracer, *, keep_best: bool, techniques: Techniques = PLAIN, steps: int | None = None, health: HealthLog | None = None
    ) -> None:
        """Prepare a run from the problem's present parameters, and measure them.

        Args:
            problem: Loss, parameters and error.
            tracer: Fresh, with a clock that stands still.
            keep_best: Remember the best evaluated point, and end the run there.
            techniques: See above.
            steps: See above.
            health: Where to keep the gradients; needs training data.

        Raises:
            UsageError: If no parameter is trainable, the loss depends on none of them, or it is asked for in parts and does not divide into them.
        """
        self.parameters = [parameter for parameter in problem.parameters if parameter.requires_grad]
        self.tracer = tracer
        self.techniques = techniques
        self.steps = steps
        self.clipped_steps = 0
        self._problem = problem
        self._keep_best = keep_best
        self._best_loss = math.inf
        self._best: list[Tensor] = []
        self._graph: tuple[NDArray[np.float64], tuple[Tensor | None, ...]] | None = None
        self._idle_since: tuple[float, int] = (0, 0)
        self._calls_backward = _warm_up(problem, self.parameters)
        if techniques.accumulate > 1:
            self._check_parts()
        self._health = health
        self._first_layer = None if problem.training is None else FirstLayer(problem.training.model)
        tracer.measure()
        self._look_ahead()

    def loss(self) -> Tensor:
        """One counted evaluation for a method that differentiates the loss itself: the loss with its graph."""
        self.tracer.count()
        if self.techniques.accumulate == 1:
            return self._problem.loss()
        return torch.stack(list(self._parts())).sum()

    def loss_and_gradient(self) -> Tensor:
        """One counted evaluation: the detached loss, with its gradient in ``.grad``, in ``accumulate`` backward passes over parts of the data."""
        self.tracer.count()
        loss = self._backward()
        if self._keep_best:
            self._remember(float(loss))
        return loss

    def value_and_gradient(self, x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """One counted evaluation at a flat vector of shape ``(n,)``: the loss and its gradient in float64, as SciPy takes them."""
        self.write(torch.as_tensor(x))
        loss = float(self.loss_and_gradient())
        return loss, self.gradient().double().numpy()

    def hessian_times(self, x: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        """One counted Hessian product at a flat vector, both of shape ``(n,)``, as SciPy takes it. The gradient's graph is kept until ``x`` changes."""
        self.tracer.count_products(1)
        if self._graph is None or not np.array_equal(self._graph[0], x):
            self.write(torch.as_tensor(x))
            with torch.enable_grad():
                self._graph = x.copy(), torch.autograd.grad(self._problem.loss(), self.parameters, create_graph=True, allow_unused=True)
        pieces = torch.split(torch.as_tensor(v), [parameter.numel() for parameter in self.parameters])
        reached = [(g, piece.to(g.dtype).view_as(g)) for g, piece in zip(self._graph[1], pieces, strict=True) if g is not None and g.requires_grad]
        outputs, directions = [g for g, _ in reached], [direction for _, direction in reached]
        products = torch.autograd.grad(outputs, self.parameters, directions, retain_graph=True, materialize_grads=True)
        return torch.cat([product.detach().reshape(-1) for product in products]).double().numpy()

    def charge_products(self, so_far: int) -> None:
        """Count the Hessian products that a method made by itself since the last call, given how many there were in all.

        Raises:
            BudgetExhausted: If they used the budget up.
        """
        self.tracer.count_products(so_far - self.tracer.products)

    @property
    def residual(self) -> tuple[Callable[[], Tensor], ...]:
        """The residuals of the problem, neither counted nor timed: see :meth:`charge`."""
        return self._problem.residual

    def charge(self, evaluations: float) -> None:
        """Count what a method evaluated by itself, given the sum since its start.

        Raises:
            BudgetExhausted: If that used the budget up.
        """
        self.tracer.count(evaluations - self.tracer.evaluations)

    def gradient(self) -> Tensor:
        """The gradient of the last :meth:`loss_and_gradient` as a new flat vector of shape ``(n,)``; unreached parameters count as zero."""
        pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return torch.cat([piece.detach().reshape(-1) for piece in pieces])

    def read(self) -> Tensor:
        """The parameters as a new flat vector of shape ``(n,)``."""
        return torch.cat([parameter.detach().reshape(-1) for parameter in self.parameters])

    @torch.no_grad()
    def write(self, x: Tensor) -> None:
        """Set the parameters from a flat vector of shape ``(n,)``, in their own dtype."""
        pieces = torch.split(x, [parameter.numel() for parameter in self.parameters])
        for parameter, piece in zip(self.parameters, pieces, strict=True):
            parameter.copy_(piece.view_as(parameter))

    def settle(self, x: Tensor | None = None) -> None:
        """End an iteration: the method keeps its present parameters, or the flat vector ``x``.

        Raises:
            ArithmeticError: If the loss at a traced moment is not finite.
            BudgetExhausted: After the last step of a budget in steps.
            IdleError: If many iterations in a row evaluated nothing.
        """
        self._check_idle()
        point = self.tracer.end_step(None if x is None else lambda: self.write(x))
        if point is not None and point.loss is None:
            raise ArithmeticError(f"The loss is not a finite number after {self.tracer.evaluations} evaluations.")
        if self._health is not None or (self._first_layer is not None and self._first_layer.learned_at is None):
            self._look_back(x)
        self.tracer.refuse_another_step()

    def finish(self) -> None:
        """Stop the clock, put the kept parameters in place, and measure the end of the run."""
        self.tracer.clock.stop()
        if self._keep_best and self._best:
            with torch.no_grad():
                for parameter, best in zip(self.parameters, self._best, strict=True):
                    parameter.copy_(best)
        self.tracer.finish()

    def details(self, techniques: dict[str, Setting]) -> TrainingDetails | None:
        """What the record keeps beside the trace; None for a plain run of a problem without training data."""
        training = self._problem.training
        if training is None and not techniques:
            return None
        return TrainingDetails(
            techniques=techniques,
            samples=0 if training is None else round(self.tracer.evaluations * len(training.inputs)),
            clipped_steps=self.clipped_steps,
            first_layer_learned_at=None if self._first_layer is None else self._first_layer.learned_at,
            health=() if self._health is None else tuple(self._health.moments),
        )

    def _parts(self) -> Iterator[Tensor]:
        """The loss in ``accumulate`` parts that add up to it."""
        training, count = self._problem.training, self.techniques.accumulate
        if training is None or count == 1:
            yield self._problem.loss()
            return
        samples = len(training.inputs)
        for inputs, targets in zip(training.inputs.tensor_split(count), training.targets.tensor_split(count), strict=True):
            yield training.loss(training.model(inputs), targets) * (len(inputs) / samples)

    def _check_parts(self) -> None:
        """A penalty beside the mean over the samples, or samples that see each other, would silently make another loss of the parts."""
        training = self._problem.training
        if training is None:
            raise UsageError(f"The problem {self._problem.name!r} has no training data to divide.", "leave --accumulate out")
        with untouched(training.model), torch.no_grad():
            whole, parts = float(self._problem.loss()), float(torch.stack(list(self._parts())).sum())
        if math.isfinite(whole) and not math.isclose(whole, parts, rel_tol=_AGREEMENT, abs_tol=_AGREEMENT):
            reason = f"over all data it is {whole:.6g}, in {self.techniques.accumulate} parts {parts:.6g}"
            hint = "leave --accumulate out: a penalty, batch normalization or dropout keeps the loss from being a mean over samples"
            raise UsageError(f"The loss of {self._problem.name!r} does not divide into parts: {reason}.", hint)

    def _backward(self) -> Tensor:
        _clear_gradients(self.parameters)
        losses = []
        with torch.enable_grad():
            for loss in self._parts():
                if not self._calls_backward or self.techniques.accumulate > 1:
                    loss.backward()  # type: ignore[no-untyped-call]
                losses.append(loss.detach())
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    @torch.no_grad()
    def _remember(self, loss: float) -> None:
        if not loss < self._best_loss:
            return
        self._best_loss = loss
        if not self._best:
            self._best = [torch.empty_like(parameter) for parameter in self.parameters]
        for best, parameter in zip(self._best, self.parameters, strict=True):
            best.copy_(parameter)

    def _check_idle(self) -> None:
        evaluations, step = self._idle_since
        this_step = self.tracer.steps + 1
        if self.tracer.evaluations != evaluations:
            self._idle_since = (self.tracer.evaluations, this_step)
        elif this_step - step >= _IDLE_STEPS:
            raise IdleError(f"{_IDLE_STEPS} steps in a row evaluated nothing.")

    def _look_back(self, x: Tensor | None) -> None:
        """Compare the layers with where they were before the step, and look at the gradient before the next."""
        with self.tracer.clock.paused():
            if x is not None:
                self.write(x)
            if self._first_layer is not None:
                self._first_layer.look(self.tracer.steps)
            if self._health is not None:
                self._health.after_step(self.tracer.steps)
            self._look_ahead()

    def _look_ahead(self) -> None:
        """The gradient that the next step starts from, computed aside."""
        training = self._problem.training
        if self._health is None or training is None or not self._health.is_due(self.tracer.steps + 1):
            return
        gradients = [parameter.grad for parameter in self.parameters]
        with untouched(training.model):
            self._backward()
        self._health.before_step(training.loss, ())
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient


def _clear_gradients(parameters: list[Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = None


def _warm_up(problem: Problem, parameters: list[Tensor]) -> bool:
    """Evaluate once with gradient; whether the closure calls ``backward`` itself."""
    if not parameters:
        raise UsageError(f"The problem {problem.name!r} has no trainable parameter.", "set requires_grad on at least one")
    _clear_gradients(parameters)
    with torch.enable_grad():
        loss = problem.loss()
        calls_backward = any(parameter.grad is not None for parameter in parameters)
        if not calls_backward:
            if not (isinstance(loss, Tensor) and loss.requires_grad):
                raise UsageError(f"The loss of {problem.name!r} depends on no parameter.", "return the loss tensor itself, not loss.item()")
            loss.backward()  # type: ignore[no-untyped-call]
    _clear_gradients(parameters)
    return calls_backward
