"""Where a problem comes from: the library's own by name, or a user's function as ``module:function``."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from secant.problems import PROBLEMS, Problem
from secant.problems.minibatch import compile_model
from secant.race.errors import UsageError, unknown_name


@dataclass(frozen=True, slots=True)
class Source:
    """A problem that can be built for any seed.

    Attributes:
        name: What the user typed.
        build: ``build(seed, compile)`` gives the problem with fresh parameters.
    """

    name: str
    build: Callable[[int, bool], Problem]


def find_problem(name: str) -> Source:
    """The source of a problem.

    Args:
        name: A name of ``secant problems``, or ``module:function`` of the user's own, importable from the current folder. The function returns
            ``(parameters, closure)``, ``(parameters, closure, error)`` or a ``Problem``; it is given ``seed`` and ``compile`` if it takes them.

    Raises:
        UsageError: If there is no such problem, module or function.
    """
    if ":" in name:
        return _own(name)
    if name not in PROBLEMS:
        raise unknown_name("problem", name, PROBLEMS, "secant problems")
    spec = PROBLEMS[name]
    return Source(name, lambda seed, compile_loss: spec.build(seed, compile=compile_loss))


def _own(name: str) -> Source:
    function = load_function(name)
    accepted = inspect.signature(function).parameters

    def build(seed: int, compile_loss: bool) -> Problem:
        offered = {"seed": seed, "compile": compile_loss}
        torch.manual_seed(seed)
        problem = _as_problem(name, function(**{key: value for key, value in offered.items() if key in accepted}))
        if not compile_loss or "compile" in accepted:
            return problem
        if problem.training is None:
            return dataclasses.replace(problem, loss=torch.compile(problem.loss))
        compile_model(problem.training)
        return problem

    return Source(name, build)


def kept_once(source: Source, seed: int, compile_loss: bool, problem: Problem) -> Source:
    """The same source, which hands out a problem that was built already when it is first asked for that seed."""
    ready = [problem]

    def build(wanted_seed: int, wanted_compiled: bool) -> Problem:
        if ready and (wanted_seed, wanted_compiled) == (seed, compile_loss):
            return ready.pop()
        return source.build(wanted_seed, wanted_compiled)

    return Source(source.name, build)


def load_function(name: str) -> Callable[..., Any]:
    """The user's function ``module:function``, importable from the current folder.

    Raises:
        UsageError: If there is no such module or function.
    """
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or module_name.partition(".")[0] != error.name.partition(".")[0]:
            raise
        raise UsageError(f"There is no module named {module_name!r}.", "run the command in the folder that holds it") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown_name(f"function in {module_name}", attribute, functions, f'python -c "import {module_name}; print(dir({module_name}))"')
    return function  # type: ignore[no-any-return]


def _as_problem(name: str, made: object) -> Problem:
    if isinstance(made, Problem):
        return made
    if not isinstance(made, tuple) or len(made) not in (2, 3) or not isinstance(made[0], Iterable) or not callable(made[1]):
        message = f"{name} returned {type(made).__name__}, expected (parameters, closure), (parameters, closure, error) or a Problem."
        raise UsageError(message, "return the parameters and a function of no argument that returns the loss")
    error = made[2] if len(made) == 3 else None
    return Problem(name=name, parameters=tuple(made[0]), loss=made[1], error=error, error_name="error" if error is not None else "", settings={})
