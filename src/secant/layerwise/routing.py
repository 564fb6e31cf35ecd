"""Which rule each parameter is trained by, and why: a table that the user can read and overrule."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from fnmatch import fnmatchcase
from typing import final

import torch
from torch import Tensor, nn

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_EMBEDDING_NAME = re.compile(
    r"(^|[._])(embed\w*|wte|wpe|tok_emb\w*|pos_emb\w*|pos_embed\w*|position(?!_?wise)\w*|cls_token|\w*_token|relative_attention_bias)([._]|$)"
)
_NORM_TYPE = re.compile(r"Norm(\d+d?)?$")
_NORM_NAME = re.compile(r"(^|[._])(\w*norm\d*|ln_?\w*|bn\d*)([._]|$)")


class Rule(Enum):
    """How a parameter is trained."""

    KRON = "kron"
    ADAMW = "adamw"


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the table.

    Attributes:
        name: Of the parameter; ``"param 0"`` and so on where it has none.
        shape: Of the parameter.
        rule: How it is trained.
        reason: Why, in a few words.
    """

    name: str
    shape: tuple[int, ...]
    rule: Rule
    reason: str


@final
class RoutingTable(tuple[Route, ...]):
    """The routes of all parameters; prints as aligned text."""

    __slots__ = ()

    def __str__(self) -> str:
        return table(self)


def parse_rule(value: Rule | str) -> Rule:
    """The rule of that value.

    Raises:
        ValueError: There is no such rule.
    """
    try:
        return Rule(value)
    except ValueError as error:
        raise ValueError(f"Expected rule='kron' or rule='adamw', got {value!r}. Leave it out to let the shape and the name decide.") from error


def module_routes(model: nn.Module) -> dict[Tensor, Route]:
    """The routes of a module's parameters by the type of the layer that owns them, in the order of ``model.named_parameters()``.

    The last layer is the last one, in order of registration, that owns a matrix. A parameter shared by several layers is listed once; if one of them is an
    embedding, or the last layer, so is it.
    """
    owners: dict[Tensor, list[nn.Module]] = {}
    last: Tensor | None = None
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter, []).append(module)
    for module in model.modules():
        matrices = [parameter for parameter in module.parameters(recurse=False) if parameter.ndim >= 2 and not _is_norm(module)]
        last = matrices[-1] if matrices else last
    routes: dict[Tensor, Route] = {}
    for name, parameter in model.named_parameters():
        found = _by_shape(name, parameter, is_convolution=isinstance(owners[parameter][0], _CONVOLUTIONS))
        if any(_is_embedding(owner) for owner in owners[parameter]) or _is_bare_embedding(name, parameter):
            found = _adamw(found, "embedding")
        elif any(_is_norm(owner) for owner in owners[parameter]):
            found = _adamw(found, "normalization")
        elif parameter is last and found.rule is Rule.KRON:
            found = _adamw(found, "last layer")
        routes[parameter] = found
    return routes


def named_routes(named: Sequence[tuple[str, Tensor]]) -> dict[Tensor, Route]:
    """The routes of named parameters by shape and name.

    Embeddings are recognized by the words embed, wte, wpe, tok_emb, pos_emb, position, token and normalizations by norm, ln, bn, between dots or underscores;
    convolution kernels by having four or five dimensions, or three and the word conv.
    """
    routes: dict[Tensor, Route] = {}
    for name, parameter in named:
        found = _by_shape(name, parameter, is_convolution="conv" in name or parameter.ndim in (4, 5))
        if _EMBEDDING_NAME.search(name) and parameter.ndim >= 2:
            found = _adamw(found, "embedding, by its name")
        elif _NORM_NAME.search(name) and parameter.ndim >= 2:
            found = _adamw(found, "normalization, by its name")
        routes.setdefault(parameter, found)
    return routes


def with_last_layer(routes: Mapping[Tensor, Route]) -> dict[Tensor, Route]:
    """The same routes, the last matrix in order counted as the last layer, if it is neither an embedding nor, by its name, an adapter (``lora_``)."""
    matrices = [parameter for parameter, route in routes.items() if route.rule is Rule.KRON or route.reason.startswith("embedding")]
    if not matrices or routes[matrices[-1]].rule is not Rule.KRON or "lora_" in routes[matrices[-1]].name:
        return dict(routes)
    return {**routes, matrices[-1]: _adamw(routes[matrices[-1]], "last layer: last matrix in order")}


def overruled(routes: Mapping[Tensor, Route], rules: Mapping[str, Rule | str]) -> dict[Tensor, Route]:
    """The same routes with those of matching names changed.

    Args:
        routes: From the functions above.
        rules: Shell patterns of names (``"decoder.*"``) and the rule of what they match; the first match counts.

    Raises:
        ValueError: A pattern matches no name, or ``kron`` is asked for what is no matrix.
    """
    unused = [pattern for pattern in rules if not any(fnmatchcase(route.name, pattern) for route in routes.values())]
    if unused:
        names = ", ".join(route.name for route in list(routes.values())[:8])
        raise ValueError(f"Expected patterns that match parameter names, got {unused[0]!r}, which matches none. The names are {names}, ...")
    changed = {}
    for parameter, route in routes.items():
        pattern = next((pattern for pattern in rules if fnmatchcase(route.name, pattern)), None)
        changed[parameter] = route if pattern is None else overrule(parameter, route, parse_rule(rules[pattern]), f"rule given for {pattern!r}")
    return changed


def overrule(parameter: Tensor, route: Route, rule: Rule, reason: str) -> Route:
    """The route under a rule that the user asks for.

    Raises:
        ValueError: ``kron`` is asked for what is no matrix.
    """
    if rule is Rule.KRON and not _is_matrix_like(parameter):
        shape = tuple(parameter.shape)
        raise ValueError(
            f"Expected a real matrix or a kernel for rule='kron', got {route.name} of shape {shape} and {parameter.dtype}. Use rule='adamw' for it."
        )
    return replace(route, rule=rule, reason=reason)


def matrix_shape(parameter: Tensor) -> tuple[int, int]:
    """Rows and columns of a parameter seen as a matrix: a kernel of shape ``(out, in, ...)`` has ``out`` rows."""
    rows = parameter.shape[0]
    return rows, parameter.numel() // max(1, rows)


def table(routes: Iterable[Route]) -> str:
    """The routes as aligned text, one line each."""
    cells = [(route.name, "x".join(map(str, route.shape)) or "scalar", route.rule.value, route.reason) for route in routes]
    widths = [max((len(row[column]) for row in cells), default=0) for column in range(3)]
    return "\n".join("  ".join([*(cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)), row[3]]) for row in cells)


def _by_shape(name: str, parameter: Tensor, *, is_convolution: bool) -> Route:
    shape = tuple(parameter.shape)
    if parameter.numel() == 0:
        return Route(name, shape, Rule.ADAMW, "no elements")
    if parameter.is_complex():
        return Route(name, shape, Rule.ADAMW, "complex")
    if parameter.ndim < 2:
        return Route(name, shape, Rule.ADAMW, "scalar" if parameter.ndim == 0 else "vector")
    if parameter.ndim > 2 and not is_convolution:
        return Route(name, shape, Rule.ADAMW, f"{parameter.ndim} dimensions, no convolution")
    if min(matrix_shape(parameter)) == 1:
        return Route(name, shape, Rule.ADAMW, "one row or column")
    return Route(name, shape, Rule.KRON, "matrix" if parameter.ndim == 2 else "convolution")


def _adamw(route: Route, reason: str) -> Route:
    return replace(route, rule=Rule.ADAMW, reason=reason)


def _is_matrix_like(parameter: Tensor) -> bool:
    return parameter.ndim >= 2 and parameter.numel() > 0 and not parameter.is_complex() and min(matrix_shape(parameter)) > 1


def _is_embedding(module: nn.Module) -> bool:
    return isinstance(module, _EMBEDDINGS) or type(module).__name__.endswith("Embedding")


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)) or _NORM_TYPE.search(type(module).__name__) is not None


def _is_bare_embedding(name: str, parameter: Tensor) -> bool:
    """A table of positions or tokens that a container holds itself, without a layer around it: its own name tells, whatever the container is called."""
    return parameter.ndim >= 2 and _EMBEDDING_NAME.search(name.rpartition(".")[2]) is not None


def refuse_unsupported(parameter: Tensor) -> None:
    """Refuse what the layer-wise methods cannot train.

    Raises:
        TypeError: A parameter that is an integer, sparse, distributed (``DTensor``) or not yet initialized.
    """
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        raise TypeError("Expected initialized parameters, got one of a lazy module. Run one forward pass before building the optimizer.")
    if type(parameter).__name__ == "DTensor":
        raise TypeError("Expected local tensors, got a DTensor. Use DistributedDataParallel, or torch.optim.AdamW for sharded parameters.")
    if parameter.layout != torch.strided:
        raise TypeError(f"Expected dense parameters, got one with layout {parameter.layout}. Convert it with .to_dense().")
    if not (parameter.is_floating_point() or parameter.is_complex()):
        raise TypeError(f"Expected floating-point or complex parameters, got {parameter.dtype}. Leave integer tensors out of the optimizer.")
