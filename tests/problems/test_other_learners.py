"""The support vector machine, the soft tree and the network of several tasks."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

import secant
from secant.problems import Problem, build_multi_task, build_soft_tree, build_svm
from secant.problems.datasets import diabetes, digits, standardized
from secant.problems.multi_task import multi_task_loss, task_losses
from secant.problems.soft_tree import leaf_probabilities, tree_loss
from secant.problems.svm import svm_loss, svm_optimum

DOUBLE = torch.float64


def minimized(problem: Problem, iterations: int) -> secant.SSBroyden:
    optimizer = secant.SSBroyden(problem.parameters, iterations_per_step=iterations)
    optimizer.step(problem.loss)
    return optimizer


def test_svm_is_minimized_to_scikit_learns_optimum_and_not_below() -> None:
    problem = build_svm(0)
    assert problem.error is not None
    assert problem.reference is not None
    assert problem.error() > 0.1
    minimized(problem, 300)
    assert problem.loss().item() == pytest.approx(problem.reference, rel=1e-12)
    assert problem.loss().item() >= problem.reference * (1.0 - 1e-14)
    assert problem.error() < 1e-7  # half the digits of the loss, and a little more by the slopes


def test_gradient_vanishes_at_the_svm_reference() -> None:
    pixels, labels = digits(problem="svm")
    features, signs = pixels / 16.0, 1.0 - 2.0 * (labels % 2).double()
    optimum = svm_optimum(features, signs)
    parameters = (optimum[:-1].clone().requires_grad_(), optimum[-1:].clone().requires_grad_())
    gradient = torch.cat(torch.autograd.grad(svm_loss(parameters, features, signs), parameters))
    assert gradient.abs().max() < 1e-14


def test_svm_loss_is_zero_hinge_beyond_the_margin() -> None:
    parameters = (torch.tensor([2.0], dtype=DOUBLE), torch.tensor([1.0], dtype=DOUBLE))
    features, signs = torch.tensor([[3.0], [-1.0]], dtype=DOUBLE), torch.tensor([1.0, 1.0], dtype=DOUBLE)
    # Scores 7 and -1: hinges 0 and 2; penalty (4 + 1) / (2 * 2).
    assert svm_loss(parameters, features, signs).item() == pytest.approx((0.0 + 4.0) / 2.0 + 5.0 / 4.0)


def test_leaves_are_reached_along_their_paths() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 7, generator=generator, dtype=DOUBLE)
    right = torch.sigmoid(scores)
    reached = leaf_probabilities(scores)
    torch.testing.assert_close(reached.sum(dim=1), torch.ones(5, dtype=DOUBLE))
    for leaf in range(8):
        node, probability = 0, torch.ones(5, dtype=DOUBLE)
        for turn in (leaf >> 2 & 1, leaf >> 1 & 1, leaf & 1):
            probability = probability * (right[:, node] if turn else 1.0 - right[:, node])
            node = 2 * node + 1 + turn
        torch.testing.assert_close(reached[:, leaf], probability)


def test_hard_splits_make_the_soft_tree_a_decision_tree() -> None:
    """A tree of scikit-learn's, written as a soft one with steep splits, has the loss that the settings state."""
    from sklearn.tree import DecisionTreeRegressor

    features, target = (standardized(data) for data in diabetes(problem="soft-tree"))
    tree = DecisionTreeRegressor(max_depth=4, random_state=0).fit(features.numpy(), target.numpy()).tree_
    splits, thresholds, leaves = torch.zeros(15, 10, dtype=DOUBLE), torch.zeros(15, dtype=DOUBLE), torch.zeros(16, dtype=DOUBLE)

    def copy(node: int, place: int) -> None:
        stops = tree.children_left[node] == -1
        if place >= 15:
            leaves[place - 15] = float(tree.value[node].item())
            return
        if not stops:
            splits[place, tree.feature[node]], thresholds[place] = 1e6, -1e6 * tree.threshold[node]
        copy(node if stops else tree.children_left[node], 2 * place + 1)
        copy(node if stops else tree.children_right[node], 2 * place + 2)

    copy(0, 0)
    error = (leaf_probabilities(features @ splits.T + thresholds) @ leaves - target).square().mean()
    assert error.item() == pytest.approx(float(build_soft_tree(0).settings["hard_tree_loss"]), rel=1e-9)
    assert np.isfinite(tree_loss((splits, thresholds, leaves), features, target).item())


def test_soft_tree_ends_below_the_greedy_tree() -> None:
    problem = build_soft_tree(0)
    minimized(problem, 300)
    assert problem.loss().item() < float(problem.settings["hard_tree_loss"])


def test_tasks_are_weighted_as_the_settings_say() -> None:
    problem = build_multi_task(0)
    pixels, labels = digits(problem="multi-task")
    digit, parity, picture = task_losses(problem.parameters, pixels / 16.0, labels)
    penalty = sum(float(weight.detach().square().sum()) for weight in problem.parameters[::2])
    assert problem.settings["loss"] == "1.0 digit + 0.5 parity + 4.0 picture + 0.001 |weights|^2 / 2"
    assert problem.loss().item() == pytest.approx((digit + 0.5 * parity + 4.0 * picture).item() + 5e-4 * penalty, rel=1e-14)
    assert sum(parameter.numel() for parameter in problem.parameters) == 2315


def test_every_task_reaches_the_shared_trunk() -> None:
    problem = build_multi_task(0)
    pixels, labels = digits(problem="multi-task")
    for loss in task_losses(problem.parameters, pixels / 16.0, labels):
        (gradient,) = torch.autograd.grad(loss, problem.parameters[0], retain_graph=True)
        assert gradient.abs().max() > 1e-6


def test_every_task_of_the_network_is_learned() -> None:
    problem = build_multi_task(0)
    pixels, labels = digits(problem="multi-task")
    before = [loss.item() for loss in task_losses(problem.parameters, pixels / 16.0, labels)]
    minimized(problem, 25)
    after = [loss.item() for loss in task_losses(problem.parameters, pixels / 16.0, labels)]
    assert all(late < 0.6 * early for early, late in zip(before, after, strict=True))


def test_multi_task_loss_depends_on_every_parameter() -> None:
    problem = build_multi_task(1)
    pixels, labels = digits(problem="multi-task")
    gradients = torch.autograd.grad(multi_task_loss(problem.parameters, pixels / 16.0, labels), problem.parameters)
    assert all(gradient.abs().max() > 0.0 for gradient in gradients)


@pytest.mark.parametrize("build", [build_svm, build_soft_tree, build_multi_task])
def test_absent_scikit_learn_is_reported_with_the_remedy(build: Callable[[int], Problem], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r'scikit-learn.*pip install "secant\[race\]"$'):
        build(0)


def test_data_are_those_of_the_published_records() -> None:
    assert build_svm(0).settings["data_sha256"] == "f6d9e39f37dc45d327f6db33428ee58970ccceabb2535a5c179de35886b70443"
