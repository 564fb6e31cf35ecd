"""K-FAC: natural gradient with a Kronecker-factored Fisher matrix, written out here because none can be installed that is a fair opponent.

``singd`` 0.0.5 has the inverse-free forms. Its IKFAC diverged on two of three small nets with corrections of 0.05, and with 0.01 ended at 1.6 to a hundred
times the loss of what is below; its INGD needs a correction at every step, eight times forward and backward on ``mnist-mlp`` at batch 64. The K-FAC of
``curvlinops`` is a linear operator that evaluates model and loss on data of its own, which an optimizer is not given; it serves as the oracle of the tests.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secant.layerwise.sketching import has_rows
from secant.race.batch_method import batch_method
from secant.race.method import Origin
from secant.race.peers.combined import Combined
from secant.race.techniques import Decay, Hyperparameters

_RATES = (3e-3, 1e-2, 3e-2, 1e-1)
_REST = 0.1
"""Learning rate of AdamW for what has no factors, in that of K-FAC: its grid is then AdamW's."""


@dataclass(slots=True, eq=False)
class _Capture:
    """Sums over what a layer saw since the last step: ``sum a a'`` of its input rows and ``sum d d'`` of its output gradients, which are of the mean loss."""

    inputs: Tensor | None = None
    outputs: Tensor | None = None
    rows: int = 0
    terms: int = 0

    @torch.no_grad()
    def add(self, layer: nn.Linear | nn.Conv2d, inputs: Tensor, gradient: Tensor) -> None:
        """Take one call of the layer into the sums."""
        if isinstance(layer, nn.Conv2d):
            patches = nn.functional.unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
            a, d = patches.transpose(1, 2).flatten(0, 1), gradient.flatten(2).transpose(1, 2).flatten(0, 1)
        else:
            a, d = inputs.reshape(-1, inputs.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
        if layer.bias is not None:
            a = torch.cat([a, a.new_ones(len(a), 1)], 1)
        self.inputs = a.T @ a if self.inputs is None else self.inputs.addmm_(a.T, a)
        self.outputs = d.T @ d if self.outputs is None else self.outputs.addmm_(d.T, d)
        self.rows += len(a)
        self.terms += len(inputs) if isinstance(layer, nn.Conv2d) else len(a)


@final
class KFAC(Optimizer):
    """The natural gradient of linear and convolutional layers with ``F = A (x) S`` for each, momentum, and a limit on the step in the norm of ``F``.

    With input rows ``a`` (a one appended for the bias) and per-sample output gradients ``g``, ``A`` and ``S`` are moving averages of the means of ``a a'`` and
    ``g g'``. The gradient ``G`` of weight and bias becomes ``(S + sqrt(damping) / p I)^-1 G (A + p sqrt(damping) I)^-1`` with ``p^2`` the ratio of the mean
    eigenvalues of ``A`` and ``S``, shortened so that ``lr^2`` times its product with the gradient is at most ``clip``. The factors are corrected and inverted
    every few steps. Gradients of the true labels stand for those of sampled ones (empirical Fisher), as in the published implementations for torch.

    Rows of a linear layer, tokens too, count as samples of the mean loss, and so do the samples, not the places, of a convolution. Micro-batches of one step
    add up to the joint batch. The hooks stay on the layers.

    Args:
        layers: Each applied by calling it, with a weight of its own.
        lr: Learning rate.
        momentum: Of the preconditioned gradients.
        weight_decay: Decoupled, times ``lr``.
        damping: Added to the factors.
        decay: Of the moving averages.
        every: Steps between two corrections of the factors.
        clip: Largest ``lr^2 G . F^-1 G``.

    Source:
        Martens and Grosse (2015), arXiv 1503.05671, section 6.3 for ``p``; Grosse and Martens (2016), arXiv 1602.01407, for convolutions; Eschenhagen et al.
        (2023), arXiv 2311.00636, "expand", for tokens; Ba, Grosse and Martens (2017), "Distributed second-order optimization using Kronecker-factored
        approximations", for ``clip``.
    """

    def __init__(
        self,
        layers: Iterable[nn.Linear | nn.Conv2d],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        damping: float = 0.03,
        decay: float = 0.95,
        every: int = 10,
        clip: float = 1e-3,
    ) -> None:
        self._captures = {layer: _Capture() for layer in layers}
        parameters = [parameter for layer in self._captures for parameter in layer.parameters()]
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": 0})
        self._damping, self._decay, self._every, self._clip = damping, decay, every, clip
        for layer in self._captures:
            layer.register_forward_hook(self._listen)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step; the gradients and the captures of the passes since the last one are there, or come from the closure.

        Raises:
            RuntimeError: A layer has a gradient, but its hook has not run; or a factor cannot be inverted, because it is not finite.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        (group,) = self.param_groups
        trained = [layer for layer in self._captures if layer.weight.grad is not None]
        if self._is_due():
            for layer in trained:
                self._correct(layer)
        gradients = [_joint(layer) for layer in trained]
        directions = [
            self.state[layer.weight]["outputs_inverse"] @ g @ self.state[layer.weight]["inputs_inverse"] for layer, g in zip(trained, gradients, strict=True)
        ]
        if trained:
            square = group["lr"] ** 2 * torch.stack([(d * g).sum() for d, g in zip(directions, gradients, strict=True)]).sum()
            shorten = (self._clip / square).sqrt().clamp(max=1.0)
            for layer, direction in zip(trained, directions, strict=True):
                self._move(layer, direction.mul_(shorten), group)
        group["steps"] += 1
        return loss

    def _is_due(self) -> bool:
        steps: int = self.param_groups[0]["steps"]
        return steps % self._every == 0

    def _listen(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        if self._is_due() and output.requires_grad:
            output.register_hook(partial(self._captures[layer].add, layer, inputs[0].detach()))  # type: ignore[no-untyped-call]

    def _correct(self, layer: nn.Linear | nn.Conv2d) -> None:
        """Take the capture into the factors, and invert them with their damping."""
        seen, self._captures[layer] = self._captures[layer], _Capture()
        if seen.inputs is None or seen.outputs is None:
            raise RuntimeError("K-FAC expected its hook on every layer with a gradient to have run. Build it before the model is compiled.")
        state = self.state[layer.weight]
        for name, mean in (("inputs", seen.inputs / seen.rows), ("outputs", seen.outputs * seen.terms)):
            state[name] = mean if name not in state else state[name].lerp_(mean, 1.0 - self._decay)
        a, s = state["inputs"], state["outputs"]
        tiny = torch.finfo(a.dtype).tiny
        p = ((a.trace() / len(a)).clamp_min(tiny) / (s.trace() / len(s)).clamp_min(tiny)).sqrt()
        state["inputs_inverse"] = _damped_inverse(a, p * math.sqrt(self._damping))
        state["outputs_inverse"] = _damped_inverse(s, math.sqrt(self._damping) / p)

    def _move(self, layer: nn.Linear | nn.Conv2d, direction: Tensor, group: dict[str, Any]) -> None:
        state = self.state[layer.weight]
        state["momentum"] = direction if "momentum" not in state else state["momentum"].mul_(group["momentum"]).add_(direction)
        for parameter in layer.parameters():
            parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        weight, bias = layer.weight, layer.bias
        weight.sub_(state["momentum"][:, : weight[0].numel()].reshape(weight.shape), alpha=group["lr"])
        if bias is not None:
            bias.sub_(state["momentum"][:, -1], alpha=group["lr"])


def factored_layers(model: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    """The layers that K-FAC can treat: linear ones and ungrouped, zero-padded 2-d convolutions, all of whose parameters are their own and trained."""
    owners = Counter(parameter for module in model.modules() for parameter in module.parameters(recurse=False))
    attention = {part for module in model.modules() if isinstance(module, nn.MultiheadAttention) for part in module.modules()}
    return [
        module
        for module in model.modules()
        if (isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.padding_mode == "zeros" and not isinstance(module.padding, str)))
        and has_rows(module)
        and module not in attention
        and all(owners[parameter] == 1 and parameter.requires_grad for parameter in module.parameters(recurse=False))
    ]


def _joint(layer: nn.Linear | nn.Conv2d) -> Tensor:
    """The gradient of weight and bias as one matrix."""
    assert layer.weight.grad is not None
    matrix = layer.weight.grad.flatten(1)
    return matrix if layer.bias is None or layer.bias.grad is None else torch.cat([matrix, layer.bias.grad[:, None]], 1)


def _damped_inverse(factor: Tensor, damping: Tensor) -> Tensor:
    """``(factor + damping I)^-1``, with no less damping than rounding needs: the largest eigenvalue is at most the trace."""
    damping = damping.clamp_min(8.0 * torch.finfo(factor.dtype).eps * factor.trace())
    damped = factor.clone()
    damped.diagonal().add_(damping)
    return torch.cholesky_inverse(torch.linalg.cholesky(damped))


def _kfac(model: nn.Module, wanted: Hyperparameters) -> Optimizer:
    layers = factored_layers(model)
    if not layers:
        raise ValueError("K-FAC needs a linear layer or a convolution that it can treat, got a model with none. Use AdamW.")
    momentum, decay = 0.9 if wanted.momentum is None else wanted.momentum, wanted.weight_decay or 0.0
    kfac = KFAC(layers, wanted.lr, momentum=momentum, weight_decay=decay)
    taken = {parameter for layer in layers for parameter in layer.parameters()}
    rest = [parameter for parameter in model.parameters() if parameter not in taken and parameter.requires_grad]
    return Combined(kfac, torch.optim.AdamW(rest, _REST * wanted.lr, weight_decay=decay, fused=True)) if rest else kfac


METHODS = (
    batch_method(
        "kfac",
        "K-FAC (Martens, Grosse 2015) of linear and convolutional layers, factors every 10 steps.",
        Origin.PEER,
        _kfac,
        _RATES,
        settings={
            "class": "secant.race.peers.kfac.KFAC",
            "momentum": 0.9,
            "damping": 0.03,
            "decay": 0.95,
            "every": 10,
            "clip": 1e-3,
            "fisher": "empirical",
            "tokens": "expand",
            "rest": "embeddings, norms: torch.optim.AdamW, 0.1 times the lr, betas 0.9, 0.999, eps 1e-08, fused",
        },
        takes_momentum=True,
        decay=Decay.DECOUPLED,
    ),
)
