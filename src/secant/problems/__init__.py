"""Benchmark problems with fixed points, stated seeds and reference solutions."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from secant.problems.burgers import build_burgers
from secant.problems.linear_regression import build_linear_regression
from secant.problems.logistic import build_logistic
from secant.problems.poisson import build_poisson_2d, build_poisson_3d
from secant.problems.problem import Build, Problem, ProblemSpec
from secant.problems.quadratic import build_quadratic, quadratic_matrix
from secant.problems.toy_regression import build_toy_regression

__all__ = [
    "PROBLEMS",
    "Build",
    "Problem",
    "ProblemSpec",
    "build_burgers",
    "build_linear_regression",
    "build_logistic",
    "build_poisson_2d",
    "build_poisson_3d",
    "build_quadratic",
    "build_toy_regression",
    "quadratic_matrix",
]

_SPECS = (
    ProblemSpec("burgers", "Viscous Burgers equation, physics-informed network of 941 parameters, 3,000 points.", build_burgers),
    ProblemSpec("poisson-2d", "Poisson's equation on the unit square, physics-informed network of 921 parameters, 2,000 + 400 points.", build_poisson_2d),
    ProblemSpec("poisson-3d", "Poisson's equation on the unit cube, physics-informed network of 1,217 parameters, 5,000 + 800 points.", build_poisson_3d),
    ProblemSpec("quadratic", "Positive definite quadratic of 100 parameters, condition number 1e4.", build_quadratic),
    ProblemSpec("toy-regression", "ReLU network of 241 parameters that learns from a teacher of its own shape.", build_toy_regression),
    ProblemSpec("linear-regression", "Least squares on the diabetes data, 11 parameters.", build_linear_regression),
    ProblemSpec("logistic", "Logistic regression with a small L2 penalty on the breast cancer data, 31 parameters.", build_logistic),
)

PROBLEMS: Final[Mapping[str, ProblemSpec]] = MappingProxyType({spec.name: spec for spec in _SPECS})
"""Every benchmark problem by name, in the order in which they are listed to the user."""
