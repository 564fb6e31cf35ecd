"""What every solution of a subproblem says of its step."""

from torch import Tensor

from secant.subproblem.solution import Solution


def assert_numbers_belong_to_the_step(solution: Solution, g: Tensor, B: Tensor, error: float) -> None:
    """``length``, ``slope`` and ``curvature`` are ``|p|``, ``g.p`` and ``p.Bp``, up to ``error`` in a product with ``B`` or ``g``."""
    p = solution.p
    length = float(p.norm())
    assert abs(solution.length - length) <= 1e-10 * length
    assert abs(solution.slope - float(g @ p)) <= error * length
    assert abs(solution.curvature - float(p @ B @ p)) <= error * length
