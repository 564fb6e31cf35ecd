"""Which solver the sizes call for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

_ORTHOGONAL_FLOPS = 2e7
"""Up to some milliseconds on one core: so long the digits that orthogonal factors save cost nothing."""


class Solver(Enum):
    """How the damped step is computed."""

    CHOLESKY = "cholesky"
    QR = "qr"
    WOODBURY = "woodbury"
    CG = "cg"
    SKETCH = "sketch"


@dataclass(frozen=True, slots=True)
class Choice:
    """A solver and why it was taken.

    Attributes:
        solver: Which.
        reason: One sentence.
    """

    solver: Solver
    reason: str


def bytes_of(solver: Solver, residuals: int, size: int) -> int:
    """Memory that a solver needs in float64 beside one block of rows."""
    smaller = min(residuals, size)
    numbers = {Solver.CHOLESKY: 2 * size**2, Solver.QR: 5 * size**2, Solver.SKETCH: 9 * size**2, Solver.CG: 8 * size}
    return 8 * (numbers[solver] if solver in numbers else 4 * residuals * size + 3 * smaller**2)


def choose(residuals: int, size: int, free: int | None, *, is_ill_conditioned: bool) -> Choice:
    """The solver for ``N`` residuals and ``n`` parameters.

    Args:
        residuals: ``N``.
        size: ``n``.
        free: Bytes that can be allocated; None where nobody knows.
        is_ill_conditioned: Whether normal equations were seen to lose what the step needs.
    """

    def fits(solver: Solver) -> bool:
        return free is None or bytes_of(solver, residuals, size) <= free // 2

    if residuals < size and fits(Solver.WOODBURY):
        return Choice(Solver.WOODBURY, f"{residuals} residuals are fewer than {size} parameters")
    if not fits(Solver.CHOLESKY):
        return Choice(Solver.CG, f"a matrix of {size} x {size} numbers does not fit into half of the free memory")
    if not fits(Solver.QR):
        return Choice(Solver.CHOLESKY, "memory allows one matrix, but not orthogonal factors")
    if 2.0 * max(residuals, size) * size**2 + 20.0 * size**3 <= _ORTHOGONAL_FLOPS:
        return Choice(Solver.QR, "orthogonal factors cost little at this size and keep all digits")
    if is_ill_conditioned:
        return Choice(Solver.QR, "the normal equations had lost the digits that small damping needs")
    return Choice(Solver.CHOLESKY, "normal equations are the fastest at this size")
