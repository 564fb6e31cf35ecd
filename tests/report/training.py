"""Records of training made by hand, with everything a page can show."""

from __future__ import annotations

from secant.race.budget import Budget
from secant.race.records import HealthMoment, LayerHealth, Machine, RunRecord, Setting, Status, TracePoint, TrainingDetails

VANISHES = "learns more than 1,000 times more slowly than the layers after it. Use residual connections."
TECHNIQUES: dict[str, Setting] = {"feed": "batches", "batch": 64, "accumulate": 1, "schedule": "constant", "warmup": 0, "weight_decay": 0.0}
STEPS = (1, 3, 10, 100)


def moment(step: int, names: tuple[str, ...]) -> HealthMoment:
    """The first layer vanishes, the second has no gradient, the third is not finite."""
    gradients = (1e-12, 0.0, None, *(10.0 ** -(index % 5) for index in range(len(names))))
    layers = tuple(
        LayerHealth(name=name, gradient=gradient, update=1e-3, weight=1.0, zeros=float(gradient == 0.0), not_finite=float(gradient is None))
        for name, gradient in zip(names, gradients, strict=False)
    )
    return HealthMoment(step=step, layers=layers, noise_scale=100.0 * step, problems={names[0]: f"Layer {names[0]} {VANISHES}"})


def trained(
    method: str = "adamw", seed: int = 0, scale: float = 1.0, *, layers: tuple[str, ...] = (), learned_at: int | None = 12, **changes: object
) -> RunRecord:
    """A run whose loss falls like ``scale / steps``, whose accuracy rises, and whose test loss is measured at every other moment."""
    techniques = changes.pop("techniques", TECHNIQUES)
    trace = tuple(
        TracePoint(
            evaluations=k,
            steps=k,
            cpu_seconds=k * 1e-3,
            wall_seconds=k * 2e-3,
            loss=scale / (k + 1),
            test_loss=1.1 * scale / (k + 1) if k % 20 == 0 else None,
            accuracy=1.0 - 0.9 / (k + 1) if k % 20 == 0 else None,
        )
        for k in range(0, 101, 10)
    )
    training = TrainingDetails(
        techniques=techniques,
        samples=6400,
        clipped_steps=37,
        skipped_steps=2,
        first_layer_learned_at=learned_at,
        state_numbers=2.125,
        step_share=0.25,
        health=tuple(moment(step, layers) for step in STEPS) if layers else (),
    )
    made = RunRecord(
        problem="digits",
        problem_settings={"samples": 4000},
        parameter_count=1000,
        compiled=False,
        error_name=None,
        method=method,
        variant="lr=0.01",
        grid=("lr=0.01",),
        method_settings={"class": "AdamW", "lr": 0.01},
        seed=seed,
        budget=Budget(steps=100),
        status=Status.BUDGET,
        outcome="Budget of 100 steps used up.",
        steps=100,
        evaluations=100,
        cpu_seconds=0.1,
        wall_seconds=0.2,
        loss=trace[-1].loss,
        error=None,
        trace=trace,
        versions={"python": "3"},
        machine=Machine(cpu="a processor", system="Linux", threads=1),
        training=training,
    )
    return made.model_copy(update=changes)
