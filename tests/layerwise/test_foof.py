from __future__ import annotations

import torch
from torch import nn

from secant.layerwise.foof import Foof, FoofPreconditioner
from secant.layerwise.preconditioner import Length
from secant.layerwise.taps import Taps

from .tapped import DOUBLE, DenseInverse, captures, conv_net, dense_net, random


def test_preconditioned_gradients_are_those_of_the_dense_formula() -> None:
    for model, shape in ((dense_net(), (8, 6)), (conv_net(), (8, 2, 8, 8))):
        preconditioner = FoofPreconditioner(model, factor_decay=0.7, damping=0.05, columns=3, seed=5, length=Length.AS_SOLVED)
        witness = Taps(model, columns=3, seed=5)
        dense = {name: DenseInverse(weight[0].numel(), 0.7, 0.05) for name, weight in witness.weights.items()}
        for step in range(12):
            model.zero_grad()
            model(random(*shape, seed=step) * (step + 1)).square().mean().backward()
            expected = {}
            for name, capture in captures(witness).items():
                dense[name].correct(capture.inputs)
                expected[name] = dense[name].solve(witness.weights[name].grad.flatten(1))
            witness.clear()
            witness.step += 1
            preconditioner.step()
            for name, gradient in expected.items():
                torch.testing.assert_close(witness.weights[name].grad.flatten(1), gradient, rtol=1e-9, atol=1e-12)


def test_averaged_over_steps_the_curvature_is_the_input_factor_of_kfac() -> None:
    """500 steps of 32 columns on one batch; the relative error of a second moment from 16,000 vectors is about sqrt(6 / 16,000) = 1.9 %."""
    model = dense_net()
    inputs = random(9, 6)
    with torch.no_grad():
        hidden = torch.tanh(model[0](inputs))
    taps = Taps(model, columns=32, outputs=False)
    sums = {"0.weight": torch.zeros(6, 6, dtype=DOUBLE), "2.weight": torch.zeros(5, 5, dtype=DOUBLE)}
    for step in range(500):
        taps.clear()
        taps.step = step
        model(inputs).sum().backward()
        for name, total in sums.items():
            vectors = captures(taps)[name].inputs
            total += vectors @ vectors.T / 500
    for name, rows in (("0.weight", inputs), ("2.weight", hidden)):
        expected = rows.T @ rows / 9
        assert float((sums[name] - expected).norm() / expected.norm()) < 0.05


def test_output_gradients_are_not_captured() -> None:
    model = dense_net()
    preconditioner = FoofPreconditioner(model)
    model(random(8, 6)).sum().backward()
    assert {capture.outputs for capture in captures(preconditioner.taps).values()} == {None}


def test_ill_conditioned_inputs_cost_gradient_descent_far_more_than_foof() -> None:
    """Least squares on inputs of condition 1e4: after 200 steps of the best of three rates each, less than a tenth of plain momentum's loss."""
    scales = torch.logspace(0.0, -2.0, 16, dtype=DOUBLE)
    inputs = random(512, 16) * scales
    targets = (inputs / scales) @ random(16, 1, seed=1)
    losses: dict[bool, list[float]] = {True: [], False: []}
    for is_preconditioned in losses:
        for lr in (0.01, 0.1, 0.3):
            layer = nn.Linear(16, 1, dtype=DOUBLE)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
            preconditioner = FoofPreconditioner(layer, damping=1e-3, length=Length.AS_SOLVED) if is_preconditioned else None
            optimizer = torch.optim.SGD(layer.parameters(), lr=lr, momentum=0.9)
            for step in range(200):
                batch = torch.arange(64) + 64 * (step % 8)
                optimizer.zero_grad()
                loss = (layer(inputs[batch]) - targets[batch]).square().mean()
                loss.backward()
                if preconditioner is not None:
                    preconditioner.step()
                optimizer.step()
            losses[is_preconditioned].append(float((layer(inputs) - targets).square().mean().detach()))
    assert min(losses[True]) < 0.1 * min(losses[False])


def test_the_whole_optimizer_trains_a_network() -> None:
    model = dense_net(torch.float32)
    optimizer = Foof(model)
    inputs = random(64, 6, dtype=torch.float32)
    targets = torch.sin(inputs @ random(6, 3, seed=1, dtype=torch.float32))
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
