"""Random quadratics of stated condition number."""

from __future__ import annotations

import torch
from torch import Tensor

from secant.problems.problem import Problem, checksum, closure, relative_distance

_MATRIX_SEED = 0


def build_quadratic(seed: int, *, compile: bool = False, n: int = 100, condition: float = 1e4, indefinite: bool = False) -> Problem:
    """The problem ``quadratic``: ``f(x) = 0.5 (x - x*) . A (x - x*)``.

    ``A`` comes from :func:`quadratic_matrix` with seed 0, and ``x*`` is all ones; neither depends on ``seed``. The form with ``x - x*`` keeps full
    relative accuracy down to the minimum, whose value is exactly 0.

    Args:
        seed: Of the starting point, standard normal.
        compile: Compile the loss.
        n: Number of parameters.
        condition: Ratio of the largest to the smallest ``|eigenvalue|`` of ``A``.
        indefinite: Whether every second eigenvalue is negative; then the loss is unbounded below, and there is neither reference nor error.

    Returns:
        The problem; its error is the relative distance to the minimizer, ``|x - x*| / |x*|``.

    Raises:
        ValueError: For ``n < 2`` or ``condition < 1``.
    """
    matrix = quadratic_matrix(n, condition, seed=_MATRIX_SEED, indefinite=indefinite)
    minimizer = torch.ones(n, dtype=torch.float64)
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x.requires_grad_()
    factor = matrix if indefinite else torch.linalg.cholesky(matrix)

    def error() -> float:
        return relative_distance(x.detach(), minimizer)

    def residual() -> Tensor:
        return (x - minimizer) @ factor

    return Problem(
        name="quadratic",
        parameters=(x,),
        loss=closure(quadratic_loss, (x,), (matrix, minimizer), compile=compile),
        error=None if indefinite else error,
        error_name="none (the loss is unbounded below)" if indefinite else "relative distance to the minimizer",
        settings={
            "n": n,
            "condition": condition,
            "indefinite": indefinite,
            "matrix_seed": _MATRIX_SEED,
            "matrix_sha256": checksum(matrix),
            "dtype": "float64",
            "seed": seed,
            "start_sha256": checksum(x),
            "compiled": compile,
        },
        reference=None if indefinite else 0.0,
        residual=() if indefinite else (residual,),
    )


def quadratic_matrix(n: int, condition: float, *, seed: int, indefinite: bool = False) -> Tensor:
    """A random symmetric matrix with eigenvalues spaced geometrically from 1 to ``condition``.

    Args:
        n: Rows.
        condition: Ratio of the largest to the smallest ``|eigenvalue|``.
        seed: Of the eigenvectors, an orthogonal matrix from the QR factorization of a standard normal one.
        indefinite: Whether every second eigenvalue is negative.

    Returns:
        Shape ``(n, n)``, float64, exactly symmetric.

    Raises:
        ValueError: For ``n < 2`` or ``condition < 1``.
    """
    if n < 2 or condition < 1.0:
        raise ValueError(f"A random quadratic needs n >= 2 and condition >= 1, got n={n}, condition={condition}.")
    normal = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    vectors = torch.linalg.qr(normal).Q
    eigenvalues = torch.pow(condition, torch.linspace(0.0, 1.0, n, dtype=torch.float64))
    if indefinite:
        eigenvalues[1::2] *= -1.0
    matrix: Tensor = (vectors * eigenvalues) @ vectors.T
    return 0.5 * (matrix + matrix.T)


def quadratic_loss(parameters: tuple[Tensor, ...], matrix: Tensor, minimizer: Tensor) -> Tensor:
    """``0.5 (x - x*) . A (x - x*)`` for ``parameters = (x,)``."""
    (x,) = parameters
    distance = x - minimizer
    return 0.5 * torch.dot(distance, matrix @ distance)
