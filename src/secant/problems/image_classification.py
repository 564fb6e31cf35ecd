"""Classification of standardized images by any model: what the dense, the convolution and the deep networks share."""

from __future__ import annotations

import torch
from torch import nn

from secant.problems.images import LabeledImages
from secant.problems.minibatch import Setting, minibatch_problem
from secant.problems.problem import Problem, Training

_BATCH = 64


def image_classification(
    name: str, images: LabeledImages, model: nn.Module, network: str, *, steps: int, measured: int, seed: int, compile: bool, shape: tuple[int, ...] = (-1,)
) -> Problem:
    """Mean cross entropy of a model on standardized images, in batches of 64.

    Args:
        name: Of the problem.
        images: What to classify.
        model: Takes images of shape ``(samples, *shape)`` to logits of shape ``(samples, 10)``.
        network: The model and its initial weights in words.
        steps: Length of a run.
        measured: How many of the first images the training loss of a trace is measured on.
        seed: Of the model's initial weights.
        compile: Compile the model.
        shape: Of one image for the model; flat unless stated.
    """
    inputs, test_inputs = (torch.unflatten(pixels, 1, shape) for pixels in images.standardized())
    training = Training(
        model=model,
        loss=nn.functional.cross_entropy,
        inputs=inputs,
        targets=images.labels,
        test_inputs=test_inputs,
        test_targets=images.test_labels,
        batch=_BATCH,
        steps=steps,
        classes=True,
        measured=measured,
    )
    settings: dict[str, Setting] = {
        "network": network,
        "loss": "cross entropy",
        **images.settings(),
        "inputs": "pixels / 255, minus pixel_mean, over pixel_deviation",
        "pixel_mean": images.pixel_mean,
        "pixel_deviation": images.pixel_deviation,
    }
    return minibatch_problem(name, training, settings, seed=seed, compile=compile)
