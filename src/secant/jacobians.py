"""The Jacobian of residuals by automatic differentiation of their graph: whole, and its products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK_BYTES = 1 << 25
"""What a block of rows of the Jacobian may take where rows can be had apart: long enough for matrix products at full speed."""


def real_size(tensor: Tensor) -> int:
    """How many real numbers a tensor holds: a complex one counts as pairs."""
    return tensor.numel() * (2 if tensor.is_complex() else 1)


def jacobian_of(r: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The Jacobian of residuals with a graph, shape ``(N, n)``, in the residuals' type.

    With fewer residuals than parameters one backward pass per row; else one product ``J v`` per column, each a backward pass through the graph of ``J' u``.
    Passes are made many at a time by vmap where every operation allows it.
    """
    sizes = [real_size(p) for p in parameters]
    if not r.requires_grad:
        return r.new_zeros(r.numel(), sum(sizes))
    if r.numel() <= sum(sizes):
        rows = _directions_pulled(r, parameters, torch.eye(r.numel(), dtype=r.dtype, device=r.device))
        return rows.to(r.dtype)
    u = torch.zeros_like(r, requires_grad=True)
    with torch.enable_grad():
        pulled = torch.autograd.grad(r, parameters, u, create_graph=True, allow_unused=True)
        flattened = [None if row is None else (torch.view_as_real(row) if row.is_complex() else row).reshape(-1) for row in pulled]
    columns = r.new_zeros(sum(sizes), r.numel())
    start = 0
    for flat, size in zip(flattened, sizes, strict=True):
        if flat is not None and flat.requires_grad:
            columns[start : start + size] = _directions_pulled(flat, [u], torch.eye(size, dtype=flat.dtype, device=flat.device)).to(r.dtype)
        start += size
    return columns.T


def pulled(r: Tensor, parameters: Sequence[Tensor], u: Tensor) -> Sequence[Tensor | None]:
    """``J' u`` for residuals with a graph, shaped like the parameters; the graph stays."""
    if not r.requires_grad:
        return [None] * len(parameters)
    return torch.autograd.grad(r, parameters, u.to(r.dtype), retain_graph=True, allow_unused=True)


def pushed(r: Tensor, parameters: Sequence[Tensor], v: Sequence[Tensor]) -> Tensor:
    """``J v`` for residuals with a graph, shape ``(N,)``: the derivative by ``u`` of ``v . J' u``."""
    if not r.requires_grad:
        return torch.zeros_like(r)
    u = torch.zeros_like(r, requires_grad=True)
    rows = torch.autograd.grad(r, parameters, u, create_graph=True, allow_unused=True)
    pairs = [(row, w.to(row.dtype)) for row, w in zip(rows, v, strict=True) if row is not None and row.requires_grad]
    if not pairs:
        return torch.zeros_like(r)
    outputs, directions = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, u, directions)[0]


def _directions_pulled(outputs: Tensor, inputs: Sequence[Tensor], directions: Tensor) -> Tensor:
    """The rows ``directions @ d(outputs)/d(inputs)``, shape ``(directions, inputs)``, as many at a time as fit into a block."""
    width = sum(real_size(p) for p in inputs)
    chunk = max(1, BLOCK_BYTES // (8 * max(1, max(width, outputs.numel()))))
    rows = []
    for part in torch.split(directions, chunk):
        pieces = _batched_gradients(outputs, inputs, part)
        flat = [
            part.new_zeros(len(part), real_size(p))
            if piece is None
            else (torch.view_as_real(piece.resolve_conj()) if piece.is_complex() else piece).reshape(len(part), -1).to(part.dtype)
            for p, piece in zip(inputs, pieces, strict=True)
        ]
        rows.append(torch.cat(flat, dim=1))
    return torch.cat(rows) if rows else directions.new_zeros(0, width)


def _batched_gradients(outputs: Tensor, inputs: Sequence[Tensor], directions: Tensor) -> Sequence[Tensor | None]:
    if len(directions) > 1:
        try:
            return torch.autograd.grad(outputs, inputs, directions, retain_graph=True, allow_unused=True, is_grads_batched=True)
        except RuntimeError:
            pass  # an operation without a rule for vmap; one pass per direction gives the same numbers, or the error that is the user's
    each = [torch.autograd.grad(outputs, inputs, direction, retain_graph=True, allow_unused=True) for direction in directions]
    columns = zip(*each, strict=True)
    return [None if column[0] is None else torch.stack(column) for column in columns]
