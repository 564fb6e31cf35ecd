"""Benchmark problems with fixed points, stated seeds and reference solutions."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Final

from secant.problems.allen_cahn import build_allen_cahn
from secant.problems.burgers import build_burgers
from secant.problems.burgers_inverse import build_burgers_inverse
from secant.problems.burgers_nu001 import build_burgers_nu001
from secant.problems.burgers_soft import build_burgers_soft
from secant.problems.char_transformer import build_char_transformer
from secant.problems.curve_fit import NIST_NAMES, build_curve_fit
from secant.problems.datasets import DataError
from secant.problems.deep_nets import build_deep_exploding, build_deep_sigmoid
from secant.problems.digits_conv import build_digits_conv
from secant.problems.ill_conditioned import build_ill_conditioned
from secant.problems.kdv import build_kdv
from secant.problems.linear_regression import build_linear_regression
from secant.problems.logistic import build_logistic
from secant.problems.mnist_autoencoder import build_mnist_autoencoder
from secant.problems.mnist_mlp import build_fashion_mlp, build_mnist_mlp
from secant.problems.multi_task import build_multi_task
from secant.problems.poisson import build_poisson_2d, build_poisson_3d
from secant.problems.poisson_engd import build_poisson_engd
from secant.problems.problem import Build, Problem, ProblemSpec, Training
from secant.problems.quadratic import build_quadratic, quadratic_matrix
from secant.problems.soft_tree import build_soft_tree
from secant.problems.svm import build_svm
from secant.problems.toy_regression import build_toy_regression
from secant.problems.wave import build_wave

__all__ = [
    "PROBLEMS",
    "Build",
    "DataError",
    "Problem",
    "ProblemSpec",
    "Training",
    "build_allen_cahn",
    "build_burgers",
    "build_burgers_inverse",
    "build_burgers_nu001",
    "build_burgers_soft",
    "build_char_transformer",
    "build_curve_fit",
    "build_deep_exploding",
    "build_deep_sigmoid",
    "build_digits_conv",
    "build_fashion_mlp",
    "build_ill_conditioned",
    "build_kdv",
    "build_linear_regression",
    "build_logistic",
    "build_mnist_autoencoder",
    "build_mnist_mlp",
    "build_multi_task",
    "build_poisson_2d",
    "build_poisson_3d",
    "build_poisson_engd",
    "build_quadratic",
    "build_soft_tree",
    "build_svm",
    "build_toy_regression",
    "build_wave",
    "quadratic_matrix",
]

_SPECS = (
    ProblemSpec("burgers", "Viscous Burgers equation, physics-informed network of 941 parameters, 3,000 points.", build_burgers),
    ProblemSpec(
        "burgers-10k",
        "The same equation and points, network of 10,006 parameters.",
        partial(build_burgers, widths=(3, 69, 69, 69, 1), name="burgers-10k"),
    ),
    ProblemSpec(
        "burgers-100k",
        "The same equation and points, network of 100,123 parameters.",
        partial(build_burgers, widths=(3, 222, 222, 222, 1), name="burgers-100k"),
    ),
    ProblemSpec(
        "burgers-shallow",
        "The same equation and points, two hidden layers of 10: 161 parameters.",
        partial(build_burgers, widths=(3, 10, 10, 1), name="burgers-shallow"),
    ),
    ProblemSpec("burgers-soft", "The same equation with penalties on initial and boundary data, 1,341 parameters, 9,000 points.", build_burgers_soft),
    ProblemSpec("burgers-nu001", "Viscous Burgers equation of viscosity 0.01, 1,361 parameters, 3,500 points.", build_burgers_nu001),
    ProblemSpec("burgers-inverse", "The two coefficients of the Burgers equation from 2,000 values of its solution, 1,343 parameters.", build_burgers_inverse),
    ProblemSpec("poisson-2d", "Poisson's equation on the unit square, physics-informed network of 921 parameters, 2,000 + 400 points.", build_poisson_2d),
    ProblemSpec(
        "poisson-2d-shallow",
        "The same equation and points, two hidden layers of 10: 151 parameters.",
        partial(build_poisson_2d, widths=(2, 10, 10, 1), name="poisson-2d-shallow"),
    ),
    ProblemSpec("poisson-3d", "Poisson's equation on the unit cube, physics-informed network of 1,217 parameters, 5,000 + 800 points.", build_poisson_3d),
    ProblemSpec(
        "poisson-engd", "Poisson's equation on the unit square, the published test of the energy natural gradient, 129 parameters.", build_poisson_engd
    ),
    ProblemSpec("allen-cahn", "Allen-Cahn equation, physics-informed network of 921 parameters, 8,000 points.", build_allen_cahn),
    ProblemSpec("wave-1d", "Wave equation with two frequencies, 1,801 parameters, 3,400 points.", build_wave),
    ProblemSpec("kdv", "Korteweg-de Vries equation, physics-informed network of 1,361 parameters, 4,000 points.", build_kdv),
    *(ProblemSpec(f"curve-fit-{name.lower()}", f"Nonlinear regression of NIST: {name}.", partial(build_curve_fit, name=name)) for name in NIST_NAMES),
    ProblemSpec("quadratic", "Positive definite quadratic of 100 parameters, condition number 1e4.", build_quadratic),
    ProblemSpec("toy-regression", "ReLU network of 241 parameters that learns from a teacher of its own shape; also by batches.", build_toy_regression),
    ProblemSpec("linear-regression", "Least squares on the diabetes data, 11 parameters.", build_linear_regression),
    ProblemSpec("logistic", "Logistic regression with a small L2 penalty on the breast cancer data, 31 parameters.", build_logistic),
    ProblemSpec("svm", "Linear support vector machine with squared hinge, even against odd digits, 65 parameters.", build_svm),
    ProblemSpec("soft-tree", "Soft decision tree of depth 4 on the diabetes data, 181 parameters.", build_soft_tree),
    ProblemSpec("multi-task", "Tanh network of 2,315 parameters with a shared trunk and a loss for each of three tasks on the digits.", build_multi_task),
    ProblemSpec("mnist-mlp", "Batches: ReLU network 784-128-10 on 4,000 MNIST digits.", build_mnist_mlp),
    ProblemSpec("fashion-mlp", "Batches: ReLU network 784-128-10 on the whole of Fashion-MNIST (needs its files: make fashion).", build_fashion_mlp),
    ProblemSpec("mnist-autoencoder", "Batches: tanh autoencoder 784-1000-500-250-30 and mirrored on 4,000 MNIST digits.", build_mnist_autoencoder),
    ProblemSpec("digits-conv", "Batches: convolution network of 54,666 parameters on 4,000 MNIST digits.", build_digits_conv),
    ProblemSpec("char-transformer", "Batches: two-layer decoder of width 160 on a million characters of the King James Bible.", build_char_transformer),
    ProblemSpec("ill-conditioned", "Batches: tanh network 64-64-64-1 on inputs of condition number 1e6.", build_ill_conditioned),
    ProblemSpec("deep-sigmoid", "Batches: 20 sigmoid layers of 32 on 4,000 MNIST digits; gradients vanish.", build_deep_sigmoid),
    ProblemSpec("deep-exploding", "Batches: 20 ReLU layers of 32, weights 3 times He's, on 4,000 MNIST digits; gradients explode.", build_deep_exploding),
)

PROBLEMS: Final[Mapping[str, ProblemSpec]] = MappingProxyType({spec.name: spec for spec in _SPECS})
"""Every benchmark problem by name, in the order in which they are listed to the user."""
