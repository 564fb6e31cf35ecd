"""Where each trainable parameter sits in the flat vector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from secant.notice import warn_user

ParamGroup = dict[str, Any]


@final
class Layout:
    """The order, shapes and types of the trainable parameters, fixed until one of them changes.

    Complex parameters enter as pairs of real numbers (``torch.view_as_real``), so one counts twice and the Hessian is real symmetric. A parameter given
    twice in one group counts once, as in torch. The flat vector has the widest real type among the parameters and at least float32.

    Args:
        groups: The optimizer's ``param_groups``.

    Raises:
        ValueError: No trainable parameter, parameters on several devices, or two parameters that overlap in memory.
        TypeError: A parameter that is an integer, sparse, distributed (``DTensor``) or not yet initialized.
    """

    def __init__(self, groups: Sequence[ParamGroup]) -> None:
        for parameter in _unique(groups):
            _refuse_unsupported(parameter)
        trainable = [parameter for parameter in _unique(groups) if parameter.requires_grad]
        if not trainable:
            raise ValueError("Expected at least one trainable parameter, got none. Set requires_grad=True on what is to be optimized.")
        _refuse_mixed_devices(trainable)
        _refuse_overlap(trainable)
        self.parameters: tuple[Tensor, ...] = tuple(trainable)
        self.device = trainable[0].device
        self.dtype = torch.float32
        for parameter in trainable:
            self.dtype = torch.promote_types(self.dtype, parameter.dtype.to_real())
        self.sizes = tuple(parameter.numel() * (2 if parameter.is_complex() else 1) for parameter in trainable)
        self.size = sum(self.sizes)
        if self.size == 0:
            raise ValueError("Expected at least one trainable number, got only empty parameters.")
        self.rounds = any(parameter.dtype.to_real() != self.dtype for parameter in trainable)
        self._signature = _signature(groups)
        if any(torch.finfo(parameter.dtype).bits < 32 for parameter in trainable):
            warn_user(
                "Some parameters have half precision: the method works in float32 and every trial point is rounded to them, which limits the accuracy to "
                "about three digits. Convert the model with .float() or .double() for more.",
            )

    def matches(self, groups: Sequence[ParamGroup]) -> bool:
        """Whether the trainable parameters are still the same, with the same types and devices."""
        return self._signature == _signature(groups)

    def gather(self) -> Tensor:
        """The parameters as one new vector of shape ``(n,)``."""
        return self._flatten([parameter.detach() for parameter in self.parameters])

    def gather_grads(self) -> Tensor:
        """The gradients as one new vector of shape ``(n,)``; a parameter without a gradient counts as zero.

        Raises:
            TypeError: A gradient is sparse.
        """
        return self.flatten_like([parameter.grad for parameter in self.parameters])

    def flatten_like(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """One vector from tensors shaped like the parameters, None meaning zeros."""
        for tensor in tensors:
            if tensor is not None and tensor.layout != torch.strided:
                raise TypeError(f"Expected dense gradients, got one with layout {tensor.layout}. Build the embedding with sparse=False.")
        filled = [torch.zeros_like(p) if t is None else t.detach() for p, t in zip(self.parameters, tensors, strict=True)]
        return self._flatten(filled)

    @torch.no_grad()
    def write(self, x: Tensor) -> None:
        """Copy the flat vector ``x`` of shape ``(n,)`` into the parameters, rounding where a parameter is narrower."""
        for parameter, piece in zip(self.parameters, self.split(x), strict=True):
            parameter.copy_(piece)

    def split(self, x: Tensor) -> list[Tensor]:
        """``x`` cut into pieces shaped (and, for complex parameters, typed) like the parameters; views where the memory allows."""
        pieces = torch.split(x, list(self.sizes))
        return [
            torch.view_as_complex(piece.view(*parameter.shape, 2).clone()) if parameter.is_complex() else piece.view(parameter.shape)
            for parameter, piece in zip(self.parameters, pieces, strict=True)
        ]

    def versions(self) -> tuple[int, ...]:
        """The in-place version of every parameter: it grows with every write."""
        return tuple(parameter._version for parameter in self.parameters)

    def per_group(self, groups: Sequence[ParamGroup], key: str) -> list[tuple[slice, float]]:
        """Which part of the flat vector each group owns, with the group's number ``key``."""
        value_of = {id(parameter): float(group[key]) for group in groups for parameter in group["params"]}
        parts, start = [], 0
        for parameter, size in zip(self.parameters, self.sizes, strict=True):
            parts.append((slice(start, start + size), value_of[id(parameter)]))
            start += size
        return parts

    def _flatten(self, tensors: Iterable[Tensor]) -> Tensor:
        """One new contiguous vector in the layout's type; ``cat`` copies, so nothing aliases a parameter."""
        rows = [torch.view_as_real(t.resolve_conj()).reshape(-1) if t.is_complex() else t.reshape(-1) for t in tensors]
        return torch.cat([row.to(self.dtype) for row in rows])


def _unique(groups: Sequence[ParamGroup]) -> list[Tensor]:
    return list({id(p): p for group in groups for p in group["params"]}.values())


def _signature(groups: Sequence[ParamGroup]) -> tuple[tuple[int, torch.Size, torch.dtype, torch.device], ...]:
    return tuple((id(p), p.shape, p.dtype, p.device) for p in _unique(groups) if p.requires_grad)


def _refuse_unsupported(parameter: Tensor) -> None:
    if isinstance(parameter, (UninitializedBuffer, UninitializedParameter)):
        raise TypeError("Expected initialized parameters, got one of a lazy module. Run one forward pass before building the optimizer.")
    if type(parameter).__name__ == "DTensor":
        raise TypeError("Expected local tensors, got a DTensor. Pass replicated parameters and process_group instead.")
    if parameter.layout != torch.strided:
        raise TypeError(f"Expected dense parameters, got one with layout {parameter.layout}. Convert it with .to_dense().")
    if not (parameter.is_floating_point() or parameter.is_complex()):
        raise TypeError(f"Expected floating-point or complex parameters, got {parameter.dtype}. Leave integer tensors out of the optimizer.")


def _refuse_mixed_devices(parameters: Sequence[Tensor]) -> None:
    devices = sorted({str(parameter.device) for parameter in parameters})
    if len(devices) > 1:
        raise ValueError(f"Expected all parameters on one device, got {', '.join(devices)}. Move the model to one of them.")
    if devices == ["meta"]:
        raise ValueError("Expected parameters with storage, got the meta device. Materialize the model with .to_empty() and initialize it.")


def _refuse_overlap(parameters: Sequence[Tensor]) -> None:
    """Two views of one memory would be written twice, and the second would undo the first."""
    seen: dict[int, list[Tensor]] = {}
    for parameter in parameters:
        if _overlaps_itself(parameter):
            raise ValueError("Expected parameters with memory of their own, got an expanded or overlapping view. Give it memory with .clone().")
        others = seen.setdefault(parameter.untyped_storage().data_ptr(), [])
        if parameter.numel() > 0 and any(_overlap(parameter, other) for other in others):
            raise ValueError(
                "Expected parameters with memory of their own, got two different tensors that overlap. Tie weights by sharing one Parameter object."
            )
        if parameter.numel() > 0:
            others.append(parameter)


def _overlaps_itself(parameter: Tensor) -> bool:
    """Whether two indices are one element, as in an expanded tensor. Strides that grow past what lies below them answer without looking."""
    reach = 1
    for stride, size in sorted((stride, size) for stride, size in zip(parameter.stride(), parameter.shape, strict=True) if size > 1):
        if stride < reach:
            offsets = _byte_offsets(parameter)
            return int(torch.unique(offsets).numel()) < offsets.numel()
        reach += stride * (size - 1)
    return False


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors on one storage share an element. Interleaved ones (columns of one matrix) do not."""
    (a_first, a_last), (b_first, b_last) = _span(a), _span(b)
    if a_last <= b_first or b_last <= a_first:
        return False
    return bool(torch.isin(_byte_offsets(a), _byte_offsets(b)).any())


def _span(parameter: Tensor) -> tuple[int, int]:
    first = parameter.data_ptr()
    last = sum((size - 1) * stride for size, stride in zip(parameter.shape, parameter.stride(), strict=True))
    return first, first + (last + 1) * parameter.element_size()


def _byte_offsets(parameter: Tensor) -> Tensor:
    """The address of every element, in the smallest unit the two could share: a complex number is two real ones."""
    width = parameter.element_size() // (2 if parameter.is_complex() else 1)
    offsets = torch.tensor([parameter.data_ptr()])
    for size, stride in zip(parameter.shape, parameter.stride(), strict=True):
        offsets = (offsets.unsqueeze(-1) + torch.arange(size) * stride * parameter.element_size()).reshape(-1)
    return torch.cat([offsets, offsets + width]) if parameter.is_complex() else offsets
