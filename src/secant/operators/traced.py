"""Products as compiled programs: the second backward pass traced once, without the autograd engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, final

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

WIDTH = 16
"""Vectors in one compiled block: wide enough to fill matrix products, narrow enough that the tangents of a batch stay in memory."""

_TRACE_FROM = 2
"""Products after which a graph is traced: a graph that is built anew in every pass never gets there."""


class ProductGraph(Protocol):
    """One batch's matrix, known by its products."""

    def multiply(self, vector: Tensor) -> Tensor:
        """The product with a vector of shape ``(n,)``."""
        ...


Program = Callable[..., Tensor]


@final
class Programs:
    """Compiled programs by their text: batches of equal shapes share one, each with its own saved tensors as inputs."""

    def __init__(self) -> None:
        self._compiled: dict[str, Program] = {}

    def compiled(self, module: GraphModule) -> Program:
        """The compiled form of a program; compiled once for every text."""
        text = module.code
        if text not in self._compiled:
            self._compiled[text] = torch.compile(module, dynamic=False)
        return self._compiled[text]


@final
class TracedGraph:
    """A product graph that turns into a compiled program after a few products.

    Args:
        graph: The plain form, used until then.
        programs: Shared by the batches of an operator.
    """

    def __init__(self, graph: ProductGraph, programs: Programs) -> None:
        self._graph, self._programs = graph, programs
        self._uses = 0
        self._single: Callable[[Tensor], Tensor] | None = None
        self._block: Callable[[Tensor], Tensor] | None = None
        self._has_block = True

    def multiply_rows(self, rows: Tensor) -> Tensor:
        """The products with the rows of a tensor of shape ``(k, n)``, as rows."""
        self._uses += len(rows)
        if self._uses < _TRACE_FROM:
            return torch.stack([self._graph.multiply(row) for row in rows])
        whole = len(rows) - len(rows) % WIDTH if self._block_program(rows) is not None else 0
        parts = [self._block(rows[first : first + WIDTH]) for first in range(0, whole, WIDTH)] if self._block is not None else []
        if whole < len(rows):
            parts.append(torch.stack([self._single_program(row)(row) for row in rows[whole:]]))
        return torch.cat(parts)

    def _single_program(self, row: Tensor) -> Callable[[Tensor], Tensor]:
        if self._single is None:
            self._single = self._bound(lambda vector: self._graph.multiply(vector), row)
        return self._single

    def _block_program(self, rows: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Products with ``WIDTH`` rows at once; None for fewer rows, and where a layer cannot be batched: its rows then take the single program."""
        if len(rows) < WIDTH or not self._has_block:
            return None
        if self._block is None:
            plain = make_fx(lambda vector: self._graph.multiply(vector))(rows[0])
            try:
                self._block = self._bound(lambda block: torch.func.vmap(plain)(block), rows[:WIDTH])
            except RuntimeError:  # vmap has no rule for a layer's view or kernel, and says so while tracing
                self._has_block = False
        return self._block

    def _bound(self, function: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
        module = make_fx(function)(example)
        constants = lift_constants(module)
        program = self._programs.compiled(module)

        def run(rows: Tensor) -> Tensor:
            with torch.no_grad():
                return program(rows, *constants)

        return run


def lift_constants(module: GraphModule) -> list[Tensor]:
    """Turn the tensors that a program holds into inputs behind its own; returns them in order."""
    graph = module.graph
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    constants: list[Tensor] = []
    names: list[str] = []
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        held = getattr(module, str(node.target))
        if not isinstance(held, Tensor):
            continue
        with graph.inserting_after(placeholders[-1]):
            lifted = graph.placeholder(f"saved_{len(constants)}")
        placeholders.append(lifted)
        constants.append(held.detach())
        names.append(str(node.target))
        node.replace_all_uses_with(lifted)
        graph.erase_node(node)
    for name in set(names):
        delattr(module, name)
    module.recompile()
    return constants
