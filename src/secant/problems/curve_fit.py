"""Nonlinear regressions of the NIST Statistical Reference Datasets, with their certified solutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, final

import torch
from torch import Tensor

from secant.problems.nist_file import read_nist
from secant.problems.problem import Problem, checksum, closure

Model: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``model(x, b)``: what the parameters ``b`` of shape ``(n,)`` predict, shape ``(N,)``."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class NistRegression:
    """One regression; all tensors are float64 on the processor.

    Attributes:
        name: NIST's name of the dataset.
        x: The predictor, shape ``(N,)``; of Nelson the two predictors, shape ``(N, 2)``.
        y: The response that the model predicts, shape ``(N,)``; of Nelson its logarithm.
        model: ``model(x, b)`` of shape ``(N,)``.
        start: NIST's first or second start, shape ``(n,)``.
        certified: The certified parameters, 11 digits, shape ``(n,)``.
        certified_sum_of_squares: ``sum(r^2)`` at the solution, 11 digits: twice the loss.
        sha256: Of NIST's file.
    """

    name: str
    x: Tensor
    y: Tensor
    model: Model
    start: Tensor
    certified: Tensor
    certified_sum_of_squares: float
    sha256: str

    def residual(self, parameters: Tensor) -> Tensor:
        """``model(x, parameters) - y``, shape ``(N,)``, for parameters of shape ``(n,)``, float64."""
        return self.model(self.x, parameters) - self.y

    def relative_error(self, parameters: Tensor) -> float:
        """The largest ``|b - c| / |c|`` of a parameter ``b`` and its certified value ``c``.

        ``-log10`` of it is NIST's log relative error, the number of digits that agree; above about 10.5 it says nothing, because ``c`` has 11 digits.
        """
        return float(((parameters.detach() - self.certified) / self.certified).abs().max())


def nist_regression(name: str, start: Literal[1, 2] = 1) -> NistRegression:
    """The regression ``name`` from NIST's first start, which is far from the solution, or its second, which is nearer.

    Args:
        name: One of :data:`NIST_NAMES`.
        start: 1 or 2.

    Returns:
        Data, model and certified solution.

    Raises:
        ValueError: Another name or start.
        DataError: The data inside the package are damaged.

    Source:
        NIST Statistical Reference Datasets, Nonlinear Regression, https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml.
    """
    if name not in _MODELS:
        raise ValueError(f"Expected one of {', '.join(NIST_NAMES)}, got {name!r}.")
    if start not in (1, 2):
        raise ValueError(f"Expected start to be 1 or 2, got {start!r}.")
    file = read_nist(name)
    response = torch.tensor(file.response, dtype=torch.float64)
    return NistRegression(
        name=name,
        x=torch.tensor(file.predictors, dtype=torch.float64).squeeze(1),
        y=response.log() if name == "Nelson" else response,
        model=_MODELS[name],
        start=torch.tensor(file.starts[start - 1], dtype=torch.float64),
        certified=torch.tensor(file.certified, dtype=torch.float64),
        certified_sum_of_squares=file.sum_of_squares,
        sha256=file.sha256,
    )


def build_curve_fit(seed: int, *, compile: bool = False, name: str = "MGH10") -> Problem:
    """The problem ``curve-fit-<name>``, name in small letters: a nonlinear regression of NIST, the loss half its residual sum of squares.

    Args:
        seed: 0 is NIST's first start and 1 its second; every other is drawn uniformly from the box that these two span.
        compile: Compile the loss.
        name: One of :data:`NIST_NAMES`.

    Returns:
        The problem, one parameter of shape ``(n,)``, float64; its reference is half the certified sum of squares, and its error the largest relative
        error of a parameter against its certified value of 11 digits.

    Raises:
        ValueError: Another name.
        DataError: The data inside the package are damaged.
    """
    regression = nist_regression(name, start=2 if seed == 1 else 1)
    b = regression.start.clone()
    if seed not in (0, 1):
        share = torch.rand(b.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        b = b.lerp(nist_regression(name, start=2).start, share)
    b.requires_grad_()

    def loss(parameters: tuple[Tensor, ...], x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (regression.model(x, parameters[0]) - y).square().sum()

    return Problem(
        name=f"curve-fit-{name.lower()}",
        parameters=(b,),
        loss=closure(loss, (b,), (regression.x, regression.y), compile=compile),
        error=lambda: regression.relative_error(b),
        error_name="largest relative error of a parameter against its certified value",
        settings={
            "data": f"NIST StRD nonlinear regression, {name}",
            "rows": len(regression.y),
            "n": len(b),
            "file_sha256": regression.sha256,
            "loss": "half the residual sum of squares",
            "starts": "seeds 0 and 1: NIST's two; others: uniform in the box that these span",
            "dtype": "float64",
            "seed": seed,
            "start_sha256": checksum(b),
            "compiled": compile,
        },
        reference=0.5 * regression.certified_sum_of_squares,
        residual=(lambda: regression.residual(b),),
    )


def _boxbod(x: Tensor, b: Tensor) -> Tensor:
    return b[0] * (1 - torch.exp(-b[1] * x))


def _chwirut(x: Tensor, b: Tensor) -> Tensor:
    return torch.exp(-b[0] * x) / (b[1] + b[2] * x)


def _danwood(x: Tensor, b: Tensor) -> Tensor:
    return b[0] * x ** b[1]


def _enso(x: Tensor, b: Tensor) -> Tensor:
    year, first, second = (2 * math.pi * x / period for period in (12, b[3], b[6]))
    annual = b[1] * torch.cos(year) + b[2] * torch.sin(year)
    cycles = b[4] * torch.cos(first) + b[5] * torch.sin(first) + b[7] * torch.cos(second) + b[8] * torch.sin(second)
    return b[0] + annual + cycles


def _gauss(x: Tensor, b: Tensor) -> Tensor:
    peaks = b[2] * torch.exp(-(((x - b[3]) / b[4]) ** 2)) + b[5] * torch.exp(-(((x - b[6]) / b[7]) ** 2))
    return b[0] * torch.exp(-b[1] * x) + peaks


def _kirby(x: Tensor, b: Tensor) -> Tensor:
    return (b[0] + b[1] * x + b[2] * x**2) / (1 + b[3] * x + b[4] * x**2)


def _lanczos(x: Tensor, b: Tensor) -> Tensor:
    return b[0] * torch.exp(-b[1] * x) + b[2] * torch.exp(-b[3] * x) + b[4] * torch.exp(-b[5] * x)


def _mgh09(x: Tensor, b: Tensor) -> Tensor:
    return b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3])


def _mgh10(x: Tensor, b: Tensor) -> Tensor:
    return b[0] * torch.exp(b[1] / (x + b[2]))


def _misra1b(x: Tensor, b: Tensor) -> Tensor:
    return b[0] * (1 - (1 + b[1] * x / 2) ** -2)


def _misra1d(x: Tensor, b: Tensor) -> Tensor:
    return b[0] * b[1] * x / (1 + b[1] * x)


def _nelson(x: Tensor, b: Tensor) -> Tensor:
    time, temperature = x.unbind(1)
    return b[0] - b[1] * time * torch.exp(-b[2] * temperature)


def _rat43(x: Tensor, b: Tensor) -> Tensor:
    return b[0] / (1 + torch.exp(b[1] - b[2] * x)) ** (1 / b[3])


def _roszman(x: Tensor, b: Tensor) -> Tensor:
    return b[0] - b[1] * x - torch.arctan(b[2] / (x - b[3])) / math.pi


_MODELS: Final[Mapping[str, Model]] = MappingProxyType(
    {
        "BoxBOD": _boxbod,
        "Chwirut2": _chwirut,
        "DanWood": _danwood,
        "ENSO": _enso,
        "Gauss2": _gauss,
        "Kirby2": _kirby,
        "Lanczos1": _lanczos,
        "Lanczos3": _lanczos,
        "MGH09": _mgh09,
        "MGH10": _mgh10,
        "Misra1b": _misra1b,
        "Misra1d": _misra1d,
        "Nelson": _nelson,
        "Rat43": _rat43,
        "Roszman1": _roszman,
    }
)

NIST_NAMES: Final[tuple[str, ...]] = tuple(_MODELS)
"""The datasets, in NIST's spelling: those that are also in the development set of :mod:`secant.problems.cutest`."""
