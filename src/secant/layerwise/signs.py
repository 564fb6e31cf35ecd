"""Random signs that depend on nothing but their place: the same for one large batch and for the micro-batches or ranks that share it."""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = (1 << 64) - 1
_FIRST, _SECOND = 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53  # multipliers of the finalizer of MurmurHash3, 64 bits
_CALL = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: multiples of it are far from each other
_LARGEST_COLUMNS = 32  # the upper half of a hash's bits, which need no last shift to be well mixed


def key_of(seed: int, step: int) -> int:
    """The hash of seed and step, as a signed 64-bit number; cost: a few integer operations on the host."""
    return _signed(_mixed((_mixed(seed & _WORD) + step) & _WORD))


def random_signs(key: Tensor, first: Tensor, *, samples: int, positions: int, columns: int, call: int, rank: int, ranks: int, dtype: torch.dtype) -> Tensor:
    """Independent random signs for every position of every sample.

    Local sample ``i`` is sample ``(first + i) * ranks + rank`` of the joint batch, the order in which ``DistributedSampler`` deals samples out. The sign of
    a position is a bit of the hash of (key, joint sample, position, call).

    Args:
        key: From :func:`key_of`, an int64 scalar tensor.
        first: How many local samples of this step came before, an int64 scalar tensor on the same device.
        samples: Local samples ``n``.
        positions: Positions ``p`` per sample: tokens, or places of a convolution kernel.
        columns: Independent signs ``r`` per position, at most 32.
        call: Which use of the weight in one forward pass, counted from 0.
        rank: Of this process.
        ranks: Processes that share the batch.
        dtype: Floating dtype of the result.

    Returns:
        ``+1`` and ``-1``, shape ``(n, r, p)``. Cost: about ten integer operations per position and four per sign; no generator is touched.

    Source:
        After the finalizer of MurmurHash3 (A. Appleby, public domain), applied to a counter; without its last shift, which only changes the lower half.
    """
    # An operator of its own in compiled graphs: inductor of torch 2.13 computes wrong signs when it fuses the hash into a sum over channels-last tensors.
    function = _as_operator if torch.compiler.is_compiling() else _hashed_signs
    return function(key, first, samples, positions, columns, call, rank, ranks, dtype)


def check_columns(columns: int) -> None:
    """Refuse a number of columns that one hash has no bits for.

    Raises:
        ValueError: It is not between 1 and 32.
    """
    if not 1 <= columns <= _LARGEST_COLUMNS:
        raise ValueError(f"Expected 1 <= columns <= {_LARGEST_COLUMNS}, got {columns}.")


def _hashed_signs(key: Tensor, first: Tensor, samples: int, positions: int, columns: int, call: int, rank: int, ranks: int, dtype: torch.dtype) -> Tensor:
    device = key.device
    place = (torch.arange(samples, device=device) + first) * (ranks << 32) + (rank << 32)
    if positions > 1:
        place = place.unsqueeze(1) + torch.arange(positions, device=device)
    word = (place ^ key) + _signed(call * _CALL & _WORD)
    word = _shifted(word) * _signed(_FIRST)
    word = (_shifted(word) * _signed(_SECOND)).view(samples, 1, positions)
    if columns > 1:
        word = word << torch.arange(columns, device=device).unsqueeze(1)
    return torch.rsub((word < 0).to(dtype), 1.0, alpha=2.0)


_as_operator = torch.library.custom_op("secant::random_signs", _hashed_signs, mutates_args=())


@_as_operator.register_fake
def _(key: Tensor, first: Tensor, samples: int, positions: int, columns: int, call: int, rank: int, ranks: int, dtype: torch.dtype) -> Tensor:
    return key.new_empty((samples, columns, positions), dtype=dtype)


def _shifted(word: Tensor) -> Tensor:
    # The shift of a signed number copies its sign; the mask makes it the unsigned shift of the source.
    return word ^ ((word >> 33) & 0x7FFFFFFF)


def _mixed(word: int) -> int:
    word = (word ^ (word >> 33)) * _FIRST & _WORD
    word = (word ^ (word >> 33)) * _SECOND & _WORD
    return word ^ (word >> 33)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
