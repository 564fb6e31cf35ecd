"""All methods that can enter a race, by name."""

from __future__ import annotations

from collections.abc import Sequence

from secant.race.errors import UsageError, unknown_name
from secant.race.method import Feed, Method
from secant.race.own import own_methods
from secant.race.peers import peer_methods


def all_methods() -> dict[str, tuple[Method, ...]]:
    """Every method by name, ours first, installed or not. A name stands for one method per feed: first-order methods take the full batch or batches."""
    forms: dict[str, tuple[Method, ...]] = {}
    for method in [*own_methods(), *peer_methods()]:
        forms[method.name] = (*forms.get(method.name, ()), method)
    return forms


def methods_for(*, trains: bool) -> dict[str, Method]:
    """The methods that can run on a problem, by name, installed or not.

    Args:
        trains: Whether the problem has training data. If so, a method that takes batches is given batches; without, it takes the full batch or stays out.
    """
    chosen = {}
    for name, forms in all_methods().items():
        by_feed = {method.feed: method for method in forms}
        method = (by_feed.get(Feed.BATCH) if trains else None) or by_feed.get(Feed.FULL_BATCH)
        if method is not None:
            chosen[name] = method
    return chosen


def select_methods(names: Sequence[str], *, trains: bool = False) -> list[Method]:
    """The named methods, in the order given and each once.

    Args:
        names: What the user typed.
        trains: Whether the problem has training data; see :func:`methods_for`.

    Raises:
        UsageError: If a name is unknown, none is given, a method is not installed, or it learns from batches and the problem has none.
    """
    known, possible = all_methods(), methods_for(trains=trains)
    if not names:
        raise UsageError("No method was named.", "`secant methods` lists all")
    for name in names:
        if name not in known:
            raise unknown_name("method", name, known, "secant methods")
        if name not in possible:
            raise UsageError(f"The method {name!r} learns from batches, and this problem has no training data.", _PROBLEMS_HINT)
        if not possible[name].is_installed:
            raise UsageError(f"The method {name!r} is not installed.", possible[name].remedy)
    return [possible[name] for name in dict.fromkeys(names)]


_PROBLEMS_HINT = "choose a problem that is trained by batches, such as mnist-mlp, or a method that takes the full batch, such as ssbroyden"
