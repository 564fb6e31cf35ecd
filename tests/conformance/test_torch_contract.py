"""For every method: what a torch user expects of an optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.cases import Case, Problem, drive, every_method, every_method_and_fit, every_pair, every_pair_and_fit, flat, quadratic, rosenbrock, tanh_net
from secant import Correction, Outcome

DOUBLE = torch.float64


@every_pair_and_fit
def test_step_returns_the_loss_at_its_start(case: Case) -> None:
    problem = case.form(rosenbrock())
    optimizer = case.build(problem.parameters)
    for _ in range(5):
        before = problem.loss()
        loss = optimizer.step(problem.closure)
        assert isinstance(loss, Tensor)
        assert not loss.requires_grad
        assert loss.shape == ()
        assert torch.equal(loss, before)


@every_pair_and_fit
def test_zero_learning_rate_does_nothing_and_says_so(case: Case) -> None:
    problem = case.form(rosenbrock())
    optimizer = case.build(problem.parameters, lr=0.0)
    before = flat(problem.parameters)
    assert torch.equal(optimizer.step(problem.closure), problem.loss())
    assert optimizer.outcome is Outcome.ZERO_LEARNING_RATE
    assert torch.equal(flat(problem.parameters), before)
    optimizer.param_groups[0]["lr"] = 1.0
    optimizer.step(problem.closure)
    assert not torch.equal(flat(problem.parameters), before)


@every_pair_and_fit
def test_pause_by_zero_learning_rate_changes_nothing_afterwards(case: Case) -> None:
    problem, paused = case.form(rosenbrock()), case.form(rosenbrock())
    expected = drive(case.build(problem.parameters), problem, 8)
    optimizer = case.build(paused.parameters)
    drive(optimizer, paused, 4)
    optimizer.param_groups[0]["lr"] = 0.0
    drive(optimizer, paused, 3)
    optimizer.param_groups[0]["lr"] = 1.0
    assert all(torch.equal(a, b) for a, b in zip(expected[4:], drive(optimizer, paused, 4), strict=True))


@pytest.mark.parametrize("lr", [0.5, 1.0])
@every_pair_and_fit
def test_learning_rate_may_be_a_tensor_of_one_element(case: Case, lr: float) -> None:
    paths = []
    for value in (lr, torch.tensor(lr), torch.tensor([lr])):
        problem = case.form(rosenbrock())
        paths.append(torch.stack(drive(case.build(problem.parameters, lr=value), problem, 6)))
    assert torch.equal(paths[0], paths[1])
    assert torch.equal(paths[0], paths[2])


@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=2, gamma=0.5),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=6),
        lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=10.0),
    ],
    ids=["StepLR", "CosineAnnealingLR", "ReduceLROnPlateau"],
)
@every_method_and_fit
def test_schedulers_drive_the_learning_rate(case: Case, make: Callable[[Any], Any], tensor: bool) -> None:
    problem = case.form(tanh_net())
    optimizer = case.build(problem.parameters, lr=torch.tensor(1.0, dtype=DOUBLE) if tensor else 1.0)
    scheduler = make(optimizer)
    first = problem.loss().item()
    seen = []
    for _ in range(6):
        loss = optimizer.step(problem.closure)
        seen.append(float(optimizer.param_groups[0]["lr"]))
        scheduler.step(loss) if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) else scheduler.step()
    assert seen[-1] < seen[0]
    assert problem.loss().item() < first


@pytest.mark.parametrize("globalization", ["HagerZhang", "StrongWolfe", "Armijo", "FixedStep"])
def test_a_scheduled_learning_rate_multiplies_the_next_first_trial(globalization: str) -> None:
    problem = tanh_net()
    optimizer = Case("bfgs", globalization).build(problem.parameters)
    drive(optimizer, problem, 10)
    tried: list[Tensor] = []

    def closure() -> Tensor:
        tried.append(flat(problem.parameters))
        return problem.loss()

    steps = {}
    state = {"parameters": [p.detach().clone() for p in problem.parameters]}
    saved = optimizer.state_dict()
    for lr in (1.0, 0.125):
        again = tanh_net()
        with torch.no_grad():
            for p, v in zip(problem.parameters, state["parameters"], strict=True):
                p.copy_(v)
        fresh = Case("bfgs", globalization).build(problem.parameters)
        fresh.load_state_dict(saved)
        fresh.param_groups[0]["lr"] = lr
        tried.clear()
        fresh.step(closure)
        steps[lr] = tried[1] - tried[0]
        del again
    torch.testing.assert_close(steps[0.125], 0.125 * steps[1.0], rtol=1e-9, atol=1e-12)


@every_method
def test_ratios_of_learning_rates_scale_the_blocks_of_the_initial_inverse(case: Case) -> None:
    a, b = torch.ones(2, dtype=DOUBLE, requires_grad=True), torch.ones(3, dtype=DOUBLE, requires_grad=True)
    optimizer = case.build([{"params": [a], "lr": 0.5}, {"params": [b], "lr": 2.0}], initial_scale=3.0)
    optimizer.step(lambda: (a**2).sum() + (b**2).sum())
    expected = torch.tensor([0.75, 0.75, 3.0, 3.0, 3.0], dtype=DOUBLE)
    assert torch.equal(optimizer.curvature.dense_inverse(), torch.diag(expected))


@every_method
def test_a_group_of_zero_learning_rate_beside_others_is_refused_with_the_remedy(case: Case) -> None:
    a, b = torch.ones(2, dtype=DOUBLE, requires_grad=True), torch.ones(3, dtype=DOUBLE, requires_grad=True)
    optimizer = case.build([{"params": [a], "lr": 0.0}, {"params": [b], "lr": 1.0}])
    with pytest.raises(ValueError, match="requires_grad"):
        optimizer.step(lambda: (a**2).sum() + (a.sum() - 1.0 + (b**2).sum()) ** 2)
    assert torch.equal(b.detach(), torch.ones(3, dtype=DOUBLE))


@every_pair_and_fit
def test_reused_closure_costs_one_evaluation_less_per_step_than_a_new_one(case: Case) -> None:
    reused, renewed = case.form(tanh_net()), case.form(tanh_net())
    one, other = case.build(reused.parameters), case.build(renewed.parameters)
    for _ in range(8):
        one.step(reused.closure)
        other.step(lambda: renewed.closure())
    assert torch.equal(flat(reused.parameters), flat(renewed.parameters))
    assert other.counts.losses == one.counts.losses + 7


@every_pair_and_fit
def test_parameters_changed_from_outside_are_evaluated_again(case: Case) -> None:
    problem = case.form(tanh_net())
    optimizer = case.build(problem.parameters)
    drive(optimizer, problem, 4)
    for change in ("in place", "data"):
        if change == "in place":
            with torch.no_grad():
                problem.parameters[0].mul_(0.5)
        else:
            problem.parameters[0].data = problem.parameters[0].data * 1.5
        before = problem.loss()
        assert torch.equal(optimizer.step(problem.closure), before)


@every_pair
def test_objective_changed_evaluates_again_and_forms_no_pair_across_the_change(case: Case) -> None:
    problem = quadratic(n=4, condition=5.0)
    shift = [0.0]
    optimizer = case.build(problem.parameters)

    def closure() -> Tensor:
        return problem.loss() + shift[0] * problem.parameters[1].sum()

    for _ in range(3):
        optimizer.step(closure)
    shift[0] = 10.0
    count = optimizer.counts.losses
    optimizer.objective_changed()
    before = closure()
    assert torch.equal(optimizer.step(closure), before)
    assert optimizer.counts.losses >= count + 2
    for _ in range(60):
        optimizer.step(closure)
        if optimizer.outcome is not None and optimizer.outcome.stops:
            break
    gradient = torch.autograd.grad(closure(), problem.parameters)
    assert max(float(g.abs().max()) for g in gradient) < 1e-4


@every_method
def test_hooks_fire_once_per_step_and_once_per_evaluation(case: Case) -> None:
    problem = tanh_net()
    optimizer = case.build(problem.parameters)
    fired = {"pre": 0, "post": 0, "gradient": 0}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            fired[name] += 1

        return hook

    optimizer.register_step_pre_hook(count("pre"))
    optimizer.register_step_post_hook(count("post"))
    problem.parameters[0].register_post_accumulate_grad_hook(count("gradient"))
    for _ in range(5):
        optimizer.step(problem.loss)
    assert fired == {"pre": 5, "post": 5, "gradient": optimizer.counts.gradients}

    def with_backward() -> Tensor:
        optimizer.zero_grad()
        loss = problem.loss()
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(with_backward)
    assert fired == {"pre": 10, "post": 10, "gradient": optimizer.counts.gradients}


@pytest.mark.parametrize(("evaluation", "error"), [(k, ValueError if k % 2 else KeyboardInterrupt) for k in range(1, 8)])
@every_pair
def test_exception_in_the_closure_leaves_the_best_point_and_a_usable_optimizer(case: Case, evaluation: int, error: type[BaseException]) -> None:
    problem = quadratic(n=4, condition=5.0)
    optimizer = case.build(problem.parameters)
    count, seen = [0], []

    def closure() -> Tensor:
        count[0] += 1
        if count[0] == evaluation:
            raise error
        loss = problem.loss()
        seen.append((loss.item(), flat(problem.parameters)))
        return loss

    first, start = problem.loss().item(), flat(problem.parameters)
    raised = False
    for _ in range(120):
        kept = [] if optimizer.point is None else [(optimizer.point.loss, flat(problem.parameters))]
        seen.clear()
        try:
            optimizer.step(closure)
        except error:
            raised = True
            best = min([*kept, *seen], key=lambda pair: pair[0], default=(first, start))
            assert torch.equal(flat(problem.parameters), best[1])
        if raised and problem.loss().item() < 1e-6 * first:
            break
    assert raised
    assert problem.loss().item() < 1e-6 * first


@every_method_and_fit
def test_frozen_group_stands_still_and_unfreezing_resets(case: Case) -> None:
    problem = case.form(tanh_net())
    optimizer = case.build(problem.parameters)
    drive(optimizer, problem, 3)
    problem.parameters[0].requires_grad_(False)
    frozen = problem.parameters[0].detach().clone()
    optimizer.step(problem.closure)
    assert optimizer.correction is Correction.RESET_PARAMETERS
    drive(optimizer, problem, 3)
    assert optimizer.correction is not Correction.RESET_PARAMETERS
    assert torch.equal(problem.parameters[0], frozen)
    problem.parameters[0].requires_grad_(True)
    count, iteration = optimizer.counts.losses, optimizer.iteration
    optimizer.step(problem.closure)
    assert optimizer.correction is Correction.RESET_PARAMETERS
    assert optimizer.counts.losses > count
    assert optimizer.iteration == iteration + 1
    drive(optimizer, problem, 3)
    assert not torch.equal(problem.parameters[0], frozen)


@every_method_and_fit
def test_added_group_resets_and_is_trained(case: Case) -> None:
    problem = case.form(tanh_net())
    optimizer = case.build(problem.parameters[:3])
    drive(optimizer, problem, 3)
    before = problem.parameters[3].detach().clone()
    optimizer.add_param_group({"params": [problem.parameters[3]], "lr": 0.5})
    assert optimizer.size == 17
    optimizer.step(problem.closure)
    assert optimizer.correction is Correction.RESET_PARAMETERS
    drive(optimizer, problem, 2)
    assert not torch.equal(problem.parameters[3], before)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("refused", [lambda: torch.arange(3), lambda: torch.eye(2).to_sparse().requires_grad_()], ids=["integer", "sparse"])
@every_method_and_fit
def test_refused_group_is_not_kept_and_changes_nothing(case: Case, refused: Callable[[], Tensor]) -> None:
    problem, twin = case.form(tanh_net()), case.form(tanh_net())
    expected = drive(case.build(twin.parameters), twin, 5)
    optimizer = case.build(problem.parameters)
    drive(optimizer, problem, 2)
    with pytest.raises(TypeError, match="Expected"):
        optimizer.add_param_group({"params": [refused()]})
    assert len(optimizer.param_groups) == 1
    assert all(torch.equal(a, b) for a, b in zip(expected[2:], drive(optimizer, problem, 3), strict=True))


@pytest.mark.filterwarnings("ignore:float32 no longer resolves")
@every_method
def test_converted_parameters_reset(case: Case) -> None:
    problem = tanh_net(torch.float32)
    optimizer = case.build(problem.parameters)
    drive(optimizer, problem, 2)
    wide = tanh_net()
    for p, q in zip(problem.parameters, wide.parameters, strict=True):
        p.data = q.data

    def loss() -> Tensor:
        return sum(((p - 1.0) ** 2).sum() for p in problem.parameters)  # type: ignore[return-value]

    optimizer.step(loss)
    assert optimizer.correction is Correction.RESET_PARAMETERS
    assert optimizer.curvature.dense_inverse().dtype == DOUBLE


@every_method
def test_tied_parameter_counts_once(case: Case) -> None:
    x = torch.tensor([2.0, -1.0], dtype=DOUBLE, requires_grad=True)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = case.build([x, x])
    assert optimizer.size == 2
    for _ in range(60):
        optimizer.step(lambda: ((x - 1.0) ** 2 * torch.tensor([1.0, 5.0])).sum())
    torch.testing.assert_close(x.detach(), torch.ones(2, dtype=DOUBLE))


@every_method
def test_tensor_in_two_groups_is_torch_s_error(case: Case) -> None:
    x = torch.zeros(2, requires_grad=True)
    with pytest.raises(ValueError, match="more than one parameter group"):
        case.build([{"params": [x]}, {"params": [x]}])


@every_method
def test_named_parameters_are_taken(case: Case) -> None:
    layer = torch.nn.Linear(3, 1)
    optimizer = case.build(layer.named_parameters())
    optimizer.step(lambda: layer(torch.ones(2, 3)).square().mean())
    assert optimizer.size == 4


SHAPES: dict[str, Callable[[], list[Tensor]]] = {
    "with an empty one": lambda: [torch.zeros(0, dtype=DOUBLE), torch.linspace(1.0, 2.0, 5, dtype=DOUBLE)],
    "a number": lambda: [torch.tensor(1.0, dtype=DOUBLE), torch.linspace(1.25, 2.0, 4, dtype=DOUBLE)],
    "a transposed matrix": lambda: [torch.linspace(1.0, 2.0, 5, dtype=DOUBLE)[:4].reshape(2, 2).clone().T, torch.tensor([2.0], dtype=DOUBLE)],
}


@pytest.mark.parametrize("shape", SHAPES)
@every_method
def test_shape_and_memory_order_of_parameters_do_not_matter(case: Case, shape: str) -> None:
    parameters = [p.requires_grad_() for p in SHAPES[shape]()]
    plain = [torch.cat([p.detach().reshape(-1) for p in parameters]).clone().requires_grad_()]
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=DOUBLE)

    def loss(x: Tensor) -> Tensor:
        return (weights * (x - 0.5) ** 2).sum() + (x[0] * x[1]) ** 2

    drive(case.build(plain), Problem(plain, lambda: loss(plain[0])), 6)
    drive(case.build(parameters), Problem(parameters, lambda: loss(torch.cat([p.reshape(-1) for p in parameters]))), 6)
    torch.testing.assert_close(flat(parameters), flat(plain), rtol=1e-10, atol=1e-12)


@every_pair
def test_complex_parameters_take_the_path_of_their_real_pairs(case: Case) -> None:
    z = torch.tensor([0.5 + 0.2j, -0.3 - 0.8j], dtype=torch.complex128, requires_grad=True)
    r = torch.tensor([0.1, 0.2, 0.3], dtype=DOUBLE, requires_grad=True)
    w = torch.tensor([0.5, 0.2, -0.3, -0.8], dtype=DOUBLE, requires_grad=True)
    q = r.detach().clone().requires_grad_()

    def loss(c: Tensor, x: Tensor) -> Tensor:
        return (c * c - 1.0j * x[:2]).abs().square().sum() + 0.1 * c.abs().square().sum() + (x**2).sum()

    for weight_decay in (0.0, 0.1):
        one, other = case.build([r, z], weight_decay=weight_decay), case.build([q, w], weight_decay=weight_decay)
        for _ in range(8):
            one.step(lambda: loss(z, r))
            other.step(lambda: loss(torch.view_as_complex(w.reshape(2, 2)), q))
            assert torch.equal(torch.view_as_real(z).detach().reshape(-1), w.detach())


@pytest.mark.filterwarnings("ignore:float32 no longer resolves")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@every_pair
def test_half_precision_warns_and_accepts_losses_of_rounded_points(case: Case, dtype: torch.dtype) -> None:
    x = torch.tensor([3.0, -2.0, 1.0], dtype=dtype, requires_grad=True)
    with pytest.warns(UserWarning, match="half precision"):
        optimizer = case.build([x])

    def loss() -> Tensor:
        return ((x.float() - 0.3) ** 2 * torch.tensor([1.0, 3.0, 9.0])).sum()

    for _ in range(30):
        optimizer.step(loss)
        assert optimizer.point is not None
        assert optimizer.point.loss == loss().item()
        assert torch.equal(optimizer.point.x, x.detach().float())
        if optimizer.outcome is not None and optimizer.outcome.stops:
            break
    assert loss().item() < (0.03 if case.method == "dfp" else 1e-3)
    assert x.dtype == dtype


@every_pair
def test_mixed_precision_works_in_the_wider_type(case: Case) -> None:
    a = torch.tensor([3.0, -2.0], dtype=torch.float32, requires_grad=True)
    b = torch.tensor([1.0, 4.0], dtype=DOUBLE, requires_grad=True)
    optimizer = case.build([a, b])

    def loss() -> Tensor:
        return ((a.double() - 0.5) ** 2).sum() + 4.0 * ((b - 0.3 * a.double().sum()) ** 2).sum()

    for _ in range(20):
        optimizer.step(loss)
        assert optimizer.point is not None
        assert torch.equal(optimizer.point.x, torch.cat([a.detach().double(), b.detach()]))
        assert optimizer.point.loss == loss().item()
    assert loss().item() < (1e-2 if case.method == "dfp" else 1e-8)


@every_pair
def test_maximizing_mirrors_minimizing(case: Case) -> None:
    down, up = rosenbrock(), rosenbrock()
    one, other = case.build(down.parameters), case.build(up.parameters, maximize=True)
    for _ in range(10):
        loss = one.step(down.loss)
        assert torch.equal(other.step(lambda: -up.loss()), -loss)
        assert torch.equal(flat(down.parameters), flat(up.parameters))


@every_pair
def test_weight_decay_equals_its_term_in_the_closure(case: Case) -> None:
    plain, decayed = tanh_net(), tanh_net()
    one, other = case.build(plain.parameters), case.build(decayed.parameters, weight_decay=0.1)
    for _ in range(8):
        one.step(lambda: plain.loss() + 0.05 * sum(p.square().sum() for p in plain.parameters))
        before = decayed.loss()
        assert torch.equal(other.step(decayed.loss), before)
        torch.testing.assert_close(flat(decayed.parameters), flat(plain.parameters), rtol=1e-7, atol=1e-9)


@every_pair
def test_weight_decay_belongs_to_its_group(case: Case) -> None:
    problem = tanh_net()
    a, *rest = problem.parameters
    optimizer = case.build([{"params": [a], "weight_decay": 0.5}, {"params": rest}])
    twin = tanh_net()
    other = case.build(twin.parameters)
    for _ in range(5):
        optimizer.step(problem.loss)
        other.step(lambda: twin.loss() + 0.25 * twin.parameters[0].square().sum())
    torch.testing.assert_close(flat(problem.parameters), flat(twin.parameters), rtol=1e-7, atol=1e-9)
