"""Benchmark problems with fixed points, stated seeds and reference solutions."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Final

from secant.problems.burgers import build_burgers
from secant.problems.char_transformer import build_char_transformer
from secant.problems.datasets import DataError
from secant.problems.deep_nets import build_deep_exploding, build_deep_sigmoid
from secant.problems.digits_conv import build_digits_conv
from secant.problems.ill_conditioned import build_ill_conditioned
from secant.problems.linear_regression import build_linear_regression
from secant.problems.logistic import build_logistic
from secant.problems.mnist_autoencoder import build_mnist_autoencoder
from secant.problems.mnist_mlp import build_fashion_mlp, build_mnist_mlp
from secant.problems.multi_task import build_multi_task
from secant.problems.poisson import build_poisson_2d, build_poisson_3d
from secant.problems.problem import Build, Problem, ProblemSpec, Training
from secant.problems.quadratic import build_quadratic, quadratic_matrix
from secant.problems.soft_tree import build_soft_tree
from secant.problems.svm import build_svm
from secant.problems.toy_regression import build_toy_regression

__all__ = [
    "PROBLEMS",
    "Build",
    "DataError",
    "Problem",
    "ProblemSpec",
    "Training",
    "build_burgers",
    "build_char_transformer",
    "build_deep_exploding",
    "build_deep_sigmoid",
    "build_digits_conv",
    "build_fashion_mlp",
    "build_ill_conditioned",
    "build_linear_regression",
    "build_logistic",
    "build_mnist_autoencoder",
    "build_mnist_mlp",
    "build_multi_task",
    "build_poisson_2d",
    "build_poisson_3d",
    "build_quadratic",
    "build_soft_tree",
    "build_svm",
    "build_toy_regression",
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
    ProblemSpec("poisson-2d", "Poisson's equation on the unit square, physics-informed network of 921 parameters, 2,000 + 400 points.", build_poisson_2d),
    ProblemSpec("poisson-3d", "Poisson's equation on the unit cube, physics-informed network of 1,217 parameters, 5,000 + 800 points.", build_poisson_3d),
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
