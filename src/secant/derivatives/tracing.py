"""Programs of plain operations, traced from Python and compiled."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from secant.operators.traced import lift_constants

_aten = torch.ops.aten


def traced(function: Callable[..., Sequence[Tensor]], *example: Tensor) -> Callable[..., Sequence[Tensor]]:
    """The function as a compiled program for arguments like the example.

    Args:
        function: Of tensors, and of whatever it closes over. Where it closes over a tensor that is also among the example's, that is an input of the program;
            all others are read when the program runs, but what was computed from them alone stays what it was.
        example: Its arguments.

    Returns:
        The program, which compiles at its first call. Its results have no graph.
    """
    with torch.enable_grad():
        module = make_fx(function, decomposition_table={_aten.tanh.default: _tanh})(*example)
    _select_from_stacks(module)
    constants = lift_constants(module)
    program: Callable[..., Any] = torch.compile(module, dynamic=False)
    return lambda *args: program(*args, *constants)


def _tanh(x: Tensor) -> Tensor:
    """``tanh`` to rounding, relative to itself, by the vectorized ``expm1``; half the time of a compiler's ``tanh``."""
    shrunk = torch.expm1(-2.0 * x.abs())
    return torch.copysign(shrunk / (shrunk + 2.0), x)


def _select_from_stacks(module: GraphModule) -> None:
    """Take what is selected from a stack directly, so that stacks that are only taken apart again are never written."""
    graph = module.graph
    source: Any
    dim: Any
    place: Any
    for node in list(graph.nodes):
        if node.target is operator.getitem and getattr(node.args[0], "target", None) is _aten.unbind.int:
            source, dim, place = node.args[0].args[0], _argument(node.args[0], 1), node.args[1]
        elif node.target is _aten.select.int:
            source, dim, place = node.args
        else:
            continue
        if any(_writes(user) for user in node.users):
            continue
        with graph.inserting_before(node):
            part = _part(graph, source, dim % _ndim(source), place)
        if part is not None:
            node.replace_all_uses_with(part)
    graph.eliminate_dead_code()
    module.recompile()


def _part(graph: Graph, source: Any, dim: int, place: int) -> Node | None:
    """``source.select(dim, place)`` where the source is a stack along this dimension, seen through permutations and squeezes; else None."""
    if source.target is _aten.stack.default:
        stacked: list[Node] = source.args[0]
        return stacked[place] if dim == _argument(source, 1) % _ndim(source) else None
    if source.target is _aten.permute.default:
        inner, order = source.args[0], [axis % _ndim(source) for axis in source.args[1]]
        part = _part(graph, inner, order[dim], place)
        left = [axis - (axis > order[dim]) for position, axis in enumerate(order) if position != dim]
        return part if part is None or left == sorted(left) else _called(graph, _aten.permute.default, part, left)
    if source.target is _aten.squeeze.dim and _ndim(source) < _ndim(source.args[0]):
        gone = source.args[1] % _ndim(source.args[0])
        part = _part(graph, source.args[0], dim + (dim >= gone), place)
        return None if part is None else _called(graph, _aten.squeeze.dim, part, gone - (gone > dim))
    return None


def _called(graph: Graph, function: Callable[..., Tensor], source: Node, *args: Any) -> Node:
    """A new node, with the value that later steps ask for its shape."""
    node = graph.call_function(function, (source, *args))
    node.meta["val"] = function(source.meta["val"], *args)
    return node


def _writes(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _argument(node: Any, position: int) -> int:
    """An argument that is 0 where it is left out."""
    return int(node.args[position]) if len(node.args) > position else int(node.kwargs.get("dim", 0))


def _ndim(node: Node) -> int:
    return int(node.meta["val"].ndim)
