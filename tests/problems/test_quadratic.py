import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secant.problems.quadratic import build_quadratic, quadratic_matrix


@settings(max_examples=40, deadline=None, derandomize=True)
@given(n=st.integers(2, 20), log_condition=st.floats(0.0, 8.0), indefinite=st.booleans(), seed=st.integers(0, 2**31))
def test_matrix_is_symmetric_with_the_stated_eigenvalues(n: int, log_condition: float, indefinite: bool, seed: int) -> None:
    condition = 10.0**log_condition
    matrix = quadratic_matrix(n, condition, seed=seed, indefinite=indefinite)
    assert torch.equal(matrix, matrix.T)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    sizes = eigenvalues.abs().sort().values
    # eigvalsh is accurate to rounding of the largest eigenvalue.
    tolerance = 1e-13 * condition
    assert sizes[0].item() == pytest.approx(1.0, abs=tolerance)
    assert sizes[-1].item() == pytest.approx(condition, rel=1e-12)
    assert int((eigenvalues < 0.0).sum()) == (n // 2 if indefinite else 0)


def test_gradient_and_error_vanish_at_the_minimizer() -> None:
    problem = build_quadratic(3)
    assert problem.error is not None
    assert problem.error() > 0.1
    (x,) = problem.parameters
    with torch.no_grad():
        x.fill_(1.0)
    (gradient,) = torch.autograd.grad(problem.loss(), x)
    assert problem.loss().item() == problem.reference == 0.0
    assert not gradient.any()
    assert problem.error() == 0.0


def test_seed_changes_the_start_and_nothing_else() -> None:
    first, second = build_quadratic(0), build_quadratic(1)
    assert first.settings["matrix_sha256"] == second.settings["matrix_sha256"]
    assert not torch.equal(first.parameters[0], second.parameters[0])


def test_indefinite_loss_falls_without_bound_and_has_no_reference() -> None:
    problem = build_quadratic(0, n=10, condition=100.0, indefinite=True)
    assert problem.reference is None
    assert problem.error is None
    (x,) = problem.parameters
    matrix = quadratic_matrix(10, 100.0, seed=0, indefinite=True)
    with torch.no_grad():
        x.copy_(1.0 + 1e3 * torch.linalg.eigh(matrix).eigenvectors[:, 0])
    assert problem.loss().item() < -1e5


@pytest.mark.parametrize(("n", "condition"), [(1, 10.0), (5, 0.5)])
def test_impossible_sizes_are_refused(n: int, condition: float) -> None:
    with pytest.raises(ValueError, match="n >= 2 and condition >= 1"):
        build_quadratic(0, n=n, condition=condition)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # Raised inside the compiler of torch 2.13.
def test_compiled_loss_equals_the_eager_one() -> None:
    eager, compiled = build_quadratic(0), build_quadratic(0, compile=True)
    assert compiled.loss().item() == pytest.approx(eager.loss().item(), rel=1e-12)
    expected = torch.autograd.grad(eager.loss(), eager.parameters)[0]
    torch.testing.assert_close(torch.autograd.grad(compiled.loss(), compiled.parameters)[0], expected, rtol=1e-10, atol=1e-8)
