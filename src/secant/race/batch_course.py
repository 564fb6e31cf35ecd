"""The course of one run of a method that learns from batches: data order, micro-batches, clipping, schedule and clock, alike for every method."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm

from secant.race.data_stream import DataStream
from secant.race.errors import UsageError
from secant.race.health_log import Batch, FirstLayer, HealthLog
from secant.race.method import BatchVariant
from secant.race.records import Setting, TracePoint, TrainingDetails
from secant.race.schedules import moving_rate
from secant.race.techniques import Hyperparameters, Techniques
from secant.race.tracer import Tracer
from secant.tree import tensors_in

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from secant.problems import Problem, Training

_PATIENCE = 3
"""Measured moments in a row without a finite loss after which a run has failed: a method may come back from one."""


@final
class BatchCourse:
    """One run under the clock.

    Per step: ``accumulate`` micro-batches from one stream of samples, their mean loss backward, clipping, ``optimizer.step()``, the schedule. A micro-batch
    is one evaluation. Traced moments are measured with the clock paused, in evaluation mode.
    """

    def __init__(self, problem: Problem, tracer: Tracer, techniques: Techniques, *, seed: int, steps: int | None, health: HealthLog | None = None) -> None:
        """Prepare a run from the problem's present parameters, and measure them.

        Args:
            problem: With training data.
            tracer: Fresh, with a clock that stands still.
            techniques: The same for every method of the race.
            seed: Of the order of the data.
            steps: Length of the run for the schedule; None when it is not known.
            health: Where to keep the gradients.

        Raises:
            UsageError: If the problem has no training data, or its parameters are not those of its model.
        """
        self.tracer = tracer
        self._training = _checked_training(problem)
        self._parameters = [parameter for parameter in self._training.model.parameters() if parameter.requires_grad]
        self._techniques = techniques
        self._batch = techniques.batch or self._training.batch
        self._stream = DataStream(len(self._training.inputs), seed)
        self._steps = steps
        self._health = health
        self._first_layer = FirstLayer(self._training.model)
        self._clipped = torch.zeros((), dtype=torch.long, device=self._parameters[0].device)
        self._gradient_seconds = self._step_seconds = 0.0
        self._fruitless = 0
        self._optimizer: Optimizer | None = None
        tracer.measure()

    def train(self, variant: BatchVariant) -> str:
        """Build the optimizer and step until the budget or the patience ends.

        Raises:
            BudgetExhausted: At the end of the budget: the usual end.
            ArithmeticError: If the loss is not finite at three measured moments in a row, or the parameters are not.
        """
        techniques = self._techniques
        wanted = Hyperparameters(lr=variant.lr, momentum=techniques.momentum, weight_decay=techniques.weight_decay)
        optimizer = self._optimizer = variant.build(self._training.model, wanted)
        after_step = moving_rate(optimizer, techniques, self._steps)
        self._training.model.train()
        while True:
            self.tracer.count(techniques.accumulate)
            after_step(self._step(optimizer))
            self._settle()

    def finish(self) -> None:
        """Stop the clock and measure the end of the run."""
        self.tracer.finish()

    def details(self, techniques: dict[str, Setting]) -> TrainingDetails:
        """What the record keeps beside the trace."""
        state: Any = {} if self._optimizer is None else self._optimizer.state_dict().get("state", {})
        count = sum(parameter.numel() for parameter in self._parameters)
        return TrainingDetails(
            techniques=techniques,
            samples=round(self.tracer.evaluations) * self._batch,
            clipped_steps=int(self._clipped),
            skipped_steps=int(getattr(self._optimizer, "skipped_steps", 0)),
            first_layer_learned_at=self._first_layer.learned_at,
            state_numbers=sum(tensor.numel() for tensor in tensors_in(state)) / count,
            step_share=self._step_seconds / self._gradient_seconds if self._gradient_seconds > 0.0 else None,
            health=() if self._health is None else tuple(self._health.moments),
        )

    def _step(self, optimizer: Optimizer) -> Tensor:
        """One step; the mean loss of its micro-batches, detached."""
        began = time.process_time()
        optimizer.zero_grad()
        taken = self._stream.take(self._batch * self._techniques.accumulate).to(self._training.inputs.device)
        rows = torch.split(taken, self._batch)
        losses = [self._backward(self._samples(some)) for some in rows]
        differentiated = time.process_time()
        if self._health is not None and self._health.is_due(self.tracer.steps + 1):
            with self.tracer.clock.paused():
                parts = rows if len(rows) > 1 else _halves(rows[0])
                self._health.before_step(self._training.loss, [self._samples(some) for some in parts])
        self._clip()
        clipped = time.process_time()
        optimizer.step()
        self._step_seconds += time.process_time() - clipped
        self._gradient_seconds += differentiated - began
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _samples(self, rows: Tensor) -> Batch:
        return self._training.inputs[rows], self._training.targets[rows]

    def _backward(self, batch: Batch) -> Tensor:
        """Add a micro-batch's share of the gradient; its share of the loss, detached."""
        inputs, targets = batch
        loss = self._training.loss(self._training.model(inputs), targets)
        if self._techniques.accumulate > 1:
            loss = loss / self._techniques.accumulate
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _clip(self) -> None:
        value, norm = self._techniques.clip_value, self._techniques.clip_norm
        clipped = None
        if value is not None:
            with self.tracer.clock.paused():  # only the count needs to know whether anything was clipped
                clipped = get_total_norm([p.grad for p in self._parameters if p.grad is not None], float("inf")) > value
            clip_grad_value_(self._parameters, value)
        if norm is not None:
            too_long = clip_grad_norm_(self._parameters, norm) > norm
            clipped = too_long if clipped is None else clipped | too_long
        if clipped is not None:
            self._clipped += clipped

    def _settle(self) -> None:
        """End a step: what the record wants to know of it, with the clock paused."""
        step = self.tracer.steps + 1
        if self._first_layer.learned_at is None or self._health is not None:
            with self.tracer.clock.paused():
                self._first_layer.look(step)
                if self._health is not None:
                    self._health.after_step(step)
        point = self.tracer.end_step()
        if point is not None:
            with self.tracer.clock.paused():
                self._check(point)

    def _check(self, point: TracePoint) -> None:
        if not all(bool(parameter.isfinite().all()) for parameter in self._parameters):
            raise ArithmeticError(f"The parameters are not finite after {point.steps} steps.")
        self._fruitless = self._fruitless + 1 if point.loss is None else 0
        if self._fruitless >= _PATIENCE:
            raise ArithmeticError(f"The training loss was not finite at {_PATIENCE} measured moments in a row, the last after {point.steps} steps.")


def _halves(rows: Tensor) -> tuple[Tensor, ...]:
    """Two halves of one size (an odd sample is left out); none of a single sample."""
    half = len(rows) // 2
    return torch.split(rows[: 2 * half], half) if half else ()


def _checked_training(problem: Problem) -> Training:
    training = problem.training
    if training is None:
        raise UsageError(f"The problem {problem.name!r} has no training data to take batches from.", "choose a method that takes the full batch")
    parameters = tuple(training.model.parameters())
    if len(parameters) != len(problem.parameters) or any(a is not b for a, b in zip(parameters, problem.parameters, strict=True)):
        raise UsageError(f"The parameters of {problem.name!r} are not those of its model.", "pass tuple(model.parameters()) as the problem's parameters")
    if not any(parameter.requires_grad for parameter in parameters):
        raise UsageError(f"The problem {problem.name!r} has no trainable parameter.", "set requires_grad on at least one")
    return training
