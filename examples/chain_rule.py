"""The gradient of a linear layer three ways: by hand, as a product of Jacobians, and by torch.

A layer ``y_pred = W x`` with 4 inputs and 3 outputs, and the loss ``L = |y_pred - y|^2``. Expect the same 3 x 4 numbers from

1. the formula ``dL/dW = 2 (y_pred - y) x'``, a column times a row: every weight's slope is its output's error times its input;
2. the chain rule ``dL/dW = dL/dy_pred  dy_pred/dW``, both Jacobians written out: a row of 3 times a 3 x 12 matrix. Output i sees row i of ``W`` only, through
   ``x``, so that ``dy_pred/dW`` is ``x'`` repeated along the diagonal, the Kronecker product of the identity and ``x'``, for ``W`` flattened row by row;
3. ``torch.func.jacrev`` of the whole.

They agree to rounding (1e-12 in float64). The second way builds 36 numbers of which 24 are zeros; the first is what remains of it. Reverse mode, the third,
never builds a layer's Jacobian either: it multiplies the row by it from the left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

INPUTS, OUTPUTS = 4, 3


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The gradient ``dL/dW``, shape ``(3, 4)``, float64, from each way."""

    by_hand: Tensor
    by_chain_rule: Tensor
    by_jacrev: Tensor


def by_hand(W: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``2 (y_pred - y) x'``."""
    return 2.0 * torch.outer(W @ x - y, x)


def by_chain_rule(W: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``dL/dy_pred`` times ``dy_pred/dW``, one Jacobian per layer."""
    loss_by_output = 2.0 * (W @ x - y)[None, :]
    output_by_weights = torch.kron(torch.eye(OUTPUTS, dtype=x.dtype), x[None, :])
    return (loss_by_output @ output_by_weights).reshape(OUTPUTS, INPUTS)


def by_jacrev(W: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Automatic differentiation in reverse."""
    return torch.func.jacrev(lambda weights: (weights @ x - y).square().sum())(W)


def main() -> Result:
    """Compute the gradient three times and print it once, with the differences."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(OUTPUTS, INPUTS, generator=generator, dtype=torch.float64)
    x = torch.randn(INPUTS, generator=generator, dtype=torch.float64)
    y = torch.randn(OUTPUTS, generator=generator, dtype=torch.float64)
    result = Result(by_hand(W, x, y), by_chain_rule(W, x, y), by_jacrev(W, x, y))
    print("dL/dW = 2 (y_pred - y) x' =")
    for row in result.by_hand.tolist():
        print("  " + " ".join(f"{slope:9.5f}" for slope in row))
    print(f"chain rule - by hand: at most {(result.by_chain_rule - result.by_hand).abs().max():.1e}")
    print(f"jacrev     - by hand: at most {(result.by_jacrev - result.by_hand).abs().max():.1e}")
    return result


if __name__ == "__main__":
    main()
