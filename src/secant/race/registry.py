"""All methods that can enter a race, by name."""

from __future__ import annotations

from collections.abc import Sequence

from secant.race.errors import UsageError, unknown_name
from secant.race.method import Method
from secant.race.own import own_methods
from secant.race.peers import peer_methods


def all_methods() -> dict[str, Method]:
    """Every method, ours first, installed or not."""
    return {method.name: method for method in [*own_methods(), *peer_methods()]}


def select_methods(names: Sequence[str]) -> list[Method]:
    """The named methods, in the order given and each once.

    Raises:
        UsageError: If a name is unknown, none is given, or a method is not installed.
    """
    known = all_methods()
    if not names:
        raise UsageError("No method was named.", "`secant methods` lists all")
    for name in names:
        if name not in known:
            raise unknown_name("method", name, known, "secant methods")
        if not known[name].is_installed:
            raise UsageError(f"The method {name!r} is not installed.", known[name].remedy)
    return [known[name] for name in dict.fromkeys(names)]
