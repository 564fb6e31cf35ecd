"""Which member of the Broyden class a correction is, and how much of the old curvature it keeps: pure functions of three numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """One member of the self-scaled Broyden class.

    Attributes:
        theta: 0 is BFGS, 1 is DFP (the convention for ``B``, Nocedal & Wright eq. 6.32).
        tau: Factor on the old ``B``: the old inverse is divided by it. 1 does not scale.
    """

    theta: float
    tau: float = 1.0


MemberRule = Callable[[float, float, int], Member]
"""From ``h = y.Hy / s.y``, ``b = s.Bs / s.y`` and ``n`` to the member to use."""


@dataclass(frozen=True, slots=True)
class FixedMember:
    """The same unscaled member at every correction; see :class:`Member` for ``theta``."""

    theta: float

    def __call__(self, h: float, b: float, n: int) -> Member:
        """``Member(theta)``."""
        return Member(self.theta)


def self_scaled_bfgs(h: float, b: float, n: int) -> Member:
    """BFGS with ``tau = min(1, 1/b)``.

    Source:
        Al-Baali (1998), Comput. Optim. Appl. 9; in the form of Urban, Stefanou & Pons (2025), arXiv 2405.04230.
    """
    return Member(0.0, min(1.0, 1.0 / b))


def self_scaled_broyden(h: float, b: float, n: int) -> Member:
    """The self-scaled Broyden member of Al-Baali and Khalfan.

    With ``a = h b - 1 >= 0``, ``c = sqrt(a / (1 + a))``, ``rho_minus = min(1, h (1 - c))``, ``theta = (1 - b) / b`` clipped to
    ``[(rho_minus - 1) / a, 1 / rho_minus]``, ``sigma = 1 + a theta``, ``rho_plus = min(1, 1/b)``:
    ``tau = rho_plus min(sigma^(1/(1-n)), 1/theta)`` for ``theta > 0``, else ``min(rho_plus sigma^(1/(1-n)), sigma)``.

    Source:
        Al-Baali & Khalfan (2005); Urban, Stefanou & Pons (2025), arXiv 2405.04230. Departure: rounding can make ``a`` vanish or negative; then the
        self-scaled BFGS member is taken, which is its limit.
    """
    if n == 1:
        return self_scaled_bfgs(h, b, n)
    a = h * b - 1.0
    if not 1e-12 * (1.0 + h * b) < a < math.inf:
        return self_scaled_bfgs(h, b, n)
    c = math.sqrt(a / (1.0 + a))
    rho_minus = min(1.0, h / ((1.0 + a) * (1.0 + c)))  # h (1 - c) without its cancellation
    theta = min(max((1.0 - b) / b, (rho_minus - 1.0) / a), 1.0 / rho_minus)
    sigma = max(1.0 + a * theta, rho_minus)  # equal at the lower end, where the sum cancels
    rho_plus = min(1.0, 1.0 / b)
    spread = sigma ** (1.0 / (1.0 - n))
    tau = rho_plus * min(spread, 1.0 / theta) if theta > 0.0 else min(rho_plus * spread, sigma)
    return Member(theta, tau)
