"""A quadratic in two variables: Newton's method needs one step and the Hessian, SR1 three steps and gradients only.

    f(x) = 0.5 x'Ax + b'x + 10,   A = [[3, 2], [2, 6]],   b = [2, -8]

The gradient ``Ax + b`` vanishes where ``Ax = -b``, at (-2, 2); ``A`` has the eigenvalues 2 and 7, so that this is the minimum, and
``f(-2, 2) = 10 + 0.5 b'x = 10 - 10 = 0``.

Newton's step ``-A^-1 (Ax + b)`` leads there from anywhere, because the quadratic model it minimizes is the function itself. SR1 does not see ``A``. It starts
from ``H = 0.1 I``, a step of gradient descent, and after every step corrects ``H`` by a matrix of rank one so that it maps the last change of the gradient to
the step that caused it. On a quadratic the earlier changes stay mapped as well, so that after n = 2 independent steps ``H = A^-1``, and step n + 1 = 3 is
Newton's (Nocedal & Wright, 2006, theorem 6.1; no denominator of a correction may be zero). Expect both at (-2, 2), and ``H`` as printed equal to ``A^-1``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import secant

A = torch.tensor([[3.0, 2.0], [2.0, 6.0]], dtype=torch.float64)
B = torch.tensor([2.0, -8.0], dtype=torch.float64)
START = (-2.0, -2.0)
FIRST_SCALE = 0.1  # any positive number serves, but only below 2 / 7, two over the largest eigenvalue, is the first step sure to lower the loss


@dataclass(frozen=True, slots=True)
class Result:
    """Both paths from (-2, -2), each with the start and the point after every step.

    Attributes:
        newton: Two points.
        sr1: Four points.
        sr1_values: ``f`` at them.
        inverse: The ``H`` of SR1's last step, row by row.
        exact_inverse: ``A^-1``, row by row.
    """

    newton: tuple[tuple[float, ...], ...]
    sr1: tuple[tuple[float, ...], ...]
    sr1_values: tuple[float, ...]
    inverse: tuple[tuple[float, ...], ...]
    exact_inverse: tuple[tuple[float, ...], ...]


def f(x: Tensor) -> Tensor:
    """The quadratic."""
    return 0.5 * x @ A @ x + B @ x + 10.0


def newton() -> tuple[Tensor, ...]:
    """One step with the gradient and the Hessian that torch derives from ``f``."""
    x = torch.tensor(START, dtype=torch.float64)
    gradient = torch.func.grad(f)
    # torch.func.hessian is the same forward over reverse; on its first call torch 2.13 warns of a deprecated part of its own.
    hessian = torch.func.jacrev(gradient)
    return x, x - torch.linalg.solve(hessian(x), gradient(x))


def sr1() -> tuple[tuple[Tensor, ...], Tensor]:
    """The points of three steps of length one along ``-H g``, with no line search and no trust region, and the last ``H``."""
    x = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    optimizer = secant.SR1([x], globalization=secant.FixedStep(), initial_scale=FIRST_SCALE)
    path = [x.detach().clone()]
    for _ in range(len(START) + 1):
        optimizer.step(lambda: f(x))
        path.append(x.detach().clone())
    return tuple(path), optimizer.curvature.dense_inverse()


def main() -> Result:
    """Walk both paths and print them."""
    newton_path = newton()
    sr1_path, inverse = sr1()
    result = Result(
        newton=rows(newton_path),
        sr1=rows(sr1_path),
        sr1_values=tuple(f(x).item() for x in sr1_path),
        inverse=rows(inverse),
        exact_inverse=rows(torch.linalg.inv(A)),
    )
    for name, path in (("Newton", newton_path), ("SR1", sr1_path)):
        for k, x in enumerate(path):
            print(f"{name:>6}, step {k}: x = ({x[0]:8.5f}, {x[1]:8.5f}), f = {f(x).abs():.5f}")
    print(f"H of SR1's last step = {[[round(number, 10) for number in row] for row in result.inverse]}")
    print(f"A^-1                 = {[[round(number, 10) for number in row] for row in result.exact_inverse]}")
    return result


def rows(vectors: Tensor | tuple[Tensor, ...]) -> tuple[tuple[float, ...], ...]:
    """Plain numbers."""
    return tuple(tuple(vector.tolist()) for vector in vectors)


if __name__ == "__main__":
    main()
