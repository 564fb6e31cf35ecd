"""A small ReLU net by plain gradient descent, and by a gradient that the rank-one inverse corrects.

The net 10-20-1 (241 parameters) with mean squared error gets 1,000 evaluations of loss and gradient, three times:

(a) gradient descent on 1,000 fixed samples of a teacher net of the same shape, targets of variance 1: the loss goes towards 0, but slowly;
(b) gradient descent on fresh random pairs, 64 new inputs and 64 labels of pure noise at every step: the loss goes to about 1.0 and stays there. The labels
    have variance 1 and know nothing of the inputs, so the best prediction is 0 and no net has an expected loss below 1. A mean over 100 batches still scatters
    around it by sqrt(2 / 6,400) = 0.018;
(c) SR1 on the samples of (a), full batch: the last loss of gradient descent after about a tenth of the evaluations, and a far lower one at the end. It stops
    falling above 0, because the loss has kinks where a ReLU switches, and a secant across a kink is no curvature: with softplus in place of ReLU, in net and
    teacher, the same 1,000 evaluations reach 2e-6.

There is no SR1 on (b). A secant method divides the change of the gradient by the step that caused it. On fresh batches most of that change comes from the new
batch and would be there for a step of length 0 too: it is no curvature, and dividing by a shorter step only magnifies it. The last line measures this.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import secant

EVALUATIONS = 1_000
SAMPLES = 1_000
BATCH = 64
LEARNING_RATE = 0.2  # of 0.01, 0.02, 0.05, 0.1, 0.2, 0.3 and 0.5 the best on the teacher; from 0.3 on the loss jumps

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Result:
    """The loss at every evaluation, the first one before any step.

    Attributes:
        teacher: Gradient descent on the teacher's samples.
        fresh: Gradient descent on fresh random pairs; each loss is that of its own batch.
        rank_one: SR1 on the teacher's samples.
        evaluations_to_match: How many SR1 needs for the last loss of gradient descent; None if it never gets there.
        noise_over_curvature: On fresh pairs, the gradient change by a new batch over that by a step.
    """

    teacher: tuple[float, ...]
    fresh: tuple[float, ...]
    rank_one: tuple[float, ...]
    evaluations_to_match: int | None
    noise_over_curvature: float


def net(seed: int) -> nn.Sequential:
    """The net 10-20-1, in float64: a secant is a difference of gradients, which rounding spoils first."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 1)).double()


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """The mean squared error."""
    inputs, targets = batch
    return nn.functional.mse_loss(model(inputs), targets)


def teacher_samples() -> Batch:
    """Inputs and the teacher's answers. Their scaling to variance 1 is a change of the teacher's last layer, so a loss of 0 remains possible."""
    inputs = torch.randn(SAMPLES, 10, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with torch.no_grad():
        targets = net(seed=2)(inputs)
    return inputs, targets / targets.std()


def fresh_pairs() -> Iterator[Batch]:
    """New inputs and new noise at every step, without end."""
    generator = torch.Generator().manual_seed(6)
    while True:
        yield torch.randn(BATCH, 10, generator=generator, dtype=torch.float64), torch.randn(BATCH, 1, generator=generator, dtype=torch.float64)


def gradient_descent(model: nn.Module, batches: Iterable[Batch]) -> tuple[float, ...]:
    """Train with one step per batch; the losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    losses: list[float] = []
    for batch in itertools.islice(batches, EVALUATIONS):
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return tuple(losses)


def rank_one(model: nn.Module, batch: Batch) -> tuple[float, ...]:
    """Train by SR1 on one batch that never changes; the losses. In its trust region a step costs one evaluation, as in gradient descent."""
    optimizer = secant.SR1(model.parameters())

    def closure() -> Tensor:
        return loss_of(model, batch)

    return tuple(optimizer.step(closure).item() for _ in range(EVALUATIONS))


def noise_over_curvature(model: nn.Module, batches: Iterator[Batch]) -> float:
    """``|g2(x) - g1(x)| / |g1(x + s) - g1(x)|`` for two batches and one step ``s`` of gradient descent, which ``model`` takes."""

    def gradient(batch: Batch) -> Tensor:
        return nn.utils.parameters_to_vector(torch.autograd.grad(loss_of(model, batch), tuple(model.parameters())))

    first, second = next(batches), next(batches)
    before = gradient(first)
    by_batch = gradient(second) - before
    with torch.no_grad():
        x = nn.utils.parameters_to_vector(model.parameters())
        nn.utils.vector_to_parameters(x - LEARNING_RATE * before, model.parameters())
    by_step = gradient(first) - before
    return float(by_batch.norm() / by_step.norm())


def main() -> Result:
    """Train three times from the same net and print the losses side by side."""
    samples, pairs = teacher_samples(), fresh_pairs()
    teacher = gradient_descent(net(seed=0), itertools.repeat(samples))
    student_of_noise = net(seed=0)
    fresh = gradient_descent(student_of_noise, pairs)
    corrected = rank_one(net(seed=0), samples)
    match = next((count for count, loss in enumerate(corrected, start=1) if loss <= teacher[-1]), None)
    result = Result(teacher, fresh, corrected, match, noise_over_curvature(student_of_noise, pairs))

    print("evaluation   (a) teacher   (b) fresh pairs,   (c) teacher,")
    print("                               mean of 100            SR1")
    print(f"{1:10d} {teacher[0]:13.4f} {'':18} {corrected[0]:14.4f}")
    for count in range(100, EVALUATIONS + 1, 100):
        mean = sum(fresh[count - 100 : count]) / 100
        print(f"{count:10d} {teacher[count - 1]:13.4f} {mean:18.3f} {corrected[count - 1]:14.4f}")
    print(f"SR1 has the last loss of gradient descent at evaluation {match}.")
    print(f"On fresh pairs a new batch changes the gradient {result.noise_over_curvature:.0f} times as much as a step does: there is no secant to take.")
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)  # a net this small gains nothing from more, and on busy cores threads that wait for each other are tens of times slower
    main()
