"""What the models of the mini-batch problems are: their layers, their sizes, and what they are chosen to show."""

import math
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from secant.problems import PROBLEMS, Training
from secant.problems.char_transformer import character_loss
from secant.problems.ill_conditioned import build_ill_conditioned, ill_conditioned_data


@cache
def training_of(name: str) -> Training:
    training = PROBLEMS[name].build(0).training
    assert training is not None
    return training


def gradients_by_layer(training: Training) -> dict[str, float]:
    names = [name for name, _ in training.model.named_parameters() if name.endswith("weight")]
    loss = training.loss(training.model(training.inputs[: training.batch]), training.targets[: training.batch])
    gradients = torch.autograd.grad(loss, [training.model.get_parameter(name) for name in names])
    return {name.removesuffix(".weight"): gradient.norm().item() for name, gradient in zip(names, gradients, strict=True)}


def test_the_dense_network_has_its_two_layers() -> None:
    shapes = {name: tuple(p.shape) for name, p in training_of("mnist-mlp").model.named_parameters()}
    assert shapes == {"hidden.weight": (128, 784), "hidden.bias": (128,), "output.weight": (10, 128), "output.bias": (10,)}


def test_the_autoencoder_is_mirrored_with_a_linear_code_and_sigmoid_outputs() -> None:
    layers = dict(training_of("mnist-autoencoder").model.named_children())
    widths = [(layer.in_features, layer.out_features) for layer in layers.values() if isinstance(layer, nn.Linear)]
    assert widths == [(784, 1000), (1000, 500), (500, 250), (250, 30), (30, 250), (250, 500), (500, 1000), (1000, 784)]
    order = list(layers)
    assert order[order.index("encoder_4") + 1] == "decoder_1"
    assert isinstance(layers[order[-1]], nn.Sigmoid)
    assert sum(isinstance(layer, nn.Tanh) for layer in layers.values()) == 6
    training = training_of("mnist-autoencoder")
    assert training.targets is training.inputs


def test_every_convolution_sees_half_the_side_of_the_one_before() -> None:
    training = training_of("digits-conv")
    sides = []
    x = training.inputs[:2]
    for layer in training.model.children():
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            sides.append(tuple(x.shape[1:]))
    assert sides == [(16, 28, 28), (32, 14, 14), (64, 7, 7)]


def test_gradients_vanish_through_the_sigmoid_layers_and_explode_through_the_large_ones() -> None:
    sigmoid, exploding = gradients_by_layer(training_of("deep-sigmoid")), gradients_by_layer(training_of("deep-exploding"))
    assert len(sigmoid) == len(exploding) == 21
    assert sigmoid["hidden_1"] < 1e-9 * sigmoid["output"]
    # Three times He's weights: signals grow threefold per layer, 3^21 = 1e10 in all, and the loss of wrong classes is of the size of the logits.
    assert min(exploding.values()) > 1e8
    assert max(exploding.values()) < 1e12


def test_no_character_sees_the_ones_after_it() -> None:
    training = training_of("char-transformer")
    windows = training.inputs[:3].clone()
    with torch.no_grad():
        before = training.model(windows)
        windows[:, 40:] = (windows[:, 40:] + 1) % before.shape[-1]
        after = training.model(windows)
    torch.testing.assert_close(after[:, :40], before[:, :40], rtol=0.0, atol=1e-5)
    assert (after[:, 40:] - before[:, 40:]).abs().amax(dim=(0, 2)).min() > 1e-3


def test_the_order_of_the_characters_matters_to_the_transformer() -> None:
    training = training_of("char-transformer")
    window = training.inputs[:1]
    turned = torch.cat((window[:, :10].flip(1), window[:, 10:]), dim=1)
    with torch.no_grad():
        assert (training.model(turned)[0, -1] - training.model(window)[0, -1]).abs().max() > 1e-5


def test_an_untrained_transformer_guesses_all_characters_alike() -> None:
    training = training_of("char-transformer")
    with torch.no_grad():
        logits = training.model(training.test_inputs[:64])
    assert logits.shape == (64, 64, 62)
    assert character_loss(logits, training.test_targets[:64]).item() == pytest.approx(math.log(62), rel=0.02)


def test_each_projection_of_attention_is_a_layer_of_its_own_and_the_head_is_not_tied() -> None:
    model = training_of("char-transformer").model
    shapes = {name: tuple(layer.weight.shape) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    assert [shapes[f"blocks.1.attention.{part}"] for part in ("query", "key", "value", "output")] == [(160, 160)] * 4
    assert shapes["blocks.0.expand"] == (640, 160)
    parameters = dict(model.named_parameters())
    assert parameters["head.weight"].data_ptr() != parameters["token.weight"].data_ptr()
    assert sum(p.numel() for p in parameters.values()) == 649_022
    # The outputs of the four residual branches start smaller by sqrt(4).
    assert parameters["blocks.0.contract.weight"].std().item() == pytest.approx(0.01, rel=0.02)
    assert parameters["blocks.0.expand.weight"].std().item() == pytest.approx(0.02, rel=0.02)


def directions_and_deviations() -> tuple[Tensor, Tensor]:
    """As the problem's docstring says it makes them."""
    generator = torch.Generator().manual_seed(4321)
    torch.randn(9216, 64, generator=generator, dtype=torch.float64)
    directions = torch.linalg.qr(torch.randn(64, 64, generator=generator, dtype=torch.float64)).Q
    variances = 10.0 ** (-6.0 * torch.arange(64, dtype=torch.float64) / 63.0)
    return directions, (64.0 * variances / variances.sum()).sqrt()


def test_the_inputs_have_the_stated_covariance() -> None:
    inputs, targets = ill_conditioned_data()
    directions, deviations = directions_and_deviations()
    whitened = inputs.double() @ directions / deviations
    # 9,216 samples of 64 independent variables: eigenvalues of their covariance within (1 +- sqrt(64 / 9216))^2 = 0.84 to 1.17 and a little beyond.
    eigenvalues = torch.linalg.eigvalsh(whitened.T @ whitened / len(whitened))
    assert eigenvalues.min() > 0.8
    assert eigenvalues.max() < 1.2
    assert (deviations[0] / deviations[-1]).item() ** 2 == pytest.approx(1e6, rel=1e-9)
    assert inputs.double().square().mean().item() == pytest.approx(1.0, rel=0.05)
    assert targets[:8192].double().std().item() == pytest.approx(1.0, rel=1e-3)


def test_the_teacher_is_within_reach_so_that_the_least_loss_is_zero() -> None:
    problem = build_ill_conditioned(4321)
    training = problem.training
    assert training is not None
    directions, deviations = directions_and_deviations()
    # The network of the data's own seed is the teacher before its outputs are scaled; its weights were drawn in float64.
    from secant.problems.ill_conditioned import _network
    from secant.problems.initialization import glorot_uniform, initialized

    student = initialized(_network, glorot_uniform, 4321, dtype=torch.float64)
    with torch.no_grad():
        hidden = student.get_parameter("hidden_1.weight")
        hidden.copy_(hidden @ (directions / deviations).T)
        outputs = student(training.inputs.double())
        student.get_parameter("output.weight").div_(outputs.std(correction=0))
        loss = training.loss(student(training.inputs.double()), training.targets.double()).item()
    # What is left is the rounding of the inputs to float32, magnified by the whitening.
    assert loss < 1e-9
    assert problem.reference == 0.0
