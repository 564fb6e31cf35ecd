import math
from functools import partial

import pytest
import torch
from torch import nn

from secant.problems.initialization import Rule, glorot_uniform, he_uniform, initialized


@pytest.mark.parametrize(
    ("rule", "bound"),
    [(he_uniform, math.sqrt(6 / 300)), (partial(he_uniform, factor=3.0), 3 * math.sqrt(6 / 300)), (glorot_uniform, math.sqrt(6 / 500))],
)
def test_weights_fill_their_interval_evenly_and_biases_are_zero(rule: Rule, bound: float) -> None:
    model = initialized(lambda: nn.Linear(300, 200), rule, 0)
    assert 0.999 * bound < model.weight.abs().max() <= bound * (1 + 1e-6)
    # The deviation of a uniform variable is bound / sqrt(3); 60,000 samples resolve it to about 0.2 %.
    assert model.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert not model.bias.any()


def test_the_inputs_of_a_convolution_are_those_of_its_window() -> None:
    model = initialized(lambda: nn.Conv2d(16, 32, 3), he_uniform, 0)
    assert model.weight.abs().max().item() == pytest.approx(math.sqrt(6 / (16 * 9)), rel=1e-3)


def test_every_layer_draws_on_from_one_stream_and_norms_are_the_identity() -> None:
    model = initialized(lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4)), glorot_uniform, 0)
    assert not torch.equal(model[0].weight, model[2].weight)
    assert torch.equal(model[1].weight, torch.ones(4))
    assert not model[1].bias.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_model_has_the_dtype_that_was_asked_for(dtype: torch.dtype) -> None:
    assert initialized(lambda: nn.Linear(2, 2), he_uniform, 0, dtype=dtype).weight.dtype == dtype


def test_a_module_without_a_rule_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="got parameters in PReLU"):
        initialized(lambda: nn.Sequential(nn.Linear(2, 2), nn.PReLU()), he_uniform, 0)
