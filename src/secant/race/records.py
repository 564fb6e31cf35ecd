"""What is kept of a run: one record, complete enough to draw it, to judge it and to repeat it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from enum import Enum
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict

from secant.race.budget import Budget

SCHEMA_VERSION: Literal[1] = 1

Setting: TypeAlias = bool | int | float | str


def _finite_or_none(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Finite = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A number, or None where it is NaN or infinite: JSON has neither."""


class Status(Enum):
    """How a run ended."""

    BUDGET = "budget"
    STOPPED = "stopped"
    FAILED = "failed"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TracePoint(_Record):
    """The state of a run at the end of one of its iterations.

    Attributes:
        evaluations: Losses with gradients evaluated so far; a Hessian product counts as two.
        cpu_seconds: Process CPU seconds so far, without the measurement of the error.
        wall_seconds: Wall-clock seconds so far, without the measurement of the error.
        loss: Loss at the kept parameters; None when it is not finite.
        error: Error at the kept parameters; None when it is not finite or the problem has none.
        steps: Iterations so far; 0 in records of full-batch runs made before it was kept.
        test_loss: Loss on held-out data, which is measured at the first, the last and every third moment; None without any.
        accuracy: Share of the held-out samples that are classified right, at the same moments; None where nothing is classified.
    """

    evaluations: int | float
    cpu_seconds: float
    wall_seconds: float
    loss: Finite
    error: Finite = None
    steps: int = 0
    test_loss: Finite = None
    accuracy: Finite = None


class LayerHealth(_Record):
    """The gradient and the update of one layer at one step.

    Attributes:
        name: Of the module that owns the parameters.
        gradient: Euclidean norm of the gradient, before clipping.
        update: Euclidean norm of the change of the parameters.
        weight: Euclidean norm of the parameters before it.
        zeros: Share of the gradient's elements that are exactly 0.
        not_finite: Share of the gradient's elements that are NaN or infinite.
    """

    name: str
    gradient: Finite
    update: Finite
    weight: Finite
    zeros: float
    not_finite: float


class HealthMoment(_Record):
    """The gradients of a run at one step.

    Attributes:
        step: Counted from 1.
        layers: In the model's order.
        noise_scale: The batch size at which noise and gradient are equally large, from this step's halves or micro-batches; None where it cannot be measured.
        problems: What is wrong, by layer: a sentence with the remedy.
    """

    step: int
    layers: tuple[LayerHealth, ...]
    noise_scale: Finite = None
    problems: dict[str, str] = {}


class TrainingDetails(_Record):
    """What a record keeps of a run on a problem with training data, or of a full-batch method under training techniques.

    Attributes:
        techniques: What the method is fed, schedule, warm-up, clipping, accumulation, momentum, weight decay (and which kind), batch: everything the run was
            asked for.
        samples: Training samples seen, repetitions counted.
        clipped_steps: Steps whose gradient (or step length) was clipped.
        skipped_steps: Steps that the method skipped because a gradient was not finite, where it counts them.
        first_layer_learned_at: First step at which the first layer had moved by more than one percent of its norm; None when it never did.
        state_numbers: Numbers that the optimizer keeps between steps, over the number of parameters; None for the full batch.
        step_share: Seconds in ``optimizer.step`` over the seconds of all forward and backward passes; None for the full batch.
        health: Gradients through the run, when they were asked for.
    """

    techniques: dict[str, Setting]
    samples: int
    clipped_steps: int = 0
    skipped_steps: int = 0
    first_layer_learned_at: int | None = None
    state_numbers: Finite = None
    step_share: Finite = None
    health: tuple[HealthMoment, ...] = ()


class Tuning(_Record):
    """The search for the best learning rate of a method.

    Attributes:
        study: Name of the Optuna study, in the file beside the records.
        method: Name of the method.
        seed: The seed on which the rates were compared.
        values: By member of the grid, what the runs are judged by, as far as they had run; None where a run has no finite value.
        best: The member with the lowest value.
    """

    study: str
    method: str
    seed: int
    values: dict[str, Finite]
    best: str


class Machine(_Record):
    """What the run was timed on. Holds no path and no host name.

    Attributes:
        cpu: Model name of the processor.
        system: Operating system and architecture.
        threads: Threads that torch and BLAS were limited to.
    """

    cpu: str
    system: str
    threads: int


class RunRecord(_Record):
    """One method on one problem from one seed.

    Attributes:
        schema_version: Version of this layout.
        problem: Name of the problem.
        problem_settings: What the problem was built with.
        parameter_count: Trainable numbers.
        compiled: Whether the loss was compiled.
        error_name: What ``error`` measures; None when the problem has no error.
        reference: The problem's known value, when it has one.
        method: Name of the method.
        variant: The member of the method's grid, for instance ``"lr=0.001"``; empty without a grid.
        grid: All members of the method's grid.
        method_settings: What the method was built with.
        seed: Seed of the initial parameters.
        budget: The limit of the run.
        status: How it ended.
        outcome: Why it ended, in words.
        steps: Iterations, as the method counts them.
        evaluations: Losses with gradients evaluated; a Hessian product counts as two.
        cpu_seconds: Process CPU seconds.
        wall_seconds: Wall-clock seconds.
        loss: Loss at the end.
        error: Error at the end.
        trace: The run at about geometrically spaced moments, the start first and the end last.
        versions: Versions by package.
        machine: What it ran on.
        training: What is kept of a run on training data or under techniques; None for a plain full-batch run of a problem without training data.
        tuning: What was known of the method's grid when the run ended; None where nothing was tuned.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    problem: str
    problem_settings: dict[str, Setting]
    parameter_count: int
    compiled: bool
    error_name: str | None
    reference: Finite = None
    method: str
    variant: str = ""
    grid: tuple[str, ...] = ()
    method_settings: dict[str, Setting]
    seed: int
    budget: Budget
    status: Status
    outcome: str
    steps: int
    evaluations: int | float
    cpu_seconds: float
    wall_seconds: float
    loss: Finite
    error: Finite
    trace: tuple[TracePoint, ...]
    versions: dict[str, str]
    machine: Machine
    training: TrainingDetails | None = None
    tuning: Tuning | None = None

    @property
    def key(self) -> str:
        """What makes two runs the same run; see :func:`run_key`."""
        return run_key(
            problem=self.problem,
            problem_settings=self.problem_settings,
            compiled=self.compiled,
            method=self.method,
            variant=self.variant,
            method_settings=self.method_settings,
            seed=self.seed,
            budget=self.budget,
            threads=self.machine.threads,
            techniques={} if self.training is None else self.training.techniques,
        )


def run_key(
    *,
    problem: str,
    problem_settings: dict[str, Setting],
    compiled: bool,
    method: str,
    variant: str,
    method_settings: dict[str, Setting],
    seed: int,
    budget: Budget,
    threads: int,
    techniques: dict[str, Setting],
) -> str:
    """The identity of a run: same problem, method, seed, budget and settings give the same text, whatever the versions and the machine."""
    parts = [problem, sorted(problem_settings.items()), compiled, method, variant, sorted(method_settings.items()), seed]
    return json.dumps([*parts, sorted(asdict(budget).items()), threads, sorted(techniques.items())])
