"""Where the parameters sit in the flat vector, and which are refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from secant.layout import Layout

DOUBLE = torch.float64


def groups(*parameters: Tensor, **options: Any) -> list[dict[str, Any]]:
    return [{"params": list(parameters), "lr": 1.0, **options}]


def leaf(*shape: int, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.arange(1.0, 1.0 + torch.Size(shape).numel(), dtype=DOUBLE).reshape(shape).to(dtype).requires_grad_()


KINDS: dict[str, Callable[[], Tensor]] = {
    "vector": lambda: leaf(3),
    "number": lambda: leaf(),
    "empty": lambda: leaf(0, 4),
    "transposed": lambda: leaf(3, 2).detach().T.requires_grad_(),
    "strided": lambda: leaf(6).detach()[::2].requires_grad_(),
    "channels last": lambda: leaf(2, 3, 2, 2).detach().to(memory_format=torch.channels_last).requires_grad_(),
    "complex": lambda: leaf(3, dtype=torch.complex128),
    "complex number": lambda: leaf(dtype=torch.complex128),
    "conjugate view": lambda: torch.complex(leaf(3).detach(), leaf(3).detach() + 0.5).conj().requires_grad_(),
    "single": lambda: leaf(2, dtype=torch.float32),
}


@pytest.mark.parametrize("after", ["vector", "complex"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_gathered_and_written_back_is_unchanged_for_every_kind(kind: str, after: str) -> None:
    parameters = [leaf(3), KINDS[kind](), KINDS[after]()]
    before = [p.detach().clone() for p in parameters]
    layout = Layout(groups(*parameters))
    x = layout.gather()
    assert x.shape == (layout.size,)
    assert x.dtype == layout.dtype == DOUBLE
    layout.write(x)
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))
    layout.write(2.0 * x)
    assert all(torch.equal(p, 2.0 * b) for p, b in zip(parameters, before, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_split_gives_pieces_shaped_and_typed_like_the_parameters(kind: str) -> None:
    parameters = [leaf(3), KINDS[kind](), leaf(1)]
    layout = Layout(groups(*parameters))
    pieces = layout.split(layout.gather())
    for piece, parameter in zip(pieces, parameters, strict=True):
        assert piece.shape == parameter.shape
        assert torch.equal(piece.to(parameter.dtype), parameter)


def test_gathered_vector_shares_no_memory_with_a_parameter() -> None:
    parameter = leaf(3)
    layout = Layout(groups(parameter))
    layout.gather().zero_()
    assert torch.equal(parameter, leaf(3))


def test_missing_gradient_counts_as_zero() -> None:
    a, b = leaf(2), leaf(3)
    layout = Layout(groups(a, b))
    b.grad = torch.ones_like(b)
    assert torch.equal(layout.gather_grads(), torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0], dtype=DOUBLE))


def test_frozen_parameters_take_no_place() -> None:
    layout = Layout(groups(leaf(2), leaf(3).requires_grad_(False)))
    assert layout.size == 2


def test_flat_type_is_the_widest_and_at_least_float32() -> None:
    assert Layout(groups(leaf(2, dtype=torch.float32))).dtype == torch.float32
    assert Layout(groups(leaf(2, dtype=torch.float32), leaf(2))).dtype == DOUBLE
    assert Layout(groups(leaf(2, dtype=torch.complex64))).dtype == torch.float32
    with pytest.warns(UserWarning, match="half precision"):
        layout = Layout(groups(leaf(2, dtype=torch.bfloat16)))
    assert layout.dtype == torch.float32
    assert layout.rounds


def test_complex_parameters_do_not_warn_about_half_precision() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Layout(groups(leaf(2, dtype=torch.complex64)))


def test_layout_notices_what_changed() -> None:
    a, b = leaf(2), leaf(3)
    made = groups(a, b)
    layout = Layout(made)
    assert layout.matches(made)
    b.requires_grad_(False)
    assert not layout.matches(made)
    b.requires_grad_(True)
    assert layout.matches(made)
    b.data = b.data.float()
    assert not layout.matches(made)


def test_groups_own_their_part_of_the_vector() -> None:
    made = groups(leaf(2)) + groups(leaf(3), lr=0.5)
    assert Layout(made).per_group(made, "lr") == [(slice(0, 2), 1.0), (slice(2, 5), 0.5)]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize(
    ("parameter", "error", "sentence"),
    [
        (lambda: torch.arange(3), TypeError, "floating-point or complex parameters, got torch.int64"),
        (lambda: torch.eye(3).to_sparse().requires_grad_(), TypeError, "dense parameters, got one with layout torch.sparse_coo"),
        (lambda: torch.nn.LazyLinear(2).weight, TypeError, "lazy module. Run one forward pass"),
        (lambda: torch.zeros(3, device="meta", requires_grad=True), ValueError, "meta device"),
        (lambda: torch.zeros(1).expand(3).requires_grad_(), ValueError, "memory of (its|their) own"),
        (lambda: torch.zeros(5).as_strided((3, 3), (1, 1)).requires_grad_(), ValueError, "memory of (its|their) own"),
    ],
    ids=["integer", "sparse", "lazy", "meta", "expanded", "overlapping itself"],
)
def test_unsupported_parameter_is_refused_in_a_sentence(parameter: Callable[[], Tensor], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        Layout(groups(parameter()))


def test_distributed_tensor_is_refused() -> None:
    class DTensor(torch.Tensor):
        """Stands for torch's class, which needs a process group."""

    with pytest.raises(TypeError, match="DTensor"):
        Layout(groups(torch.zeros(2).as_subclass(DTensor).requires_grad_()))


def test_mixed_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="on one device, got cpu, meta"):
        Layout(groups(leaf(2), torch.zeros(3, device="meta", requires_grad=True)))


@pytest.mark.parametrize("made", [[], [leaf(2).requires_grad_(False)]], ids=["none", "all frozen"])
def test_nothing_to_train_is_an_error(made: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="at least one trainable parameter"):
        Layout(groups(*made))


def test_only_empty_parameters_are_an_error() -> None:
    with pytest.raises(ValueError, match="only empty parameters"):
        Layout(groups(leaf(0)))


def test_two_tensors_that_overlap_are_refused() -> None:
    base = torch.zeros(6)
    with pytest.raises(ValueError, match="overlap"):
        Layout(groups(base[:4].requires_grad_(), base[3:].requires_grad_()))


def test_neighbours_in_one_memory_are_welcome() -> None:
    base = torch.arange(6.0)
    layout = Layout(groups(base[:3].requires_grad_(), base[3:].requires_grad_()))
    assert torch.equal(layout.gather(), base)


def test_interleaved_columns_of_one_matrix_are_welcome() -> None:
    base = torch.arange(6.0).reshape(3, 2)
    layout = Layout(groups(base[:, 0].requires_grad_(), base[:, 1].requires_grad_()))
    assert layout.size == 6


def test_sparse_gradient_is_refused_with_the_remedy() -> None:
    table = torch.nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(TypeError, match="sparse=False"):
        Layout(groups(table.weight)).gather_grads()
