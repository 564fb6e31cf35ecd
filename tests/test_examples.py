import importlib
import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from threadpoolctl import threadpool_limits

import secant

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    # Small nets on several threads are very slow where the cores are busy. torch has one pool of threads and SciPy's BLAS another: this limits both.
    with threadpool_limits(limits=1):
        yield


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module(request.param)


def of(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("example", [name], indirect=True, ids=[name])


def test_every_example_has_a_test_and_a_line_in_the_readme() -> None:
    here, readme = Path(__file__).read_text(encoding="utf-8"), (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f'@of("{path.stem}")' in here
        assert f"({path.name})" in readme


@of("linear_regression")
def test_gradient_descent_creeps_and_a_secant_jumps_to_the_slope(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    result = example.main()
    # Closed form; a step rounds theta in its last digit and shrinks earlier roundings by 0.85, so that about 7 units in the last place add up.
    assert result.gradient_descent == pytest.approx([1.0 - 0.85**k for k in range(101)], abs=1e-14)
    assert result.secant == pytest.approx([0.0, 0.15, 1.0], abs=1e-14)
    assert result.inverse_curvature == pytest.approx(1.0 / 15.0, rel=1e-13)
    assert "1.0000000000" in capsys.readouterr().out


@of("linear_regression")
def test_gradient_by_hand_is_the_derivative_of_the_loss(example: ModuleType) -> None:
    for theta in (-1.0, 0.0, 1.0, 2.5):
        at = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(example.loss(at), at)
        assert example.gradient(at.detach()).item() == pytest.approx(slope.item(), rel=1e-14, abs=1e-14)
        assert slope.item() == pytest.approx(15.0 * (theta - 1.0), rel=1e-14, abs=1e-14)


@of("chain_rule")
def test_three_ways_give_one_gradient(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    result = example.main()
    assert result.by_hand.shape == (3, 4)
    assert result.by_hand.abs().min() > 0.1
    # A few products and sums of numbers of size 1 to 4: rounding is below 1e-14.
    torch.testing.assert_close(result.by_chain_rule, result.by_hand, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(result.by_jacrev, result.by_hand, rtol=0.0, atol=1e-12)
    assert "dL/dW" in capsys.readouterr().out


@of("newton_quadratic")
def test_newton_takes_one_step_and_sr1_one_more_than_there_are_variables(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    result = example.main()
    assert [len(result.newton), len(result.sr1)] == [2, 4]
    # Rounding of numbers of size 10, magnified by the condition number 3.5 of A and, for SR1, by its smallest denominator.
    assert result.newton[-1] == pytest.approx((-2.0, 2.0), abs=1e-13)
    assert result.sr1[-1] == pytest.approx((-2.0, 2.0), abs=1e-12)
    assert result.sr1_values[0] == 48.0  # 0.5 * 52 + 12 + 10, all exact
    assert result.sr1_values[0] > result.sr1_values[1] > result.sr1_values[2] > 1.0  # not there before step 3
    assert result.sr1_values[-1] == pytest.approx(0.0, abs=1e-12)
    for row, exact, closed in zip(result.inverse, result.exact_inverse, ((6 / 14, -2 / 14), (-2 / 14, 3 / 14)), strict=True):
        assert row == pytest.approx(exact, abs=1e-12)
        assert exact == pytest.approx(closed, abs=1e-15)
    assert "SR1, step 3: x = (-2.00000,  2.00000)" in capsys.readouterr().out


@of("relu_regression")
def test_gradient_descent_learns_the_teacher_and_not_the_noise_and_sr1_is_faster(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    result = example.main()
    assert [len(losses) for losses in (result.teacher, result.fresh, result.rank_one)] == [1000, 1000, 1000]
    assert result.teacher[0] == result.rank_one[0] > 1.0
    assert result.teacher[-1] < 0.02
    # The mean of 500 batches of 64 scatters by sqrt(2 / 32,000) = 0.008; the net, itself driven by noise, adds about 0.01. Three initial nets gave 1.004.
    assert sum(result.fresh[500:]) / 500 == pytest.approx(1.0, abs=0.04)
    # Kinks make the path depend on rounding. Six initial nets needed 66 to 91 evaluations and ended at 1/15 to 1/35 of the loss of gradient descent.
    assert result.evaluations_to_match is not None
    assert result.evaluations_to_match <= 200
    assert result.rank_one[-1] < 0.25 * result.teacher[-1]
    assert result.noise_over_curvature > 5.0
    assert "evaluation" in capsys.readouterr().out


@pytest.mark.slow
@of("two_stages")
def test_adam_on_batches_saves_the_first_passes_of_ss_broyden(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    result = example.main()
    assert result.chain < 0.5 * result.ss_broyden < 2e-4  # measured: 1.7e-5 and 7.0e-5
    assert "Adam -> SSBroyden after 2,000 iterations" in capsys.readouterr().out


@of("burgers")
def test_burgers_is_solved_while_the_points_move(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    result = example.main(steps=20, count=400)
    assert len(result.losses) == 20
    assert result.losses[-1] < 0.2 * result.losses[0]
    assert result.error < 0.3  # 0.6 at the start
    assert "step   20" in capsys.readouterr().out


@of("burgers")
def test_the_solution_of_the_burgers_example_meets_initial_data_and_period(example: ModuleType) -> None:
    points = torch.tensor([[0.0, 0.3], [0.5, -1.0], [0.5, 1.0]], dtype=torch.float64)
    values = example.outputs(points, torch.linspace(1.0, 2.0, 3, dtype=torch.float64).unsqueeze(1))
    assert float(values[0]) == -math.sin(0.3 * math.pi)
    torch.testing.assert_close(example.inputs(points)[1], example.inputs(points)[2], rtol=0.0, atol=1e-15)


@pytest.fixture
def torch_defaults() -> Iterator[None]:
    # DeepXDE sets both for the whole process.
    dtype, state = torch.get_default_dtype(), torch.get_rng_state()
    yield
    torch.set_default_dtype(dtype)
    torch.set_rng_state(state)


@pytest.mark.usefixtures("torch_defaults")
@pytest.mark.skipif(importlib.util.find_spec("deepxde") is None, reason="needs deepxde")
@of("deepxde_burgers")
def test_deepxde_is_trained_by_an_optimizer_passed_to_compile(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    result = example.main(iterations=6, points=200)
    assert result.outcome is secant.Outcome.WOLFE
    assert result.last_loss < 0.25 * result.first_loss
    assert "Training model" in capsys.readouterr().out


@pytest.mark.slow
@of("digits")
def test_digits_are_learned_by_mini_batches(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    result = example.main()
    assert len(result.train_loss) == len(result.test_accuracy) == 10
    # Three seeds of split and net gave 0.943 to 0.950 and a training loss of 0.008 to 0.010; one standard deviation of the accuracy on 1,000 digits is 0.007.
    assert result.test_accuracy[-1] >= 0.92
    assert result.train_loss[-1] < 0.03 < 0.5 < result.train_loss[0]
    assert "test accuracy" in capsys.readouterr().out


@pytest.mark.slow
@of("fine_tuning")
def test_fine_tuning_learns_the_new_text_and_resumes_exactly(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    result = example.main()
    assert result.resumed_exactly
    assert result.pretrained.bible < 2.4  # guessing is log 128 = 4.85
    assert result.pretrained.manual > 4.0
    assert result.full.manual < result.lora.manual < result.pretrained.manual - 1.0
    assert result.full.manual < 2.6
    assert result.full.bible > result.pretrained.bible  # what was learned first is forgotten
    assert result.trained == (421_376, 32_768)
    printed = capsys.readouterr()
    assert "bit for bit" in printed.out
    assert "step 60 of 60" in printed.err
