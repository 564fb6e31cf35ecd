"""The hooks that a model has of itself, apart from those that a method hangs on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, final

from torch import nn

_KINDS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
"""Where torch.nn.Module keeps them; torch offers no public way to list or to hide hooks."""

_Contents: TypeAlias = list[tuple[dict[Any, Any], dict[Any, Any]]]


@final
class OwnHooks:
    """Remembers the hooks of a model, so that those of a method can be hidden while it is measured, and taken off when its run is over."""

    def __init__(self, model: nn.Module) -> None:
        """Remember the present hooks as the model's own."""
        self._own = _contents(model)
        self._model = model

    def restore(self) -> None:
        """Take off every other hook."""
        _write(self._own)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Every other hook is gone inside the block."""
        present = _contents(self._model)
        _write(self._own)
        try:
            yield
        finally:
            _write(present)


def _contents(model: nn.Module) -> _Contents:
    """Each dictionary with a copy of what it holds."""
    dictionaries = [getattr(module, kind) for module in model.modules() for kind in _KINDS]
    return [(dictionary, dict(dictionary)) for dictionary in dictionaries]


def _write(contents: _Contents) -> None:
    """In place: the handles that remove a hook know its dictionary."""
    for dictionary, content in contents:
        dictionary.clear()
        dictionary.update(content)
