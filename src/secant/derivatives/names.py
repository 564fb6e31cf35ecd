"""Names of derivatives: letters or tuples of coordinate names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from secant.derivatives.algebra import HIGHEST_ORDER, LAPLACIAN, Combination, Index, MultiIndex

Name = str | tuple[str, ...] | Mapping[str, float] | Mapping[tuple[str, ...], float]
"""``""`` the value, ``"xt"`` or ``("x", "t")`` a derivative, ``"laplacian"`` the sum of the second derivatives by all coordinates, ``{"t": 1.0, "xx": -0.1}`` a
weighted sum."""


def coordinate_names(coordinates: str | Sequence[str]) -> tuple[str, ...]:
    """One name per coordinate; a string has one letter for each.

    Raises:
        ValueError: For no names, an empty one, one twice, or ``"laplacian"``.
    """
    names = tuple(coordinates) if isinstance(coordinates, Sequence) else ()
    if not names or len(set(names)) < len(names) or not all(isinstance(name, str) and name and name != "laplacian" for name in names):
        raise ValueError(f'A field needs different names for its coordinates, such as "tx" or ("time", "x"), none of them "laplacian", got {coordinates!r}.')
    return names


def index_of(name: Name, coordinates: Sequence[str]) -> Index:
    """What a name, or a weighted sum of names, stands for.

    Raises:
        ValueError: For a coordinate that does not exist, an order above 4, and a sum of nothing or with the value in it.
    """
    if not isinstance(name, Mapping):
        return axes_of(name, coordinates)
    weights: dict[MultiIndex, float] = {}
    for part, weight in name.items():
        axes = axes_of(part, coordinates)
        for term in [(axis, axis) for axis in range(len(coordinates))] if axes == LAPLACIAN else [axes]:
            weights[term] = weights.get(term, 0.0) + float(weight)
    if not weights or () in weights:
        raise ValueError(f"A weighted sum needs derivatives, got {dict(name)!r}. Ask for the value beside it, and add it in the equation.")
    return Combination(tuple(sorted(weights.items())))


def axes_of(name: str | tuple[str, ...], coordinates: Sequence[str]) -> MultiIndex:
    """The multi-index of a derivative's name.

    Raises:
        ValueError: For a coordinate that does not exist, or an order above 4.
    """
    if name == "laplacian":
        return LAPLACIAN
    parts = (name,) if isinstance(name, str) and name in coordinates else tuple(name)
    for part in parts:
        if part not in coordinates:
            raise ValueError(
                f"Derivative {name!r} needs the coordinates {', '.join(map(repr, coordinates))}, got {part!r}. "
                'Use "" for the value, letters such as "xx" for coordinates of one letter, tuples such as ("time", "x") for longer names, or "laplacian".'
            )
    if len(parts) > HIGHEST_ORDER:
        raise ValueError(
            f"Derivatives go up to order {HIGHEST_ORDER}, got {name!r} of order {len(parts)}. Differentiate the lower ones by torch.autograd.grad."
        )
    return tuple(sorted(coordinates.index(part) for part in parts))
