"""Entrants that learn from batches: a torch optimizer over a grid of learning rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from secant.race.method import BatchVariant, BuildOptimizer, Keeps, Method, Origin
from secant.race.records import Setting
from secant.race.techniques import Decay


def batch_method(
    name: str,
    summary: str,
    origin: Origin,
    build: BuildOptimizer,
    rates: Sequence[float],
    *,
    settings: Mapping[str, Setting],
    takes_momentum: bool,
    decay: Decay,
    needs: tuple[str, ...] = (),
    remedy: str = "",
    packages: tuple[str, ...] = (),
) -> Method:
    """An entrant that learns from batches.

    Args:
        name: What the user types. A method of the same name that takes the full batch stays what it is on problems without training data.
        summary: One line for the list of methods; the grid is added to it.
        origin: Ours or a peer.
        build: Makes the optimizer of a model from its :class:`~secant.race.techniques.Hyperparameters`. The optimizer has ``step()``, ``zero_grad()``,
            ``param_groups`` with their ``lr``, and ``state_dict()``; it may count the steps that it left out in an integer attribute ``skipped_steps``.
        rates: The grid of learning rates, each of which gets the whole budget.
        settings: What ``build`` does that a learning rate, a momentum and a weight decay do not say, for the record: at least ``"class"``.
        takes_momentum: Whether ``build`` heeds ``momentum``.
        decay: What ``build`` does with ``weight_decay``; with ``NONE`` a race with weight decay refuses the method.
        needs: Modules that must be installed.
        remedy: The command that installs them.
        packages: Distributions whose version belongs in the record.

    Raises:
        ValueError: If there is no rate, or one is not positive.
    """
    if not rates or min(rates) <= 0.0:
        raise ValueError(f"{name} needs a grid of positive learning rates, got {tuple(rates)}.")
    variants = tuple(_variant(rate, settings, build) for rate in rates)
    grid = f"{summary.rstrip('.')}, best of {', '.join(f'{rate:g}' for rate in rates)}." if len(rates) > 1 else summary
    return Method(
        name,
        grid,
        origin,
        variants,
        Keeps.LAST,
        needs=needs,
        remedy=remedy,
        packages=packages,
        takes_momentum=takes_momentum,
        decay=decay,
    )


def with_rates(method: Method, rates: Sequence[float]) -> Method:
    """The same method over another grid of learning rates; a method that takes the full batch comes back as it is."""
    first = method.variants[0]
    if not isinstance(first, BatchVariant):
        return method
    return dataclasses.replace(method, variants=tuple(_variant(rate, first.settings, first.build) for rate in rates))


def _variant(rate: float, settings: Mapping[str, Setting], build: BuildOptimizer) -> BatchVariant:
    return BatchVariant(f"lr={rate:g}", {**settings, "lr": rate, "keeps": Keeps.LAST.value}, rate, build)
