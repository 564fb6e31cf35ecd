"""One fixed sequence of steps along ``-H g`` for every oracle: their matrices and ours are corrected with the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np

LENGTHS = (0.01, 0.2, 0.9, 1.0, 0.6, 0.3)
FIXTURE = Path(__file__).parent / "ssbroyden_optimistix.json"


class Oracle(Protocol):
    """An implementation that is corrected with two evaluated points."""

    def inverse(self) -> np.ndarray: ...

    def correct(self, x: np.ndarray, gradient: np.ndarray, new_x: np.ndarray, new_gradient: np.ndarray) -> None: ...


def rosenbrock_gradient(x: np.ndarray) -> np.ndarray:
    gradient = np.zeros_like(x)
    gap = x[1:] - x[:-1] ** 2
    gradient[:-1] = -400.0 * x[:-1] * gap - 2.0 * (1.0 - x[:-1])
    gradient[1:] += 200.0 * gap
    return gradient


def quadratic_gradient(x: np.ndarray) -> np.ndarray:
    return np.logspace(-1.0, 1.0, x.size) * x + 0.1 * x.sum()


GRADIENTS = {"rosenbrock": rosenbrock_gradient, "quadratic": quadratic_gradient}


def steps(gradient_of: str, n: int, oracle: Oracle) -> list[dict[str, Any]]:
    """Six steps of prescribed lengths along the oracle's own direction, halved until the curvature is clearly positive."""
    gradient = GRADIENTS[gradient_of]
    x = np.linspace(0.4, 1.3, n)
    rows = []
    for length in LENGTHS:
        g = gradient(x)
        direction = -oracle.inverse() @ g
        length = min(length, 0.5 / float(np.linalg.norm(direction)))
        moved = x + length * direction
        for _ in range(30):
            if (moved - x) @ (gradient(moved) - g) > 1e-3 * np.linalg.norm(moved - x) * np.linalg.norm(gradient(moved) - g):
                break
            length *= 0.5
            moved = x + length * direction
        assert np.isfinite(moved).all()
        oracle.correct(x, g, moved, gradient(moved))
        rows.append(
            {"x": x.tolist(), "gradient": g.tolist(), "new_x": moved.tolist(), "new_gradient": gradient(moved).tolist(), "inverse": oracle.inverse().tolist()}
        )
        x = moved
    return rows


def recorded() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(FIXTURE.read_text(encoding="utf-8"))
    return loaded
