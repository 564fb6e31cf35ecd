import copy

import pytest
import torch
from torch import Tensor, nn

from secant.problems import PROBLEMS, Problem, Training
from secant.problems.initialization import glorot_uniform, initialized
from secant.problems.layers import Layers
from secant.problems.minibatch import minibatch_problem


def small(*, chunk: int | None = None) -> Problem:
    model = initialized(lambda: Layers({"hidden": nn.Linear(3, 4), "activation": nn.Tanh(), "output": nn.Linear(4, 2)}), glorot_uniform, 0, dtype=torch.float64)
    inputs = torch.randn(23, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    targets = torch.arange(23) % 2
    training = Training(model, nn.functional.cross_entropy, inputs, targets, inputs[:0], targets[:0], batch=5, steps=10, classes=True, measured=23)
    return minibatch_problem("small", training, {"loss": "cross entropy"}, seed=0, compile=False, chunk=chunk)


def flat_gradient(problem: Problem) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(problem.loss(), problem.parameters)])


# 23 samples: chunks that divide them, that leave a rest, of one sample, of more than all.
@pytest.mark.parametrize("chunk", [1, 5, 22, 23, 100])
def test_the_loss_in_chunks_is_the_mean_over_all_samples(chunk: int) -> None:
    whole, chunked = small(), small(chunk=chunk)
    torch.testing.assert_close(chunked.loss(), whole.loss(), rtol=1e-14, atol=0.0)
    torch.testing.assert_close(flat_gradient(chunked), flat_gradient(whole), rtol=1e-12, atol=1e-15)


def test_the_loss_in_chunks_is_measured_without_a_graph_as_well() -> None:
    with torch.no_grad():
        loss = small(chunk=5).loss()
    assert not loss.requires_grad
    torch.testing.assert_close(loss, small().loss().detach(), rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("name", ["mnist-mlp", "digits-conv", "ill-conditioned"])
def test_a_short_run_of_adamw_learns_what_it_was_not_shown(name: str) -> None:
    training = PROBLEMS[name].build(0).training
    assert training is not None
    optimizer = torch.optim.AdamW(training.model.parameters(), lr=3e-3, weight_decay=0.0)

    def held_out() -> float:
        with torch.no_grad():
            return training.loss(training.model(training.test_inputs), training.test_targets).item()

    before = held_out()
    order = torch.randperm(len(training.inputs), generator=torch.Generator().manual_seed(0))
    for batch in order.split(training.batch)[:40]:
        optimizer.zero_grad()
        training.loss(training.model(training.inputs[batch]), training.targets[batch]).backward()
        optimizer.step()
    assert held_out() < 0.8 * before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # Raised inside the compiler of torch 2.13.
@pytest.mark.parametrize("name", ["mnist-mlp", "char-transformer"])
def test_a_compiled_model_keeps_its_names_and_its_gradients(name: str) -> None:
    eager, compiled = PROBLEMS[name].build(0).training, PROBLEMS[name].build(0, compile=True).training
    assert eager is not None
    assert compiled is not None
    assert [n for n, _ in compiled.model.named_parameters()] == [n for n, _ in eager.model.named_parameters()]
    losses = [t.loss(t.model(t.inputs[: t.batch]), t.targets[: t.batch]) for t in (eager, compiled)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0.0)
    expected, actual = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, tuple(t.model.parameters()))]) for loss, t in zip(losses, (eager, compiled), strict=True)
    )
    # Fused float32 kernels add up in another order.
    assert torch.linalg.vector_norm(actual - expected) < 1e-5 * torch.linalg.vector_norm(expected)
    assert torch.equal(
        copy.deepcopy(compiled.model).state_dict()["head.weight" if name == "char-transformer" else "output.weight"], [*eager.model.parameters()][-2]
    )
