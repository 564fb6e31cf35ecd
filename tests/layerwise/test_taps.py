from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from secant.layerwise.sketching import Sketch
from secant.layerwise.taps import Taps

from .tapped import DOUBLE, SharedNet, captures, conv_net, dense_net, random

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def assert_same(taps: Taps, other: Taps) -> None:
    mine, theirs = captures(taps), captures(other)
    assert mine.keys() == theirs.keys()
    for name, capture in mine.items():
        assert capture.rows == theirs[name].rows
        torch.testing.assert_close(capture.inputs, theirs[name].inputs, **EXACT)
        torch.testing.assert_close(capture.outputs, theirs[name].outputs, **EXACT)


CONVOLUTIONS = {
    "plain": (lambda: nn.Conv2d(2, 3, 3), (2, 7, 8)),
    "stride, padding and dilation": (lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (2, 7, 8)),
    "same": (lambda: nn.Conv2d(2, 3, 3, padding="same", dilation=(1, 2)), (2, 7, 8)),
    "valid": (lambda: nn.Conv2d(2, 3, 3, padding="valid"), (2, 7, 8)),
    "circular": (lambda: nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="circular"), (2, 7, 8)),
    "reflected": (lambda: nn.Conv2d(2, 3, (2, 3), padding="same", padding_mode="reflect"), (2, 7, 8)),
    "one dimension": (lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 9)),
    "linear": (lambda: nn.Linear(4, 3), (4,)),
    "linear over tokens": (lambda: nn.Linear(4, 3), (5, 2, 4)),
}


def rows_of(layer: nn.Module, inputs: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Input and output rows written out: what the weight is multiplied by, and the gradient of what comes out."""
    if isinstance(layer, nn.Linear):
        return inputs.flatten(0, -2), gradient.flatten(0, -2)
    if isinstance(layer, nn.Conv1d):
        inputs, gradient = inputs.unsqueeze(2), gradient.unsqueeze(2)
    sizes = [(1, *size) if len(size) == 1 else size for size in (layer.kernel_size, layer.stride, layer.dilation)]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padding = layer.padding if isinstance(layer, nn.Conv2d) else (0, *layer.padding)
    if padding == "same":
        total = [dilation * (size - 1) for dilation, size in zip(sizes[2], sizes[0], strict=True)]
        ahead = [total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2]
    else:
        ahead = [0] * 4 if padding == "valid" else [padding[1], padding[1], padding[0], padding[0]]
    patches = functional.unfold(functional.pad(inputs, ahead, mode=mode), sizes[0], stride=sizes[1], dilation=sizes[2])
    return patches.transpose(1, 2).flatten(0, 1), gradient.flatten(2).transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_means_are_those_of_the_rows_written_out(case: str, memory_format: torch.memory_format) -> None:
    make, shape = CONVOLUTIONS[case]
    layer = make().to(DOUBLE)
    inputs = random(6, *shape)
    if inputs.dim() == 4:
        inputs = inputs.contiguous(memory_format=memory_format)
    taps = Taps(layer, sketch=Sketch.MEAN)
    output = layer(inputs)
    output.retain_grad()
    (output * random(*output.shape, seed=1)).sum().backward()
    input_rows, output_rows = rows_of(layer, inputs, output.grad)
    capture = captures(taps)["weight"]
    assert capture.rows == len(input_rows)
    torch.testing.assert_close(output_rows.T @ input_rows, layer.weight.grad.flatten(1), **EXACT)
    torch.testing.assert_close(capture.inputs.squeeze(1), input_rows.mean(0), **EXACT)
    torch.testing.assert_close(capture.outputs.squeeze(1), output_rows.sum(0), **EXACT)
    torch.testing.assert_close(capture.outputs.squeeze(1), layer.bias.grad, **EXACT)
    assert capture.input_square == pytest.approx(float(input_rows.mean(0).square().sum()), rel=1e-12)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_signed_sums_are_unbiased_estimates_of_the_second_moments(case: str) -> None:
    """4,000 independent vectors each. The largest of the z-scores of all elements stays below 5: by chance once in about a thousand choices of the seed."""
    make, shape = CONVOLUTIONS[case]
    layer = make().to(DOUBLE)
    inputs, columns, repeats = random(4, *shape), 32, 125
    taps = Taps(layer, columns=columns)
    output = layer(inputs)
    weights = random(*output.shape, seed=1) / output.numel()
    input_rows, output_rows = rows_of(layer, inputs, weights)
    rows = len(input_rows)
    expected = [input_rows.T @ input_rows / rows, output_rows.T @ output_rows * rows]
    samples: list[list[Tensor]] = [[], []]
    for step in range(repeats):
        taps.clear()
        taps.step = step
        (layer(inputs) * weights).sum().backward()
        capture = captures(taps)["weight"]
        for kept, vectors in zip(samples, (capture.inputs, capture.outputs), strict=True):
            kept.append(columns * torch.einsum("ar,br->rab", vectors, vectors))
    for kept, moment in zip(samples, expected, strict=True):
        products = torch.cat(kept)
        error = products.std(0) / len(products) ** 0.5
        exact_everywhere = error < 1e-9 * moment.abs().amax()
        scores = ((products.mean(0) - moment) / error)[~exact_everywhere]
        torch.testing.assert_close(products.mean(0)[exact_everywhere], moment[exact_everywhere], rtol=1e-9, atol=1e-9 * float(moment.abs().amax()))
        assert float(scores.abs().max()) < 5.0


@pytest.mark.parametrize("sketch", Sketch)
@pytest.mark.parametrize("make", [dense_net, conv_net, SharedNet])
@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_give_the_capture_of_the_large_batch(make: type[nn.Module], sketch: Sketch, micro_batches: int) -> None:
    model = make()
    shape = (8, 2, 8, 8) if make is conv_net else (8, 6)
    whole = Taps(model, sketch=sketch)
    model(random(*shape)).square().mean().backward()
    whole.remove()
    parts = Taps(model, sketch=sketch)
    for part in random(*shape).chunk(micro_batches):
        (model(part).square().mean() / micro_batches).backward()
    assert_same(whole, parts)


def test_uneven_micro_batches_count_by_their_rows() -> None:
    model = dense_net()
    whole = Taps(model)
    model(random(8, 6)).square().sum().backward()
    whole.remove()
    parts = Taps(model)
    for part in random(8, 6).split([5, 1, 2]):
        model(part).square().sum().backward()
    assert_same(whole, parts)


def test_uses_of_one_weight_are_summed_under_signs_of_their_own() -> None:
    model, expected = SharedNet(), torch.zeros(6, 6, dtype=DOUBLE)
    taps, inputs = Taps(model, columns=32), random(3, 6)
    uses: list[Tensor] = []
    for layer in (model.first, model.second):
        layer.register_forward_hook(lambda _, arguments, __: uses.append(arguments[0].detach()))
    average, steps = torch.zeros_like(expected), 60
    for step in range(steps):
        taps.clear()
        taps.step = step
        uses.clear()
        model(inputs).sum().backward()
        capture = captures(taps)["first.weight"]
        assert capture.rows == 9
        average += capture.inputs @ capture.inputs.T / steps
    rows = torch.cat(uses)
    expected = rows.T @ rows / 9
    cross = (rows[:3].T @ rows[3:6]) / 9
    assert float((average - expected).norm()) < 0.05 * float(expected.norm())
    assert float(cross.norm()) > 0.1 * float(expected.norm())  # so that shared signs, which would add it, would have been seen


def test_passes_without_a_backward_pass_leave_nothing() -> None:
    model = dense_net()
    taps = Taps(model)
    with torch.no_grad():
        model(random(4, 6))
    model.eval()
    model(random(4, 6))
    with taps.paused():
        model(random(4, 6)).sum().backward()
    weights = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    torch.func.functional_call(model, weights, random(4, 6)).sum().backward()
    assert float(taps.norms().abs().sum()) == 0.0
    model(random(4, 6)).sum().backward()
    assert all(capture.rows == 4 for capture in captures(taps).values())


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpoints_do_not_count_twice(use_reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = dense_net()

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = checkpoint(self.inner[:2], inputs, use_reentrant=use_reentrant)
            return checkpoint(self.inner[2:], hidden, use_reentrant=use_reentrant)

    plain = dense_net()
    whole = Taps(plain)
    plain(random(8, 6)).square().mean().backward()
    model = Checkpointed()
    parts = Taps(model)
    for part in random(8, 6).chunk(2):
        (model(part.requires_grad_()).square().mean() / 2).backward()
    for mine, theirs in zip(captures(whole).values(), captures(parts).values(), strict=True):
        torch.testing.assert_close(mine.inputs, theirs.inputs, **EXACT)
        torch.testing.assert_close(mine.outputs, theirs.outputs, **EXACT)


def test_two_backward_passes_through_one_graph_add_their_output_gradients() -> None:
    model = dense_net()
    taps = Taps(model, sketch=Sketch.MEAN)
    outputs = model(random(4, 6))
    outputs[:, 0].sum().backward(retain_graph=True)
    outputs[:, 1:].sum().backward()
    torch.testing.assert_close(captures(taps)["0.weight"].outputs.squeeze(1), model[0].bias.grad, **EXACT)


def test_an_in_place_activation_after_the_layer_changes_nothing() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 5, dtype=DOUBLE), nn.Linear(5, 2, dtype=DOUBLE)]
    plain, in_place = nn.Sequential(layers[0], nn.ReLU(), layers[1]), nn.Sequential(layers[0], nn.ReLU(inplace=True), layers[1])
    taps = Taps(plain)
    plain(random(4, 6)).sum().backward()
    taps.remove()
    other = Taps(in_place)
    in_place(random(4, 6)).sum().backward()
    assert_same(taps, other)


def test_what_cannot_be_tapped_is_left_out_by_name() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Embedding(7, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.norm = nn.LayerNorm(8)
            self.grouped = nn.Conv1d(8, 8, 3, groups=2)
            self.recurrent = nn.GRU(8, 8)
            self.scaled = torch.nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
            self.kept = nn.Linear(8, 8)
            self.head = nn.Linear(8, 7, bias=False)
            self.head.weight = self.token.weight
            self.scale = nn.Parameter(torch.ones(()))

    taps = Taps(Mixed())
    assert list(taps.weights) == ["kept.weight"]
    expected = {"token", "attention", "attention.out_proj", "norm", "grouped", "recurrent", "scaled", "scaled.parametrizations.weight", "head"}
    assert set(taps.left_out) == expected | {"the model itself"}
    assert taps.left_out["token"] == "Embedding"


def test_excluded_and_frozen_weights_are_not_captured() -> None:
    model = dense_net()
    model[2].requires_grad_(False)
    taps = Taps(model, exclude=("4.*",))
    model(random(4, 6)).sum().backward()
    assert list(captures(taps)) == ["0.weight"]
    model[2].requires_grad_(True)
    model(random(4, 6)).sum().backward()
    assert list(captures(taps)) == ["0.weight", "2.weight"]
    assert not taps.left_out


def test_weights_with_too_large_a_side_are_left_out_by_name() -> None:
    taps = Taps(dense_net(), largest_inputs=5, largest_outputs=3)
    assert list(taps.weights) == ["4.weight"]
    assert taps.left_out == {"0": "Linear", "2": "Linear"}


def test_half_precision_and_autocast_are_captured_in_float32() -> None:
    model = dense_net(torch.float32)
    taps = Taps(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(random(4, 6, dtype=torch.float32)).float().sum()
    loss.backward()
    exact = Taps(model.bfloat16())
    assert {capture.inputs.dtype for capture in captures(taps).values()} == {torch.float32}
    model(random(4, 6).bfloat16()).float().sum().backward()
    assert {capture.outputs.dtype for capture in captures(exact).values()} == {torch.float32}


def test_a_copied_or_saved_model_has_taps_of_its_own() -> None:
    model = dense_net()
    taps = Taps(model)
    twin = copy.deepcopy(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for other in (twin, loaded):
        other(random(4, 6)).sum().backward()
    assert float(taps.norms().abs().sum()) == 0.0


def test_removed_taps_hear_nothing() -> None:
    model = dense_net()
    with pytest.raises(ValueError, match="columns"):
        Taps(model, columns=33)
    taps = Taps(model)
    taps.remove()
    model(random(4, 6)).sum().backward()
    assert not model._forward_pre_hooks
    assert float(taps.norms().abs().sum()) == 0.0


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.Sequential(nn.LayerNorm(3)), {}, "can be tapped"),
        (nn.Sequential(nn.Linear(3, 3)), {"exclude": ("0.*",)}, "not excluded"),
        (nn.Sequential(nn.Linear(3, 3)), {"exclude": ("1.*",)}, "matches none. The names are 0.weight"),
        (nn.Sequential(nn.Linear(3, 3)), {"columns": 0}, "columns"),
        (nn.Sequential(nn.Linear(3, 3)), {"columns": 2, "sketch": Sketch.MEAN}, "columns=1"),
    ],
)
def test_options_without_a_meaning_are_refused(model: nn.Module, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Taps(model, **options)


def test_a_lazy_layer_is_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match="forward pass"):
        Taps(nn.Sequential(nn.LazyLinear(3)))
