"""Residuals in every form a user may give them, and their Jacobian."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import secant
from secant.jacobians import jacobian_of, pulled, pushed
from secant.residuals import Residual, RowResidual, SumOfSquares

DOUBLE = torch.float64
T = torch.linspace(-1.0, 1.0, 7, dtype=DOUBLE)


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE, requires_grad=True)


def net(width: int = 3) -> tuple[list[Tensor], Callable[..., Tensor]]:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(shape, generator=generator, dtype=DOUBLE).requires_grad_() for shape in ((width, 2), (width,), (1, width))]
    inputs = torch.randn(9, 2, generator=generator, dtype=DOUBLE)

    def residual(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return (torch.tanh(inputs @ a.T + b) @ c.T).squeeze(1) - T.new_ones(9)

    return weights, residual


def columns(jacobians: Sequence[Tensor], rows: int) -> Tensor:
    return torch.cat([J.reshape(rows, -1) for J in jacobians], dim=1)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # inside torch's forward mode
@pytest.mark.parametrize("width", [1, 3, 8])
def test_jacobian_is_that_of_torch_func_in_both_modes_and_of_differences(width: int) -> None:
    weights, residual = net(width)
    found = jacobian_of(residual(*weights), weights)
    values = tuple(w.detach() for w in weights)
    torch.testing.assert_close(found, columns(torch.func.jacrev(residual, argnums=(0, 1, 2))(*values), 9))
    torch.testing.assert_close(found, columns(torch.func.jacfwd(residual, argnums=(0, 1, 2))(*values), 9))
    h = 1e-6
    for k in range(width):
        ahead, behind = values[2].clone(), values[2].clone()
        ahead[0, k] += h
        behind[0, k] -= h
        difference = (residual(*values[:2], ahead) - residual(*values[:2], behind)) / (2.0 * h)
        torch.testing.assert_close(found[:, 3 * width + k], difference, rtol=1e-7, atol=1e-9)


def test_products_are_those_of_the_jacobian() -> None:
    weights, residual = net()
    r = residual(*weights)
    J = jacobian_of(r, weights)
    v = [torch.randn_like(w, requires_grad=False) for w in weights]
    u = torch.linspace(0.0, 1.0, 9, dtype=DOUBLE)
    torch.testing.assert_close(pushed(r, weights, v), J @ torch.cat([w.reshape(-1) for w in v]))
    torch.testing.assert_close(torch.cat([g.reshape(-1) for g in pulled(r, weights, u) if g is not None]), J.T @ u)


@pytest.mark.parametrize("rows", [2, 20])
def test_a_parameter_without_part_has_zero_columns(rows: int) -> None:
    a, b, c = leaf(1.0, 2.0), leaf(3.0), leaf(4.0, 5.0)
    data = torch.linspace(0.0, 1.0, rows, dtype=DOUBLE)
    J = jacobian_of(a[0] * data + c[1] * data**2, [a, b, c])
    zero = torch.zeros_like(data)
    assert torch.equal(J, torch.stack([data, zero, zero, zero, data**2], dim=1))
    assert torch.equal(jacobian_of(data.clone(), [a, b, c]), torch.zeros(rows, 5, dtype=DOUBLE))
    assert torch.equal(pushed(data.clone(), [a], [a.detach()]), zero)


@pytest.mark.parametrize("rows", [3, 30])
def test_residuals_that_are_linear_in_a_parameter_have_their_columns(rows: int) -> None:
    a = leaf(1.0, 2.0, 3.0, 4.0)
    data = torch.randn(rows, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(jacobian_of(data @ a, [a]), data)


@pytest.mark.parametrize("rows", [2, 12])
def test_complex_parameters_count_as_pairs_of_real_numbers(rows: int) -> None:
    z = torch.tensor([0.5 + 0.2j, -0.3 - 0.8j], dtype=torch.complex128, requires_grad=True)
    data = torch.linspace(0.0, 1.0, rows // 2, dtype=DOUBLE)

    def residual(z: Tensor) -> Tensor:
        return torch.view_as_real(z[0] * torch.exp(1.0j * z[1].conj() * data)).reshape(-1)

    pairs = torch.view_as_real(z.detach()).reshape(-1)
    expected = torch.func.jacrev(lambda w: residual(torch.view_as_complex(w.reshape(2, 2))))(pairs)
    torch.testing.assert_close(jacobian_of(residual(z), [z]), expected)


class WithoutBatchRule(torch.autograd.Function):
    """The square, whose derivatives cannot be batched."""

    generate_vmap_rule = False

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        assert math.isfinite(float(gradient.detach().sum()))  # vmap refuses to give a number
        return gradient * 2.0 * x


@pytest.mark.parametrize("rows", [2, 9])
def test_operations_that_cannot_be_batched_are_differentiated_one_by_one(rows: int) -> None:
    a = leaf(1.0, -2.0, 3.0)
    data = torch.randn(rows, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(jacobian_of(WithoutBatchRule.apply(data @ a), [a]), 2.0 * (data @ a.detach())[:, None] * data)


@pytest.mark.parametrize("rows", [2, 9])
def test_operations_without_a_rule_of_their_own_raise_no_warning(rows: int) -> None:
    a = leaf(*torch.linspace(0.5, 1.5, 4).tolist())
    data = torch.arange(1.0, rows + 1.0, dtype=DOUBLE)
    r = torch.cumprod(a, 0).sum() * data + torch.nn.functional.prelu(a[0] * data, a[1:2])
    J = jacobian_of(r, [a])
    expected = torch.stack([torch.autograd.grad(x, a, retain_graph=True)[0] for x in r])
    torch.testing.assert_close(J, expected)


def test_single_precision_parameters_and_double_residuals_and_the_reverse() -> None:
    a, data = torch.tensor([1.0, 2.0], requires_grad=True), torch.randn(5, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(jacobian_of(data @ a.double(), [a]), data, rtol=1e-6, atol=1e-6)
    assert jacobian_of((data @ a.double())[:1], [a]).dtype == DOUBLE
    b = leaf(1.0, 2.0)
    assert jacobian_of(data.float() @ b.float(), [b]).dtype == torch.float32


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "one block": lambda x: lambda: torch.cat([x[0] * T - 1.0, x.square()]),
    "a tuple of blocks": lambda x: lambda: (x[0] * T - 1.0, x.square()),
    "a list of blocks": lambda x: lambda: [x[0] * T - 1.0, x.square()],
    "a list of functions": lambda x: [lambda: x[0] * T - 1.0, lambda: (x[:1].square(), x[1:].square())],
    "rows": lambda x: RowResidual(lambda rows: torch.cat([x[0] * T - 1.0, x.square()])[rows], size=9),
    "rows beside a function": lambda x: [RowResidual(lambda rows: x[0] * T[rows] - 1.0, size=7), lambda: x.square()],
    "an empty block": lambda x: lambda: (x[0] * T - 1.0, x[:0], x.square()),
    "an empty residual beside others": lambda x: [lambda: torch.cat([x[0] * T - 1.0, x.square()]), RowResidual(lambda rows: x[:0], size=0)],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_same_loss_gradient_residuals_and_jacobian(form: str) -> None:
    x = leaf(0.7, -0.4)
    squares = SumOfSquares(FORMS[form](x))
    squares.differentiate_by([x])
    r = torch.cat([x[0] * T - 1.0, x.square()]).detach()
    J = torch.stack([torch.cat([T, torch.tensor([1.4, 0.0], dtype=DOUBLE)]), torch.cat([0 * T, torch.tensor([0.0, -0.8], dtype=DOUBLE)])], dim=1)
    torch.testing.assert_close(squares.values(), r)
    squares.forget()
    torch.testing.assert_close(squares(), 0.5 * r @ r)
    torch.testing.assert_close(x.grad, J.T @ r)
    blocks = list(squares.linearized([x], 2))
    torch.testing.assert_close(torch.cat([block for block, _ in blocks]), r)
    torch.testing.assert_close(torch.cat([block for _, block in blocks]), J)
    assert not any(block.requires_grad for pair in blocks for block in pair)
    assert squares.size == 9


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", [secant.LevenbergMarquardt, secant.GaussNewton])
def test_every_form_is_fitted_alike(form: str, method: type[secant.LevenbergMarquardt]) -> None:
    x, same = leaf(0.7, -0.4), leaf(0.7, -0.4)
    optimizer, other = method([x], iterations_per_step=3), method([same], iterations_per_step=3)
    given, plain = FORMS[form](x), FORMS["one block"](same)
    for _ in range(3):
        torch.testing.assert_close(optimizer.step(given), other.step(plain))
    torch.testing.assert_close(x.detach(), same.detach(), rtol=1e-6, atol=1e-8)


def test_residuals_that_wait_save_the_next_call_its_evaluation() -> None:
    x, calls = leaf(1.0), [0]

    def residual() -> Tensor:
        calls[0] += 1
        return x * T

    squares = SumOfSquares(residual)
    r = squares.values()
    assert squares.is_kept
    torch.testing.assert_close(squares(), 0.5 * r @ r)
    assert calls[0] == 1
    squares()
    assert calls[0] == 2


def test_residuals_that_were_refused_do_not_wait() -> None:
    x, count = leaf(1.0), [7]
    squares = SumOfSquares(lambda: x * T[: count[0]])
    squares.values()
    count[0] = 5
    with pytest.raises(ValueError, match="Expected 7 residuals as before, got 5"):
        squares.values()
    assert not squares.is_kept


def test_nothing_but_the_optimizers_parameters_gets_a_gradient() -> None:
    x, outside = leaf(1.0, 2.0), leaf(3.0)
    for method in (secant.LevenbergMarquardt, secant.GaussNewton):
        optimizer = method([x], iterations_per_step=3)
        optimizer.step(lambda: x[0] * outside * T - x[1])
        assert outside.grad is None
    outside.grad = torch.tensor([5.0], dtype=DOUBLE)
    secant.LevenbergMarquardt([x]).step(lambda: x[0] * outside * T - x[1])
    assert outside.grad.item() == 5.0


REFUSED: dict[str, tuple[Callable[[Tensor], Any], type[Exception], str]] = {
    "a loss": (lambda x: (x * T).square().sum(), ValueError, r"Expected residuals of shape \(N,\), got \(\)\. Return r\.flatten\(\)"),
    "a matrix": (lambda x: (x * T)[:, None], ValueError, r"got \(7, 1\)"),
    "integers": (lambda x: torch.arange(3), TypeError, r"real floating-point residuals, got torch\.int64"),
    "complex numbers": (lambda x: x * T * 1.0j, TypeError, "view_as_real"),
    "a number": (lambda x: 3.0, TypeError, "got float"),
    "nothing": (lambda x: None, TypeError, "got NoneType"),
    "a tuple with a number": (lambda x: (x * T, 1.0), TypeError, "got float"),
    "an empty tuple": (lambda x: (), TypeError, "got tuple"),
    "no residual at all": (lambda x: x[:0], ValueError, "Expected at least one residual, got none"),
    "only empty blocks": (lambda x: (x[:0], x[:0]), ValueError, "Expected at least one residual, got none"),
    "other tensors": (lambda x: T * T, RuntimeError, "No trainable parameter is reached by the residuals"),
    "detached ones": (lambda x: (x * T).detach(), RuntimeError, "No trainable parameter is reached by the residuals"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("method", [secant.LevenbergMarquardt, secant.GaussNewton])
def test_what_is_no_residual_vector_is_refused_with_the_remedy(what: str, method: type[secant.LevenbergMarquardt]) -> None:
    x = leaf(1.5)
    function, error, sentence = REFUSED[what]
    optimizer = method([x])
    with pytest.raises(error, match=sentence):
        optimizer.step(lambda: function(x))
    assert x.item() == 1.5
    assert torch.isfinite(optimizer.step(lambda: x * T - 1.0)), "the optimizer stays usable"


def test_a_number_of_residuals_that_changes_is_refused_and_a_new_function_may_have_another() -> None:
    x, count = leaf(1.0), [7]
    optimizer = secant.LevenbergMarquardt([x])

    def residual() -> Tensor:
        return x.exp() * T[: count[0]] - 0.3

    optimizer.step(residual)
    kept = x.item()
    count[0] = 5
    with pytest.raises(ValueError, match=r"Expected 7 residuals as before, got 5\. Pass a new function"):
        optimizer.step(residual)
    assert x.item() == kept
    optimizer.step(lambda: residual())


@pytest.mark.parametrize(
    ("given", "error", "sentence"), [([], ValueError, "at least one residual function"), ([3], TypeError, "got int"), (T, TypeError, "Tensor")]
)
def test_what_cannot_be_called_is_refused(given: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        secant.LevenbergMarquardt([leaf(1.0)]).step(given)


def test_methods_of_a_loss_refuse_a_list_of_functions() -> None:
    x = leaf(1.0)
    with pytest.raises(TypeError, match="returns the loss"):
        secant.BFGS([x]).step([lambda: x * T])


def test_inference_mode_is_named() -> None:
    x = leaf(1.0)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference mode"):
        secant.LevenbergMarquardt([x]).step(lambda: x * T)


def test_gradients_are_made_where_they_were_switched_off() -> None:
    x = leaf(1.0)
    optimizer = secant.LevenbergMarquardt([x], iterations_per_step=5)
    with torch.no_grad():
        optimizer.step(lambda: x * T - 2.0 * T)
    assert x.item() == pytest.approx(2.0)


def test_rows_of_a_wrong_number_are_refused() -> None:
    x = leaf(1.0)
    with pytest.raises(ValueError, match="Expected 7 residuals for slice"):
        secant.LevenbergMarquardt([x]).step(RowResidual(lambda rows: x * T[:3], size=7))
    with pytest.raises(ValueError, match="size >= 0"):
        RowResidual(lambda rows: T[rows], size=-1)


class WrongJacobian(Residual):
    """Its Jacobian has a column too many."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    @property
    def size(self) -> int:
        return 7

    def rows(self, rows: slice) -> Tensor:
        return self.x * T[rows]

    def values(self, rows: slice) -> Tensor:
        return self.rows(rows).detach()

    def linearize(self, rows: slice, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return self.values(rows), torch.ones(len(T[rows]), 2, dtype=DOUBLE)


def test_a_jacobian_of_a_wrong_shape_is_refused() -> None:
    x = leaf(1.0)
    with pytest.raises(ValueError, match=r"Expected linearize to return shapes \(7,\) and \(7, 1\).*got \(7,\) and \(7, 2\)"):
        secant.LevenbergMarquardt([x]).step(WrongJacobian(x))


def test_streamed_rows_are_asked_for_in_blocks_that_bound_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secant.residuals.BLOCK_BYTES", 8 * 64 * 10)
    x, asked = leaf(1.0, 0.5), []
    data = torch.linspace(0.0, 1.0, 35, dtype=DOUBLE)

    def function(rows: slice) -> Tensor:
        asked.append((rows.start, rows.stop))
        return x[0] * torch.exp(x[1] * data[rows]) - 2.0

    residual = RowResidual(function, size=35)
    J = torch.cat([block for _, block in SumOfSquares(residual).linearized([x], 2)])
    assert asked == [(0, 10), (10, 20), (20, 30), (30, 35)]
    torch.testing.assert_close(J, jacobian_of(residual(), [x]))


class Model:
    """A residual as a bound method, which is a new object at each access."""

    def __init__(self) -> None:
        self.x = leaf(1.0, 0.5)
        self.calls = 0

    def residual(self) -> Tensor:
        self.calls += 1
        return self.x[0] * torch.exp(self.x[1] * T) - 2.0


@pytest.mark.parametrize("as_list", [False, True])
def test_a_bound_method_is_the_same_residual_at_every_step(as_list: bool) -> None:
    model, twin = Model(), Model()
    optimizer, other = secant.LevenbergMarquardt([model.x]), secant.LevenbergMarquardt([twin.x])
    function = twin.residual
    for _ in range(4):
        optimizer.step([model.residual] if as_list else model.residual)
        other.step(function)
    assert torch.equal(model.x, twin.x)
    assert model.calls == twin.calls
