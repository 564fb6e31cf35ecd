"""Steps as dictionaries of tensors and numbers, for ``state_dict``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from secant.step import Outcome, Point, Step


def save_step(step: Step | None) -> dict[str, Any] | None:
    """A step as tensors and plain numbers; the tensors are the step's own."""
    if step is None:
        return None
    return {
        "start": _save_point(step.start),
        "trial": None if step.trial is None else _save_point(step.trial),
        "kept_trial": step.kept is step.trial,
        "outcome": step.outcome.name,
    }


def load_step(saved: dict[str, Any] | None, like: Tensor) -> Step | None:
    """The step that was saved, on the device of ``like``."""
    if saved is None:
        return None
    start = _load_point(saved["start"], like)
    trial = None if saved["trial"] is None else _load_point(saved["trial"], like)
    kept = trial if saved["kept_trial"] and trial is not None else start
    return Step(start, trial, kept, Outcome[saved["outcome"]])


def _save_point(point: Point) -> dict[str, Any]:
    return {"x": point.x, "loss": point.loss, "grad": point.grad, "largest_grad": point.largest_grad, "reported": point.reported}


def _load_point(saved: dict[str, Any], like: Tensor) -> Point:
    on_device = {name: saved[name].to(like.device, copy=True) for name in ("x", "grad", "reported")}
    return Point(loss=saved["loss"], largest_grad=saved["largest_grad"], **on_device)
