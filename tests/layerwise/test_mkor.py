from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secant.layerwise.mkor import MkorPreconditioner
from secant.layerwise.moving_inverse import MovingInverse
from secant.layerwise.preconditioner import Length
from secant.layerwise.sketching import Sketch
from secant.layerwise.taps import Taps

from .tapped import DOUBLE, DenseInverse, captures, dense_net, random


def square(vectors: Tensor) -> float:
    return float(vectors.double().square().sum())


def scaled(inverse: MovingInverse, size: int) -> Tensor:
    return inverse.times_scaled(torch.eye(size, dtype=inverse.state()["matrix"].dtype))


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 12), st.integers(1, 5), st.floats(0.0, 0.99), st.floats(1e-4, 10.0), st.integers(0, 2**32))
def test_the_inverse_is_that_of_its_moving_average(size: int, columns: int, decay: float, damping: float, seed: int) -> None:
    """The probe ``|(A + d I) P z - z|``, against an average kept beside it in float64; batches differ in size by factors up to 1e4."""
    inverse = MovingInverse(size, decay=decay, damping=damping, like=torch.empty(0, dtype=DOUBLE))
    generator = torch.Generator().manual_seed(seed)
    average = torch.zeros(size, size, dtype=DOUBLE)
    probe = torch.randn(size, generator=generator, dtype=DOUBLE)
    for count in range(1, 40):
        magnitude = 10.0 ** float(4.0 * torch.rand((), generator=generator) - 2.0)
        vectors = magnitude * torch.randn(size, columns, generator=generator, dtype=DOUBLE)
        inverse.correct(vectors, square(vectors))
        weight = max(1.0 - decay, 1.0 / count)
        average = (1.0 - weight) * average + weight * vectors @ vectors.T
        solved = inverse.times_scaled(probe) / inverse.scale
        residual = average @ solved + inverse.damping * solved - probe
        condition = 1.0 + float(average.trace()) / inverse.damping
        assert float(residual.norm()) <= 1e-13 * condition * float(probe.norm())
        mean_eigenvalue = float(average.trace()) / size
        assert 0.499 * damping * mean_eigenvalue <= inverse.damping <= 1.001 * damping * mean_eigenvalue


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.sampled_from([1, 4]), st.sampled_from(["random", "one direction", "spread", "jumps"]))
def test_thousands_of_corrections_in_float32_keep_it_positive_definite_and_symmetric(seed: int, columns: int, kind: str) -> None:
    size, generator = 24, torch.Generator().manual_seed(seed)
    inverse = MovingInverse(size, decay=0.95, damping=1e-2, like=torch.empty(0))
    direction = torch.randn(size, 1, generator=generator)
    for count in range(2000):
        vectors = torch.randn(size, columns, generator=generator)
        if kind == "one direction":
            vectors = direction + 1e-3 * vectors
        elif kind == "spread":
            vectors = vectors * torch.logspace(0.0, -4.0, size)[:, None]
        elif kind == "jumps":
            vectors = vectors * 10.0 ** float(8.0 * torch.rand((), generator=generator) - 4.0)
        inverse.correct(vectors, square(vectors))
        if count % 200 == 199:
            matrix = scaled(inverse, size)
            torch.testing.assert_close(matrix, matrix.T, rtol=0.0, atol=1e-6)
            eigenvalues = torch.linalg.eigvalsh(matrix.double())
            assert float(eigenvalues[0]) > 0.0
            assert float(eigenvalues[-1]) < 1.0 + 1e-5


def test_the_norm_stays_bounded_where_nothing_is_seen() -> None:
    """The published recursion grows like ``decay^-t`` there: after 2,000 steps by a factor of 1e44."""
    inverse = MovingInverse(8, decay=0.95, damping=0.01, like=torch.empty(0))
    seen = torch.eye(8)[:, :1]
    for _ in range(2000):
        inverse.correct(seen, 1.0)
    norm = float(torch.linalg.matrix_norm(scaled(inverse, 8), 2)) / inverse.scale
    assert norm <= 2.0 * 8 / 0.01


def test_a_vector_of_zeros_and_one_too_small_to_be_squared_change_nothing() -> None:
    inverse = MovingInverse(3, decay=0.9, damping=0.01, like=torch.empty(0))
    for vectors in (torch.zeros(3, 1), torch.full((3, 1), 1e-25)):
        inverse.correct(vectors, square(vectors))
    assert torch.equal(scaled(inverse, 3), torch.eye(3))
    assert inverse.scale == 1.0
    inverse.correct(torch.ones(3, 1), 3.0)
    before = scaled(inverse, 3).clone()
    inverse.correct(torch.zeros(3, 1), 0.0)
    assert torch.equal(scaled(inverse, 3), before)


def test_preconditioned_gradients_are_those_of_the_dense_formula_on_both_sides() -> None:
    for sketch, columns in ((Sketch.SIGNS, 2), (Sketch.MEAN, 1)):
        model = dense_net()
        preconditioner = MkorPreconditioner(model, factor_decay=0.8, damping=0.05, columns=columns, sketch=sketch, length=Length.AS_SOLVED)
        witness = Taps(model, columns=columns, sketch=sketch)
        sides = {name: [DenseInverse(size, 0.8, 0.05) for size in (weight.shape[1], weight.shape[0])] for name, weight in witness.weights.items()}
        for step in range(12):
            model.zero_grad()
            model(random(8, 6, seed=step)).square().mean().backward()
            expected = {}
            for name, capture in captures(witness).items():
                inputs, outputs = sides[name]
                inputs.correct(capture.inputs)
                outputs.correct(capture.outputs)
                expected[name] = outputs.solve(inputs.solve(witness.weights[name].grad).T).T
            witness.clear()
            witness.step += 1
            preconditioner.step()
            for name, gradient in expected.items():
                torch.testing.assert_close(witness.weights[name].grad, gradient, rtol=1e-8, atol=1e-10)
