"""Stored and streamed rows are the same linear map."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from linearization.models import DOUBLE, random_linear
from secant.linearization.rows import Rows, StoredRows, StreamedRows
from secant.objective import Objective
from secant.residuals import SumOfSquares
from secant.step import Point


def curved(decay: float = 0.0) -> tuple[Objective, Point, Callable[[Tensor], Tensor]]:
    a, b = torch.tensor([0.3, -0.7], dtype=DOUBLE, requires_grad=True), torch.tensor([[1.1]], dtype=DOUBLE, requires_grad=True)
    t = torch.linspace(-1.0, 1.0, 6, dtype=DOUBLE)
    groups = [{"params": [a, b], "lr": 1.0, "weight_decay": decay}]
    objective = Objective(groups)
    objective.bind(SumOfSquares([lambda: (torch.sin(a[0] * t) + b[0, 0] * t.exp(), a.prod()[None]), lambda: b[0] ** 2 - a[:1]]), groups)

    def residual(x: Tensor) -> Tensor:
        data = torch.cat([torch.sin(x[0] * t) + x[2] * t.exp(), (x[0] * x[1])[None], (x[2] ** 2 - x[0])[None]])
        return torch.cat([data, decay**0.5 * x]) if decay else data

    return objective, objective.here(), residual


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["stored", "streamed"])
def test_every_product_is_that_of_the_jacobian(kind: str, decay: float) -> None:
    objective, point, residual = curved(decay)
    J, r = torch.func.jacrev(residual)(point.x), residual(point.x)
    streamed = StreamedRows(objective, point)
    rows: Rows = StoredRows(list(streamed.blocks())) if kind == "stored" else streamed
    objective.at(point.x + 1.0)  # products belong to the point, not to where the parameters stand
    v, u = torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE), torch.linspace(0.0, 1.0, len(r), dtype=DOUBLE)
    torch.testing.assert_close(rows.residuals(), r)
    torch.testing.assert_close(rows.times(v), J @ v)
    torch.testing.assert_close(rows.transposed_times(u), J.T @ u)
    torch.testing.assert_close(rows.gram_times(v), J.T @ (J @ v))
    torch.testing.assert_close(torch.cat([block for _, block in rows.blocks()]), J)
    assert objective.row_count == len(r)
    torch.testing.assert_close(point.grad, J.T @ r)
    assert point.loss == pytest.approx(float(0.5 * r.square().sum()), rel=1e-14)


def test_broydens_correction_maps_the_step_to_the_change_and_leaves_other_directions() -> None:
    linear = random_linear(9, 4)
    rows = StoredRows(linear.blocks(4, 2))
    s, r = torch.tensor([1.0, -2.0, 0.5, 1e-3], dtype=DOUBLE), torch.linspace(-1.0, 3.0, 9, dtype=DOUBLE)
    corrected = rows.corrected(r, s)
    torch.testing.assert_close(corrected.times(s), r - linear.r, rtol=1e-12, atol=1e-12)
    orthogonal = torch.tensor([2.0, 1.0, 0.0, 0.0], dtype=DOUBLE)
    torch.testing.assert_close(corrected.times(orthogonal), linear.J @ orthogonal)
    assert torch.equal(corrected.residuals(), r)
    assert torch.equal(rows.residuals(), linear.r), "the rows it was made from stay"
