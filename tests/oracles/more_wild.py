"""Least-squares functions of the classic test sets, with their standard starts, as residual vectors.

Those of More, Garbow & Hillstrom (1981), ACM TOMS 7(1), pp. 17-41 (MGH) and of More & Wild (2009), SIAM J. Optim. 20(1), pp. 172-191 (MW) whose CUTEst
form is in the development set, in its dimension, and some more of CUTEst's. The classics whose CUTEst form is not in that set stay unseen.
Tables of data are read from CUTEst's form, never typed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from torch import Tensor

from secant.problems.curve_fit import nist_regression
from secant.problems.s2mpj import read_s2mpj

Residual = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Classic:
    """One function.

    Attributes:
        residual: ``r(x)``, a pure function of a float64 vector.
        cutest: Its CUTEst form.
        source: Its number in the literature.
        initial: The sum of squares at the standard start.
        minimum: The least sum of squares: as published, six digits; 0 where the residuals vanish.
        start: The standard start where CUTEst has another one.
    """

    residual: Residual
    cutest: str
    source: str
    initial: float
    minimum: float
    start: tuple[float, ...] = ()

    def x0(self) -> Tensor:
        """The standard start, float64."""
        return torch.tensor(self.start, dtype=torch.float64) if self.start else _start(self.cutest)


def rosenbrock(x: Tensor) -> Tensor:
    return torch.stack((10 * (x[1] - x[0] ** 2), 1 - x[0]))


def powell_badly_scaled(x: Tensor) -> Tensor:
    return torch.stack((1e4 * x[0] * x[1] - 1, torch.exp(-x[0]) + torch.exp(-x[1]) - 1.0001))


def brown_badly_scaled(x: Tensor) -> Tensor:
    return torch.stack((x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2))


def beale(x: Tensor) -> Tensor:
    powers = torch.arange(1, 4, dtype=x.dtype)
    return torch.tensor([1.5, 2.25, 2.625], dtype=x.dtype) - x[0] * (1 - x[1] ** powers)


def helical_valley(x: Tensor) -> Tensor:
    angle = torch.atan2(x[1], x[0]) / (2 * math.pi)
    return torch.stack((10 * (x[2] - 10 * angle), 10 * (torch.hypot(x[0], x[1]) - 1), x[2]))


def bard(x: Tensor) -> Tensor:
    u = torch.arange(1, 16, dtype=x.dtype)
    v = 16 - u
    return _table("BARD") - (x[0] + u / (x[1] * v + x[2] * torch.minimum(u, v)))


def powell_singular(x: Tensor) -> Tensor:
    a, b, c, d = x.view(-1, 4).unbind(1)
    return torch.cat((a + 10 * b, 5**0.5 * (c - d), (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2))


def brown_dennis(x: Tensor) -> Tensor:
    t = torch.arange(1, 21, dtype=x.dtype) / 5
    return (x[0] + t * x[1] - torch.exp(t)) ** 2 + (x[2] + x[3] * torch.sin(t) - torch.cos(t)) ** 2


def osborne_1(x: Tensor) -> Tensor:
    t = 10 * torch.arange(33, dtype=x.dtype)
    return _table("OSBORNEA") - (x[0] + x[1] * torch.exp(-t * x[3]) + x[2] * torch.exp(-t * x[4]))


def osborne_2(x: Tensor, *, first: float = 0.0) -> Tensor:
    """Times from ``first`` in steps of 0.1; CUTEst's form starts at 0.2, the literature at 0, where the published values hold."""
    t = first + torch.arange(65, dtype=x.dtype) / 10
    peaks = x[1:4] * torch.exp(-((t[:, None] - x[8:11]) ** 2) * x[5:8])
    return _table("OSBORNEB") - (x[0] * torch.exp(-t * x[4]) + peaks.sum(1))


def watson(x: Tensor) -> Tensor:
    t = torch.arange(1, 30, dtype=x.dtype)[:, None] / 29
    powers = torch.arange(len(x), dtype=x.dtype)
    slope = (powers[1:] * x[1:] * t ** (powers[1:] - 1)).sum(1)
    return torch.cat((slope - (x * t**powers).sum(1) ** 2 - 1, x[:1], (x[1] - x[0] ** 2 - 1)[None]))


def penalty_1(x: Tensor) -> Tensor:
    return torch.cat((1e-5**0.5 * (x - 1), (x.square().sum() - 0.25)[None]))


def penalty_2(x: Tensor) -> Tensor:
    n = len(x)
    i = torch.arange(2, n + 1, dtype=x.dtype)
    pairs = torch.exp(x[1:] / 10) + torch.exp(x[:-1] / 10) - (torch.exp(i / 10) + torch.exp((i - 1) / 10))
    single = torch.exp(x[1:] / 10) - math.exp(-0.1)
    last = (torch.arange(n, 0, -1, dtype=x.dtype) * x.square()).sum() - 1
    return torch.cat(((x[0] - 0.2)[None], 1e-5**0.5 * pairs, 1e-5**0.5 * single, last[None]))


def variably_dimensioned(x: Tensor) -> Tensor:
    total = (torch.arange(1, len(x) + 1, dtype=x.dtype) * (x - 1)).sum()
    return torch.cat((x - 1, total[None], total.square()[None]))


def trigonometric(x: Tensor) -> Tensor:
    i = torch.arange(1, len(x) + 1, dtype=x.dtype)
    return len(x) - torch.cos(x).sum() + i * (1 - torch.cos(x) - torch.sin(x))


def brown_almost_linear(x: Tensor) -> Tensor:
    n = len(x)
    return torch.cat((x[:-1] + x.sum() - (n + 1), (x.prod() - 1)[None]))


def broyden_tridiagonal(x: Tensor) -> Tensor:
    zero = x.new_zeros(1)
    return (3 - 2 * x) * x - torch.cat((zero, x[:-1])) - 2 * torch.cat((x[1:], zero)) + 1


def cube(x: Tensor) -> Tensor:
    return torch.stack((x[0] - 1, 10 * (x[1] - x[0] ** 3)))


def bdqrtic(x: Tensor) -> Tensor:
    s = x.square()
    quartic = s[:-4] + 2 * s[1:-3] + 3 * s[2:-2] + 4 * s[3:-1] + 5 * s[-1]
    return torch.cat((3 - 4 * x[:-4], quartic))


def mancino(x: Tensor) -> Tensor:
    n = len(x)
    i = torch.arange(1, n + 1, dtype=x.dtype)
    v = torch.sqrt(x[None, :] ** 2 + i[:, None] / i[None, :])
    terms = v * (torch.sin(v.log()) ** 5 + torch.cos(v.log()) ** 5)
    # CUTEst subtracts the cubes, the literature adds them.
    return 14 * n * x - (i - n / 2) ** 3 + terms.sum(1) - terms.diagonal()


def powell_square(x: Tensor) -> Tensor:
    return torch.stack((x[0] ** 2, 10 * x[0] / (x[0] + 0.1) + 2 * x[1] ** 2))


def de_villiers_glasser_1(x: Tensor) -> Tensor:
    t = torch.arange(24, dtype=x.dtype) / 10
    return x[0] * x[1] ** t * torch.sin(x[2] * t + x[3]) - _table("DEVGLA1")


def de_villiers_glasser_2(x: Tensor) -> Tensor:
    t = torch.arange(16, dtype=x.dtype) / 10
    return x[0] * x[1] ** t * torch.tanh(x[2] * t + torch.sin(x[3] * t)) * torch.cos(t * torch.exp(x[4])) - _table("DEVGLA2")


def liarwhd(x: Tensor) -> Tensor:
    return torch.cat((2 * (x**2 - x[0]), x - 1))


def meyer(x: Tensor) -> Tensor:
    return nist_regression("MGH10").residual(x)


def kowalik_osborne(x: Tensor) -> Tensor:
    return nist_regression("MGH09").residual(x)


@cache
def _table(name: str) -> Tensor:
    """The measurements that the groups of a CUTEst problem have as constants."""
    function, _ = read_s2mpj(name)
    return torch.from_numpy(function.constants)


def _start(name: str) -> Tensor:
    _, start = read_s2mpj(name)
    return torch.from_numpy(start.copy())


CLASSICS: Final = (
    Classic(rosenbrock, "ROSENBR", "MGH 1", 24.2, 0.0),
    Classic(powell_badly_scaled, "POWELLBSLS", "MGH 3", 1.135262, 0.0),
    Classic(brown_badly_scaled, "BROWNBS", "MGH 4", 999998000003.0, 0.0),
    Classic(beale, "BEALE", "MGH 5", 14.203125, 0.0),
    Classic(helical_valley, "HELIX", "MGH 7", 2500.0, 0.0),
    Classic(bard, "BARD", "MGH 8", 41.68170, 8.214877e-3),
    Classic(meyer, "MGH10LS", "MGH 10", 1.693608e9, 87.94586, start=(0.02, 4000.0, 250.0)),
    Classic(kowalik_osborne, "MGH09LS", "MGH 15", 5.313172e-3, 3.075056e-4, start=(0.25, 0.39, 0.415, 0.39)),
    Classic(brown_dennis, "BROWNDEN", "MGH 16", 7926693.337, 85822.20),
    Classic(osborne_1, "OSBORNEA", "MGH 17", 0.8790263, 5.464895e-5),
    Classic(osborne_2, "OSBORNEB", "MGH 19", 2.093420, 4.013774e-2),
    Classic(watson, "WATSON", "MGH 20, n = 6", 30.0, 2.287670e-3, start=(0.0,) * 6),
    Classic(watson, "WATSON", "MGH 20, n = 9", 30.0, 1.399760e-6, start=(0.0,) * 9),
    Classic(watson, "WATSON", "MGH 20, n = 12", 30.0, 4.722381e-10),
    Classic(powell_singular, "POWELLSG", "MGH 22, n = 12", 645.0, 0.0),
    Classic(penalty_1, "PENALTY1", "MGH 23, n = 10", 148032.6, 7.087651e-5),
    Classic(penalty_2, "PENALTY2", "MGH 24, n = 10", 162.6528, 2.936605e-4),
    Classic(variably_dimensioned, "VARDIM", "MGH 25, n = 10", 2198551.0, 0.0),
    Classic(trigonometric, "TRIGON1", "as MGH 26, n = 10", 2.966540, 0.0),
    Classic(brown_almost_linear, "BROWNAL", "MGH 27, n = 10", 273.2480, 0.0),
    Classic(broyden_tridiagonal, "BROYDN3DLS", "MGH 30, n = 5", 16.0, 0.0),
    Classic(cube, "CUBE", "MW 20", 749.0384, 0.0),
    Classic(bdqrtic, "BDQRTIC", "MW 19, n = 10", 1356.0, 18.28116),
    Classic(mancino, "MANCINO", "as MW 21, n = 10", 122440.3, 0.0),
    Classic(powell_square, "POWELLSQLS", "Powell (1970)", 217.3621, 0.0),
    Classic(de_villiers_glasser_1, "DEVGLA1", "de Villiers & Glasser (1981), 1", 105126.8, 0.0),
    Classic(de_villiers_glasser_2, "DEVGLA2", "de Villiers & Glasser (1981), 2", 10940.09, 0.0),
    Classic(liarwhd, "LIARWHD", "LIARWHD, n = 10", 5850.0, 0.0),
)
