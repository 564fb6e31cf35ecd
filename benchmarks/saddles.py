"""Who leaves a saddle, how soon and for where; and how rare minima are among critical points as the dimension grows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import one_thread, save
from secant.methods import METHODS
from secant.problems.saddles import SADDLES, Saddle

DOUBLE = torch.float64
NUDGE = 1e-12
BUDGET = 5000
LEFT = 0.1  # share of the depth below the saddle at which it counts as left
RATES = (1e-3, 1e-2, 1e-1, 1.0)
OURS = ("sr1", "lsr1", "newtoncg", "cubicnewton", "saddlefreenewton")
FIRST_ORDER: dict[str, Callable[[list[Tensor], float], torch.optim.Optimizer]] = {
    "SGD": lambda p, lr: torch.optim.SGD(p, lr=lr),
    "momentum 0.9": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
    "Adam": lambda p, lr: torch.optim.Adam(p, lr=lr),
}
DIMENSIONS = (2, 3, 5, 10, 20, 50, 100)
STARTS = 1000
NEWTON_STEPS = 60


class _Run:
    """Evaluations of one run, Hessian products as two, and when it left the saddle."""

    def __init__(self, saddle: Saddle) -> None:
        self.saddle = saddle
        self.at_saddle = saddle.loss(torch.zeros(saddle.size, dtype=DOUBLE)).item()
        self.depth = self.at_saddle - saddle.minimum
        self.left: int | None = None

    def seen(self, loss: float, evaluations: int) -> None:
        if self.left is None and loss < self.at_saddle - LEFT * self.depth:
            self.left = evaluations

    def row(self, loss: float, evaluations: int) -> dict[str, Any]:
        share = (self.at_saddle - loss) / self.depth
        ends = "minimum" if share > 1.0 - 1e-6 else "saddle" if abs(share) < 1e-3 else "on the way" if math.isfinite(loss) else "not finite"
        return {"left_after": self.left, "ends": ends, "share_of_depth": share, "evaluations": evaluations}


def start(saddle: Saddle) -> Tensor:
    direction = torch.randn(saddle.size, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    return NUDGE * direction / direction.norm()


def first_order(saddle: Saddle, make: Callable[[list[Tensor], float], torch.optim.Optimizer], lr: float) -> dict[str, Any]:
    run, x = _Run(saddle), start(saddle).requires_grad_()
    optimizer = make([x], lr)
    evaluations = 0
    while evaluations < BUDGET:
        optimizer.zero_grad()
        loss = saddle.loss(x)
        evaluations += 1
        run.seen(loss.item(), evaluations)
        if not bool(torch.isfinite(loss)) or run.row(loss.item(), evaluations)["share_of_depth"] > 1.0 - 1e-9:
            break
        loss.backward()
        optimizer.step()
    return {"lr": lr} | run.row(saddle.loss(x.detach()).item(), evaluations)


def best_rate(saddle: Saddle, make: Callable[[list[Tensor], float], torch.optim.Optimizer]) -> dict[str, Any]:
    """The rate that left first, among those that stayed finite; the one that came farthest where none left."""
    rows = [first_order(saddle, make, lr) for lr in RATES]
    return min(rows, key=lambda row: (row["ends"] == "not finite", row["left_after"] or BUDGET + 1, -row["share_of_depth"]))


def plain_newton(saddle: Saddle) -> dict[str, Any]:
    """``x - B^-1 g`` with the dense Hessian: ``n`` products per iteration."""
    run, x, evaluations = _Run(saddle), start(saddle), 0
    for _ in range(50):
        variable = x.clone().requires_grad_()
        loss = saddle.loss(variable)
        (g,) = torch.autograd.grad(loss, variable)
        evaluations += 1
        run.seen(loss.item(), evaluations)
        if not g.any():
            break
        B = torch.autograd.functional.hessian(saddle.loss, x)
        evaluations += 2 * saddle.size
        x = x - torch.linalg.lstsq(B, g[:, None], driver="gelsd").solution[:, 0]
    return run.row(saddle.loss(x).item(), evaluations)


def ours(saddle: Saddle, method: str) -> dict[str, Any]:
    run, x = _Run(saddle), start(saddle).requires_grad_()
    optimizer = METHODS[method]([x])

    def closure() -> Tensor:
        return saddle.loss(x)

    spent = 0
    while spent < BUDGET:
        optimizer.step(closure)
        spent = optimizer.counts.gradients + 2 * optimizer.counts.hessian_products
        assert optimizer.point is not None
        run.seen(optimizer.point.loss, spent)
        if optimizer.outcome is not None and optimizer.outcome.stops:
            break
    assert optimizer.point is not None
    return run.row(optimizer.point.loss, spent)


def escapes() -> list[dict[str, Any]]:
    rows = []
    for name, saddle in SADDLES.items():
        row: dict[str, Any] = {"saddle": name, "n": saddle.size, "negative": saddle.negative}
        row |= {method: best_rate(saddle, make) for method, make in FIRST_ORDER.items()}
        row |= {"plain Newton": plain_newton(saddle)} | {method: ours(saddle, method) for method in OURS if method in METHODS}
        print({key: (value["left_after"], value["ends"]) if isinstance(value, dict) else value for key, value in row.items()}, flush=True)
        rows.append(row)
    return rows


def coupling_matrix(n: int) -> Tensor:
    """A random symmetric matrix of norm about 1: Gaussian entries of variance ``1 / 4n``, zero diagonal."""
    A = torch.randn(n, n, generator=torch.Generator().manual_seed(n), dtype=DOUBLE) / math.sqrt(8.0 * n)
    A = A + A.T
    return A.fill_diagonal_(0.0)


def share_of_minima(n: int, coupling: float) -> dict[str, Any]:
    """The critical points of ``sum (x_i^2 - 1)^2 / 4 + coupling x.Ax / 2`` that Newton's method, damped on ``|g|``, finds from random starts.

    Without coupling there are exactly ``3^n`` of them, ``2^n`` minima. Distinct points are counted once; how often each is hit depends on its basin.
    """
    A = coupling * coupling_matrix(n)
    x = 3.0 * torch.rand(STARTS, n, generator=torch.Generator().manual_seed(100 + n), dtype=DOUBLE) - 1.5

    def gradient(x: Tensor) -> Tensor:
        return x * (x.square() - 1.0) + x @ A

    def hessian(x: Tensor) -> Tensor:
        return torch.diag_embed(3.0 * x.square() - 1.0) + A

    for _ in range(NEWTON_STEPS):
        g = gradient(x)
        p = torch.linalg.solve_ex(hessian(x), g).result
        length = torch.ones(STARTS, 1, dtype=DOUBLE)
        for _ in range(30):
            falls = gradient(x - length * p).norm(dim=1, keepdim=True) <= (1.0 - 1e-4 * length) * g.norm(dim=1, keepdim=True)
            length = torch.where(falls, length, 0.5 * length)
        x = torch.where(falls & p.isfinite().all(1, keepdim=True), x - length * p, x)
    x = x[gradient(x).norm(dim=1) < 1e-10]
    distinct = torch.unique((x * 1e6).round(), dim=0)
    indices = (torch.linalg.eigvalsh(hessian(distinct / 1e6)) < 0.0).sum(1)
    minima = int((indices == 0).sum())
    return {
        "n": n,
        "coupling": coupling,
        "starts": STARTS,
        "critical_points": len(distinct),
        "minima": minima,
        "share": minima / len(distinct),
        "mean_share_of_negative_eigenvalues": float(indices.double().mean()) / n,
    }


def shares() -> list[dict[str, Any]]:
    rows = []
    for coupling in (0.0, 0.5):
        for n in DIMENSIONS:
            rows.append(share_of_minima(n, coupling) | {"exact_share": (2.0 / 3.0) ** n if coupling == 0.0 else None})
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    one_thread()
    settings = {"nudge": NUDGE, "budget": BUDGET, "left_below_share_of_depth": LEFT, "rates": RATES, "hessian_product_in_gradients": 2, "seed": 0}
    save("saddles", {"escapes": escapes(), "shares": shares()}, family="sum of double wells, uncoupled and coupled", **settings)


if __name__ == "__main__":
    main()
