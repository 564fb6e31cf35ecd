from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from .tapped import DOUBLE, OPTIMIZERS, SharedNet, conv_net, dense_net, flat, random, train

# Both warnings are raised by the compiler of torch 2.13 about its own doings.
IGNORED = ("ignore:.torch.jit:DeprecationWarning", "ignore:The .grad attribute of a Tensor that is not a leaf")
pytestmark = [pytest.mark.slow, *map(pytest.mark.filterwarnings, IGNORED)]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def by_inductor(model: nn.Module) -> nn.Module:
    return torch.compile(model, fullgraph=True)


def traced(model: nn.Module) -> nn.Module:
    """Forward and backward graphs as inductor gets them, without its minutes of C++."""
    return torch.compile(model, fullgraph=True, backend="aot_eager")


def in_place(model: nn.Module) -> nn.Module:
    model.compile(fullgraph=True, backend="aot_eager")
    return model


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6, dtype=DOUBLE)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(self.layer(inputs))


def blocks() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block(), nn.Linear(6, 2, dtype=DOUBLE))


def by_block(model: nn.Module) -> nn.Module:
    for block in list(model.children())[:2]:
        block.compile(fullgraph=True, backend="aot_eager")
    return model


CASES = [
    ("mkor", conv_net, by_inductor, {}),
    ("foof", dense_net, traced, {}),
    ("eva", dense_net, traced, {}),
    ("mkor", SharedNet, in_place, {}),
    ("mkor", blocks, by_block, {}),
    ("mkor", dense_net, traced, {"every": 2}),
]


@pytest.mark.parametrize(("method", "make", "compiled", "options"), CASES, ids=[f"{case[0]} {case[1].__name__} {case[2].__name__}" for case in CASES])
def test_a_model_compiled_without_a_graph_break_follows_the_eager_trajectory(
    method: str, make: Callable[[], nn.Module], compiled: Callable[[nn.Module], nn.Module], options: dict[str, object]
) -> None:
    shape = (8, 2, 8, 8) if make is conv_net else (8, 6)
    batches = [random(*shape, seed=step) for step in range(4)]
    eager, model = make(), make()
    expected = train(eager, OPTIMIZERS[method](eager, **options), batches, micro_batches=2)
    optimizer = OPTIMIZERS[method](model, **options)
    run = compiled(model)
    torch.testing.assert_close(train(model, optimizer, batches, micro_batches=2, run=run), expected, rtol=1e-10, atol=1e-12)


def test_taps_that_a_compiled_model_never_calls_are_an_error_with_the_remedy() -> None:
    model = dense_net()
    run = torch.compile(model, backend="aot_eager")
    run(random(8, 6)).sum().backward()
    model.zero_grad()
    optimizer = OPTIMIZERS["foof"](model)
    before = flat(model)
    with pytest.raises(RuntimeError, match=r"got none for 0\.weight, 2\.weight\. Build FoofPreconditioner before the model is compiled"):
        train(model, optimizer, [random(8, 6)], run=run)
    assert torch.equal(flat(model), before)
    assert not optimizer.preconditioner.state_dict()["curvatures"]


def test_a_wrapped_compiled_model_can_be_given_itself() -> None:
    eager, model = dense_net(), dense_net()
    batches = [random(8, 6, seed=step) for step in range(3)]
    expected = train(eager, OPTIMIZERS["foof"](eager), batches)
    run = traced(model)
    optimizer = OPTIMIZERS["foof"](run)
    torch.testing.assert_close(train(model, optimizer, batches, run=run), expected, rtol=1e-10, atol=1e-12)
