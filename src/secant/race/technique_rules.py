"""Which technique goes with which method, and what the record says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from secant.race.budget import Budget
from secant.race.errors import UsageError
from secant.race.method import Feed, Method, Origin
from secant.race.records import Setting
from secant.race.schedules import RULES
from secant.race.techniques import Decay, Schedule, Techniques

if TYPE_CHECKING:
    from secant.problems import Training


def with_batch_of(techniques: Techniques, training: Training | None) -> Techniques:
    """The techniques with the batch of the problem where the user left it open."""
    return techniques if training is None or techniques.batch is not None else dataclasses.replace(techniques, batch=training.batch)


def recorded(method: Method, techniques: Techniques, *, trains: bool) -> dict[str, Setting]:
    """What the record says of the techniques of a run; empty for a plain run of a problem without training data.

    Args:
        method: What heeds them.
        techniques: With the batch filled in for a method that learns from batches.
        trains: Whether the problem has training data.
    """
    settings: dict[str, Setting] = {"feed": method.feed.value} if trains else {}
    by_batches = method.feed is Feed.BATCH
    if by_batches and techniques.batch is not None:
        settings["batch"] = techniques.batch
    if by_batches or techniques.accumulate > 1:
        settings["accumulate"] = techniques.accumulate
    if by_batches or techniques.schedule is not Schedule.CONSTANT or techniques.warmup:
        settings |= {"schedule": RULES[techniques.schedule], "warmup": techniques.warmup}
    if by_batches or techniques.weight_decay:
        settings |= {"weight_decay": techniques.weight_decay or 0.0, "weight_decay_kind": method.decay.value}
    if techniques.clip_norm is not None:
        settings["clip_norm" if by_batches else "max_step_length"] = techniques.clip_norm
    if by_batches and techniques.clip_value is not None:
        settings["clip_value"] = techniques.clip_value
    if method.takes_momentum and techniques.momentum is not None:
        settings["momentum"] = techniques.momentum
    return settings


def refuse_misfits(methods: Sequence[Method], techniques: Techniques, budget: Budget, *, samples: int | None, batch: int | None) -> None:
    """Nothing, if every method can heed the techniques within the budget.

    Args:
        methods: Of the race.
        techniques: As the user gave them.
        budget: As the user gave it.
        samples: Of training data; None for a problem without.
        batch: Samples per micro-batch that a method is given; None for a problem without training data.

    Raises:
        UsageError: With the reason and the remedy.
    """
    if samples is None or batch is None:
        _refuse_without_data(techniques)
    elif batch > samples:
        raise UsageError(f"--batch needs at most {samples:,} samples, all there are, got {batch:,}.", "leave it out for the problem's own")
    if techniques.momentum is not None and not any(method.takes_momentum for method in methods if method.feed is Feed.BATCH):
        _refuse_full_batch(methods, techniques)
        raise UsageError("--momentum was given, but none of the methods takes another one than its own.", "sgd-momentum takes it")
    _refuse_full_batch(methods, techniques)
    for method in methods:
        if techniques.weight_decay and method.decay is Decay.NONE:
            raise UsageError(f"The method {method.name!r} offers no weight decay.", "leave --weight-decay out, or the method")
        evaluations_per_epoch = 1.0 if samples is None or batch is None or method.feed is Feed.FULL_BATCH else samples / batch
        _refuse_length(method, techniques, budget, evaluations_per_epoch)


def _refuse_without_data(techniques: Techniques) -> None:
    for name, given in (("--batch", techniques.batch is not None), ("--accumulate", techniques.accumulate > 1)):
        if given:
            raise UsageError(f"{name} divides training data, and this problem has none.", f"leave {name} out, or choose a problem such as mnist-mlp")


def _refuse_full_batch(methods: Sequence[Method], techniques: Techniques) -> None:
    """The techniques that make no sense, or do not exist, where a method takes the full batch."""
    for method in methods:
        if method.feed is Feed.BATCH:
            continue
        senseless = (
            ("--batch", techniques.batch is not None, "it evaluates all samples in each step; --accumulate divides them to save memory"),
            ("--momentum", techniques.momentum is not None, "its direction comes from curvature, not from an average of past gradients"),
            ("--clip-value", techniques.clip_value is not None, "a clipped gradient is not the loss's own and would corrupt its curvature; see --clip-norm"),
        )
        for option, given, reason in senseless:
            if given:
                raise UsageError(f"{option} is not for {method.name}, which takes the full batch: {reason}.", f"leave out {option}, or {method.name}")
        if method.origin is Origin.SECANT:
            continue
        absent = (
            ("--schedule", techniques.schedule is not Schedule.CONSTANT),
            ("--warmup", techniques.warmup > 0),
            ("--clip-norm", techniques.clip_norm is not None),
            ("--weight-decay", bool(techniques.weight_decay)),
        )
        for option, given in absent:
            if given:
                reason = "on the full batch, only the methods of this library take it in a race"
                raise UsageError(f"{option} is not for {method.name}: {reason}.", f"leave out {option}, or {method.name}")


def _refuse_length(method: Method, techniques: Techniques, budget: Budget, evaluations_per_epoch: float) -> None:
    by_batches = method.feed is Feed.BATCH
    steps = budget.counted(evaluations_per_epoch).steps_of(techniques.accumulate) if by_batches else budget.steps
    if steps is not None and steps < 1:
        raise UsageError(f"A budget of {budget.text} is less than one step of {techniques.accumulate} micro-batches.", "give --steps, or more epochs")
    if techniques.schedule is Schedule.CONSTANT:
        return
    if steps is None:
        reason = f"a run of {method.name} under a budget of {budget.text} ends after a number of steps that nobody knows before"
        raise UsageError(f"--schedule {techniques.schedule.value} needs the length of the run: {reason}.", "give --steps")
    if techniques.warmup >= steps:
        raise UsageError(f"--warmup needs fewer steps than the run has, {steps}, got {techniques.warmup}.", "a tenth of the run is usual")
