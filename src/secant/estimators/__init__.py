"""Estimators in the manner of scikit-learn: NumPy in and out, the same objectives, our optimizers. Imported on demand; needs the extra ``sklearn``."""

try:
    import sklearn  # noqa: F401
except ModuleNotFoundError as absent:
    message = 'secant.estimators needs scikit-learn, which is not installed; install it: pip install "secant[sklearn]"'
    raise ModuleNotFoundError(message, name=absent.name) from absent

from secant.estimators.linear import LinearSVC, LogisticRegression
from secant.estimators.perceptron import MLPClassifier, MLPRegressor

__all__ = ["LinearSVC", "LogisticRegression", "MLPClassifier", "MLPRegressor"]
