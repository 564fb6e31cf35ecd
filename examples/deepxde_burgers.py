"""The Burgers equation as a DeepXDE model, trained by SSBroyden: any optimizer of torch may be passed to ``compile``.

The model is DeepXDE's own example (penalties for initial data and boundary) with 921 parameters and fixed points. DeepXDE hands the optimizer a closure that
calls ``backward``, a new one for every iteration; ten iterations of ours are one of DeepXDE's here, so that nine of ten can go on from the evaluation before.
Expect the sum of the losses to fall at every line that is printed.

Needs ``pip install deepxde``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

os.environ["DDE_BACKEND"] = "pytorch"  # DeepXDE reads it when it is imported

import deepxde as dde
import numpy as np
from torch import Tensor

import secant

VISCOSITY = 0.01 / np.pi


@dataclass(frozen=True, slots=True)
class Result:
    """The sum of the mean squared residuals of equation, boundary and initial data, at the start and at the end, and why the last step ended as it did."""

    first_loss: float
    last_loss: float
    outcome: secant.Outcome | None


def equation(points: Tensor, u: Tensor) -> Tensor:
    """The residual at each point, in the derivatives of DeepXDE."""
    u_x, u_t = dde.grad.jacobian(u, points, i=0, j=0), dde.grad.jacobian(u, points, i=0, j=1)
    u_xx = dde.grad.hessian(u, points, i=0, j=0)
    return u_t + u * u_x - VISCOSITY * u_xx


def main(iterations: int = 200, points: int = 2540) -> Result:
    """Train for so many steps of DeepXDE."""
    dde.config.set_default_float("float64")
    dde.config.set_random_seed(0)
    domain = dde.geometry.GeometryXTime(dde.geometry.Interval(-1.0, 1.0), dde.geometry.TimeDomain(0.0, 1.0))
    boundary = dde.icbc.DirichletBC(domain, lambda x: 0.0, lambda _, on_boundary: on_boundary)
    initial = dde.icbc.IC(domain, lambda x: -np.sin(np.pi * x[:, :1]), lambda _, on_initial: on_initial)
    data = dde.data.TimePDE(domain, equation, [boundary, initial], num_domain=points, num_boundary=80, num_initial=160)
    network = dde.nn.FNN([2] + [20] * 3 + [1], "tanh", "Glorot uniform")
    model = dde.Model(data, network)
    optimizer = secant.SSBroyden(network.parameters(), iterations_per_step=10)
    model.compile(optimizer)
    history, _ = model.train(iterations=iterations, display_every=max(1, iterations // 10))
    losses = [float(np.sum(loss)) for loss in history.loss_train]
    print(f"sum of the losses {losses[0]:.1e} -> {losses[-1]:.1e}. {optimizer.outcome.sentence if optimizer.outcome else ''}")
    return Result(losses[0], losses[-1], optimizer.outcome)


if __name__ == "__main__":
    main()
