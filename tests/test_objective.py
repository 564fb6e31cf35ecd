"""The closure as a function of one flat vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from secant.objective import Objective

DOUBLE = torch.float64
GENERATOR_SEED = 7


class Fit:
    """A small smooth loss over two tensors, with its closures in every style."""

    def __init__(self, dtype: torch.dtype = DOUBLE) -> None:
        generator = torch.Generator().manual_seed(GENERATOR_SEED)
        self.inputs = torch.randn(8, 3, generator=generator, dtype=DOUBLE).to(dtype)
        self.a = torch.randn(2, 3, generator=generator, dtype=DOUBLE).to(dtype).requires_grad_()
        self.b = torch.randn(2, generator=generator, dtype=DOUBLE).to(dtype).requires_grad_()
        self.groups: list[dict[str, Any]] = [{"params": [self.a, self.b], "lr": 1.0, "weight_decay": 0.0}]

    def loss(self) -> Tensor:
        return (torch.tanh(self.inputs @ self.a.T + self.b) - 0.3).square().mean()

    def objective(self, closure: Callable[[], Any] | None = None, **options: Any) -> Objective:
        objective = Objective(self.groups, **options)
        objective.bind(closure or self.loss, self.groups)
        return objective

    def with_backward(self) -> Tensor:
        loss = self.loss()
        loss.backward()
        return loss

    def with_kept_zeros(self) -> Tensor:
        for p in (self.a, self.b):
            if p.grad is not None:
                p.grad.zero_()
        return self.with_backward()

    def with_assigned_gradients(self) -> Tensor:
        loss = self.loss()
        for p, g in zip((self.a, self.b), torch.autograd.grad(loss, (self.a, self.b)), strict=True):
            p.grad = g
        return loss.detach()

    def as_number(self) -> float:
        return self.with_backward().item()

    def in_two_parts(self) -> Tensor:
        loss = self.loss()
        (0.25 * loss).backward(retain_graph=True)
        (0.75 * loss).backward()
        return loss

    def dense_hessian(self) -> Tensor:
        def of(x: Tensor) -> Tensor:
            a, b = x[:6].reshape(2, 3), x[6:]
            return (torch.tanh(self.inputs @ a.T + b) - 0.3).square().mean()

        hessian: Tensor = torch.autograd.functional.hessian(of, torch.cat([self.a.detach().reshape(-1), self.b.detach()]))
        return hessian


STYLES = {
    "loss only": lambda fit: fit.loss,
    "backward": lambda fit: fit.with_backward,
    "zero_grad(set_to_none=False) and backward": lambda fit: fit.with_kept_zeros,
    "assigned gradients": lambda fit: fit.with_assigned_gradients,
    "a python number": lambda fit: fit.as_number,
    "two backward calls": lambda fit: fit.in_two_parts,
}


@pytest.mark.parametrize("stale", [False, True], ids=["no gradient before", "a gradient before"])
@pytest.mark.parametrize("style", STYLES)
def test_every_style_of_closure_gives_the_same_evaluation(style: str, stale: bool) -> None:
    fit = Fit()
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(fit.loss(), (fit.a, fit.b))])
    if stale:
        for p in (fit.a, fit.b):
            p.grad = torch.full_like(p, 100.0)
    point = fit.objective(STYLES[style](fit)).here()
    torch.testing.assert_close(point.grad, expected, rtol=1e-14, atol=0.0)
    assert point.loss == fit.loss().item()
    assert point.largest_grad == point.grad.abs().max().item()
    assert not point.reported.requires_grad


def test_gradients_assigned_beside_a_loss_with_its_graph_do_not_count_twice() -> None:
    fit = Fit()
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(fit.loss(), (fit.a, fit.b))])

    def closure() -> Tensor:
        loss = fit.loss()
        for p, g in zip((fit.a, fit.b), torch.autograd.grad(loss, (fit.a, fit.b), retain_graph=True), strict=True):
            p.grad = g
        return loss

    torch.testing.assert_close(fit.objective(closure).here().grad, expected, rtol=1e-14, atol=0.0)


def test_zeros_prepared_by_the_closure_are_not_taken_for_its_gradient() -> None:
    fit = Fit()

    def closure() -> Tensor:
        for p in (fit.a, fit.b):
            p.grad = torch.zeros_like(p)
        return fit.loss()

    assert torch.equal(fit.objective(closure).here().grad, Fit().objective().here().grad)


def test_assigned_gradients_of_a_freed_graph_are_taken() -> None:
    fit = Fit()
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(fit.loss(), (fit.a, fit.b))])

    def closure() -> Tensor:
        loss = fit.loss()
        for p, g in zip((fit.a, fit.b), torch.autograd.grad(loss, (fit.a, fit.b)), strict=True):
            p.grad = g
        return loss

    torch.testing.assert_close(fit.objective(closure).here().grad, expected, rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("guard", [torch.no_grad, lambda: torch.set_grad_enabled(False)])
def test_caller_without_gradients_is_served(guard: Callable[[], Any]) -> None:
    fit = Fit()
    with guard():
        point = fit.objective().here()
    torch.set_grad_enabled(True)
    assert point.grad.abs().sum() > 0.0


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        (lambda fit: None, TypeError, "return the loss, got NoneType"),
        (lambda fit: (fit.loss(), 1), TypeError, "return the loss, got tuple"),
        (lambda fit: fit.inputs @ fit.a.T, ValueError, r"one real number, got shape \(8, 2\)"),
        (lambda fit: fit.loss() * 1j, ValueError, "complex128"),
        (lambda fit: fit.loss().detach(), RuntimeError, "without a graph"),
        (lambda fit: fit.loss().item(), RuntimeError, "without a graph"),
        (lambda fit: torch.ones(1, requires_grad=True).sum(), RuntimeError, "No trainable parameter is reached"),
    ],
    ids=["None", "tuple", "not one number", "complex", "detached", "item", "out of reach"],
)
def test_unusable_answer_of_a_closure_is_an_error_in_a_sentence(answer: Callable[[Fit], Any], error: type[Exception], sentence: str) -> None:
    fit = Fit()
    with pytest.raises(error, match=sentence):
        fit.objective(lambda: answer(fit)).here()


def test_closure_that_calls_backward_on_other_parameters_only_is_told_so() -> None:
    fit, stranger = Fit(), torch.ones(2, requires_grad=True)

    def closure() -> Tensor:
        loss = stranger.square().sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="No trainable parameter is reached"):
        fit.objective(closure).here()


def test_parameter_out_of_reach_counts_as_zero_gradient() -> None:
    fit = Fit()
    point = fit.objective(lambda: fit.b.square().sum()).here()
    assert not point.grad[:6].any()
    assert torch.equal(point.grad[6:], 2.0 * fit.b.detach())


def test_loss_of_one_element_and_any_shape_is_welcome() -> None:
    fit = Fit()
    assert fit.objective(lambda: fit.loss().reshape(1, 1)).here().reported.shape == ()


def test_known_point_is_not_evaluated_again() -> None:
    fit = Fit()
    objective = fit.objective()
    first = objective.here()
    assert objective.here() is first
    assert objective.counts.losses == objective.counts.gradients == 1


@pytest.mark.parametrize("change", ["value", "data", "forgotten", "another closure", "weight decay"])
def test_whatever_changes_the_objective_evaluates_again(change: str) -> None:
    fit = Fit()
    objective = fit.objective()
    objective.here()
    if change == "value":
        with torch.no_grad():
            fit.a.add_(1.0)
    elif change == "data":
        fit.a.data = fit.a.data + 1.0
    elif change == "forgotten":
        objective.forget()
    elif change == "another closure":
        objective.bind(lambda: fit.loss(), fit.groups)
    else:
        fit.groups[0]["weight_decay"] = 0.1
        objective.bind(fit.loss, fit.groups)
    point = objective.here()
    assert objective.counts.losses == 2
    assert point.reported.item() == fit.loss().item()


def test_point_that_is_not_finite_is_evaluated_again() -> None:
    fit = Fit()
    answers = iter([float("nan"), 1.0])
    objective = fit.objective(lambda: fit.loss() * next(answers))
    assert not objective.here().is_finite
    assert objective.here().is_finite


def test_closure_that_reuses_its_loss_tensor_does_not_rewrite_the_past() -> None:
    fit, buffer = Fit(), torch.zeros((), dtype=DOUBLE)

    def closure() -> Tensor:
        buffer.copy_(fit.with_backward().detach())
        return buffer

    objective = fit.objective(closure)
    first = objective.here()
    value = first.reported.item()
    objective.at(first.x + 1.0)
    assert first.reported.item() == value


def test_closures_that_compare_by_value_are_told_apart_by_identity() -> None:
    class Loss:
        def __init__(self, fit: Fit, targets: Tensor) -> None:
            self.fit, self.targets = fit, targets

        def __eq__(self, other: object) -> Any:
            return isinstance(other, Loss) and self.targets == other.targets

        __hash__ = None  # type: ignore[assignment]

        def __call__(self) -> Tensor:
            return self.fit.loss() + (self.targets * 0.0).sum()

    fit = Fit()
    objective = fit.objective(Loss(fit, torch.zeros(3)))
    objective.here()
    objective.bind(Loss(fit, torch.zeros(3)), fit.groups)
    objective.here()
    assert objective.counts.losses == 2


def test_bound_method_is_one_closure_however_often_it_is_looked_up() -> None:
    fit = Fit()
    objective = fit.objective(fit.loss)
    objective.here()
    objective.bind(fit.loss, fit.groups)
    objective.here()
    assert objective.counts.losses == 1


def test_at_writes_the_point_it_evaluates() -> None:
    fit = Fit()
    objective = fit.objective()
    x = objective.here().x + 0.5
    point = objective.at(x)
    assert torch.equal(torch.cat([fit.a.detach().reshape(-1), fit.b.detach()]), x)
    assert torch.equal(point.x, x)
    assert point.loss == fit.loss().item()


@pytest.mark.filterwarnings("ignore:Some parameters have half precision")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_point_is_the_rounded_one(dtype: torch.dtype) -> None:
    fit = Fit(torch.float32)
    fit.b = fit.b.detach().to(dtype).requires_grad_()
    fit.groups[0]["params"] = [fit.a, fit.b]
    objective = fit.objective(lambda: (torch.tanh(fit.inputs @ fit.a.T + fit.b.float()) - 0.3).square().mean())
    point = objective.at(objective.here().x + 1e-5)
    assert point.x.dtype == torch.float32
    assert torch.equal(point.x[6:], fit.b.detach().float())


@pytest.mark.parametrize("maximize", [False, True])
def test_weight_decay_and_sign_enter_loss_and_gradient_but_not_the_report(maximize: bool) -> None:
    fit = Fit()
    fit.groups[0]["weight_decay"] = 0.2
    plain = Fit().objective().here()
    point = fit.objective(maximize=maximize).here()
    sign = -1.0 if maximize else 1.0
    assert point.loss == pytest.approx(sign * plain.loss + 0.1 * float(plain.x @ plain.x), rel=1e-14)
    torch.testing.assert_close(point.grad, sign * plain.grad + 0.2 * plain.x, rtol=1e-14, atol=1e-16)
    assert point.reported.item() == plain.loss


@pytest.mark.parametrize("hessian", ["exact", "differences"])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_hessian_products_agree_with_the_dense_hessian(hessian: str, maximize: bool, decay: float) -> None:
    fit = Fit()
    fit.groups[0]["weight_decay"] = decay
    objective = fit.objective(hessian=hessian, maximize=maximize)
    dense = (-1.0 if maximize else 1.0) * fit.dense_hessian() + decay * torch.eye(8, dtype=DOUBLE)
    before = objective.here()
    tolerance = 1e-12 if hessian == "exact" else 1e-7
    for v in torch.eye(8, dtype=DOUBLE):
        torch.testing.assert_close(objective.hessian_times(v), dense @ v, rtol=tolerance, atol=tolerance)
    assert objective.here().loss == before.loss
    assert torch.equal(objective.layout.gather(), before.x)


def test_exact_products_share_one_gradient_until_the_parameters_change() -> None:
    fit = Fit()
    objective = fit.objective()
    objective.here()
    v = torch.ones(8, dtype=DOUBLE)
    first = objective.hessian_times(v)
    objective.hessian_times(v)
    assert (objective.counts.losses, objective.counts.hessian_products) == (2, 2)
    objective.at(objective.here().x + 0.1)
    second = objective.hessian_times(v)
    assert not torch.equal(first, second)
    torch.testing.assert_close(second, fit.dense_hessian() @ v, rtol=1e-12, atol=1e-14)


def test_exact_product_follows_parameters_written_from_outside() -> None:
    fit = Fit()
    objective = fit.objective()
    v = torch.ones(8, dtype=DOUBLE)
    objective.hessian_times(v)
    fit.a.data = fit.a.data + 0.1
    torch.testing.assert_close(objective.hessian_times(v), fit.dense_hessian() @ v, rtol=1e-12, atol=1e-14)


def test_products_by_differences_are_counted_as_gradients() -> None:
    fit = Fit()
    objective = fit.objective(fit.with_backward, hessian="differences")
    objective.here()
    objective.hessian_times(torch.ones(8, dtype=DOUBLE))
    assert (objective.counts.gradients, objective.counts.hessian_products) == (3, 0)


def test_product_with_zero_is_zero() -> None:
    for hessian in ("exact", "differences"):
        assert not Fit().objective(hessian=hessian).hessian_times(torch.zeros(8, dtype=DOUBLE)).any()


def test_hessian_of_a_linear_loss_is_zero() -> None:
    fit = Fit()
    assert not fit.objective(lambda: fit.a.sum()).hessian_times(torch.ones(8, dtype=DOUBLE)).any()


@pytest.mark.parametrize("style", ["with_backward", "as_number", "with_assigned_gradients"])
def test_exact_product_of_a_closure_with_its_own_gradients_names_the_remedy(style: str) -> None:
    fit = Fit()
    with pytest.raises(RuntimeError, match="hessian='differences'"):
        fit.objective(getattr(fit, style)).hessian_times(torch.ones(8, dtype=DOUBLE))


def test_hessian_product_of_complex_parameters_is_that_of_the_real_problem() -> None:
    z = torch.tensor([0.3 + 0.2j, -0.5 + 1.0j], dtype=torch.complex128, requires_grad=True)
    w = torch.tensor([0.3, 0.2, -0.5, 1.0], dtype=DOUBLE)
    groups = [{"params": [z], "lr": 1.0, "weight_decay": 0.0}]
    objective = Objective(groups)
    objective.bind(lambda: (z * z - 1.0j).abs().square().sum() + (z.real**3).sum(), groups)

    def of(x: Tensor) -> Tensor:
        c = torch.view_as_complex(x.reshape(2, 2))
        return (c * c - 1.0j).abs().square().sum() + (c.real**3).sum()

    dense = torch.autograd.functional.hessian(of, w)
    for v in torch.eye(4, dtype=DOUBLE):
        torch.testing.assert_close(objective.hessian_times(v), dense @ v, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_exact_product_of_a_compiled_model_names_the_remedy() -> None:
    fit = Fit()
    compiled = torch.compile(fit.loss)
    with pytest.raises(RuntimeError, match="hessian='differences'"):
        fit.objective(compiled).hessian_times(torch.ones(8, dtype=DOUBLE))


@pytest.mark.parametrize("options", [{"hessian": "none"}, {"reduction": "max"}])
def test_unknown_option_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="Expected"):
        Fit().objective(None, **options)


def test_best_is_the_finite_point_of_least_loss_since_it_was_cleared() -> None:
    fit = Fit()
    factor = [1.0]
    objective = fit.objective(lambda: fit.loss() * factor[0])
    x = objective.here().x
    objective.best = None
    seen = [objective.at(x), objective.at(x + 0.1), objective.at(x - 0.1)]
    factor[0] = -float("inf")
    objective.at(x)
    assert objective.best is min(seen, key=lambda point: point.loss)
