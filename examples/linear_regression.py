"""The line through (1, 1), (2, 2), (3, 3), (4, 4): gradient descent creeps up to its slope, a secant step jumps there.

The model is ``y = theta x`` and the loss the mean squared error. By hand,

    L(theta)  = mean (theta x - y)^2     = 7.5 (theta - 1)^2
    L'(theta) = mean 2 x (theta x - y)   = 15 (theta - 1)

because mean x^2 = (1 + 4 + 9 + 16) / 4 = 7.5. A step of gradient descent with step size 0.01 multiplies the error theta - 1 by 1 - 0.01 * 15 = 0.85, so expect
theta = 1 - 0.85^k after k steps from 0: 0.15, 0.2775, ... and 0.9999999 after 100. Any step size below 2 / 15 converges.

The secant method starts with the same step to 0.15. Then two gradients are known, and the line through them has slope 15, the curvature itself, because L' is
a line. The second step, L' / 15 long, therefore ends at theta = 1. In one dimension BFGS, SR1 and all other secant methods are this one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import secant

X = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
Y = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
STEP_SIZE = 0.01
STEPS = 100


@dataclass(frozen=True, slots=True)
class Result:
    """Both paths from ``theta = 0``.

    Attributes:
        gradient_descent: ``theta`` at the start and after every step.
        secant: The same for BFGS.
        inverse_curvature: What BFGS took for ``1 / L''`` in its last step.
    """

    gradient_descent: tuple[float, ...]
    secant: tuple[float, ...]
    inverse_curvature: float


def loss(theta: Tensor) -> Tensor:
    """The mean squared error."""
    return (theta * X - Y).square().mean()


def gradient(theta: Tensor) -> Tensor:
    """``dL/dtheta``, by hand."""
    return (2.0 * X * (theta * X - Y)).mean()


def descend() -> tuple[float, ...]:
    """Plain gradient descent."""
    theta = torch.zeros((), dtype=torch.float64)
    path = [theta.item()]
    for _ in range(STEPS):
        theta = theta - STEP_SIZE * gradient(theta)
        path.append(theta.item())
    return tuple(path)


def jump() -> tuple[tuple[float, ...], float]:
    """Two steps of BFGS without any line search, and its inverse curvature; ``H = 0.01`` at first makes the first one gradient descent's."""
    theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = secant.BFGS([theta], globalization=secant.FixedStep(), initial_scale=STEP_SIZE)
    path = [theta.item()]
    for _ in range(2):
        optimizer.step(lambda: loss(theta))
        path.append(theta.item())
    return tuple(path), optimizer.curvature.dense_inverse().item()


def main() -> Result:
    """Walk both paths and print them."""
    path, inverse_curvature = jump()
    result = Result(descend(), path, inverse_curvature)
    print("step   gradient descent   secant")
    for k in (0, 1, 2, 10, 50, 100):
        print(f"{k:4d} {result.gradient_descent[k]:18.10f}   {f'{path[k]:.10f}' if k < len(path) else ''}".rstrip())
    print(f"1 / inverse curvature = {1.0 / inverse_curvature:.10f}, expected 15")
    return result


if __name__ == "__main__":
    main()
