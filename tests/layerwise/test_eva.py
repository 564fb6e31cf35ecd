from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from secant.layerwise.eva import EvaPreconditioner
from secant.layerwise.preconditioner import Length
from secant.layerwise.sketching import Sketch
from secant.layerwise.taps import Taps

from .tapped import DOUBLE, captures, conv_net, dense_net, random


def moving(average: Tensor | None, vector: Tensor, weight: float) -> Tensor:
    return vector if average is None else (1.0 - weight) * average + weight * vector


def test_preconditioned_gradients_are_those_of_the_dense_kronecker_matrix() -> None:
    for model, shape in ((dense_net(), (8, 6)), (conv_net(), (8, 2, 8, 8))):
        preconditioner = EvaPreconditioner(model, factor_decay=0.8, damping=0.3, sketch=Sketch.MEAN, length=Length.AS_SOLVED)
        witness = Taps(model, sketch=Sketch.MEAN)
        vectors: dict[str, tuple[Tensor | None, Tensor | None]] = dict.fromkeys(witness.weights, (None, None))
        for step in range(8):
            model.zero_grad()
            model(random(*shape, seed=step)).square().mean().backward()
            expected = {}
            for name, capture in captures(witness).items():
                weight = max(0.2, 1.0 / (step + 1))
                a, b = (moving(old, new.squeeze(1), weight) for old, new in zip(vectors[name], (capture.inputs, capture.outputs), strict=True))
                vectors[name] = (a, b)
                both = torch.kron(b, a)
                curvature = torch.outer(both, both) + 0.3 * both.square().sum() * torch.eye(len(both), dtype=DOUBLE)
                expected[name] = torch.linalg.solve(curvature, witness.weights[name].grad.flatten())
            witness.clear()
            preconditioner.step()
            for name, gradient in expected.items():
                torch.testing.assert_close(witness.weights[name].grad.flatten(), gradient, rtol=1e-9, atol=1e-12)


def test_with_signs_the_vectors_approach_the_first_eigenvectors() -> None:
    """The fixed point is the first eigenvector ``e`` with ``|a|^2 = 2 / pi * eigenvalue``; the average over 100 steps keeps a scatter of about a tenth."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 4, dtype=DOUBLE)
    inputs = random(256, 6) * torch.tensor([4.0, 1.0, 1.0, 0.5, 0.5, 0.1], dtype=DOUBLE)
    inputs[:, 1] += 2.0 * inputs[:, 0]
    preconditioner = EvaPreconditioner(layer, factor_decay=0.99, sketch=Sketch.SIGNS)
    for _ in range(600):
        layer.zero_grad()
        layer(inputs).square().mean().backward()
        preconditioner.step()
    vector = preconditioner.state_dict()["curvatures"]["weight"]["inputs"]
    eigenvalues, eigenvectors = torch.linalg.eigh(inputs.T @ inputs / 256)
    assert abs(float(vector @ eigenvectors[:, -1])) > 0.97 * float(vector.norm())
    assert float(vector.square().sum() / eigenvalues[-1]) == pytest.approx(2.0 / torch.pi, rel=0.3)


def test_state_is_one_vector_per_side() -> None:
    model = dense_net(torch.float32)
    preconditioner = EvaPreconditioner(model)
    model(random(8, 6, dtype=torch.float32)).square().mean().backward()
    preconditioner.step()
    shapes = {name: (len(state["inputs"]), len(state["outputs"])) for name, state in preconditioner.state_dict()["curvatures"].items()}
    assert shapes == {"0.weight": (6, 5), "2.weight": (5, 4), "4.weight": (4, 3)}


def test_a_layer_without_gradient_keeps_its_gradient() -> None:
    layer = nn.Linear(3, 2, dtype=DOUBLE)
    preconditioner = EvaPreconditioner(layer, length=Length.AS_SOLVED)
    (layer(random(4, 3)) * 0.0).sum().backward()
    preconditioner.step()
    assert torch.equal(layer.weight.grad, torch.zeros(2, 3, dtype=DOUBLE))
