"""Where an equation is asked: points drawn anew where its residual is large."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Generator, Tensor
from torch.quasirandom import SobolEngine

Sampler = Callable[[int, Generator], Tensor]
"""``sampler(count, generator)`` returns points of shape ``(count, d)``, all randomness taken from the generator, which lives on the CPU."""

_CANDIDATES = 10  # for each point that is drawn


@final
class RAD:
    """Residual-based adaptive distribution: points drawn where the residual ``r`` of the equation is large.

    Out of fresh candidates ``x``, ``count`` different ones are drawn with probabilities that follow

        p(x) = |r(x)|^exponent / E|r|^exponent + offset

    where ``E`` is the mean over the candidates. A small offset or a large exponent puts the points where the residual is largest; ``offset=inf`` draws evenly.

    A full-batch method on fixed points fits the points, not the equation. Drawing new ones now and then keeps it honest, and it keeps what it knows of the
    curvature::

        collocation = RAD(sobol_in((0.0, -1.0), (1.0, 1.0)), count=3000)
        interior = PointResidual(field, collocation.begin(), equation, ("", "t", "x", "xx"))
        for step in range(10_000):
            optimizer.step(closure)
            if step % 500 == 499:
                with torch.no_grad():
                    interior.replace_points(collocation.resample(lambda points: equation(points, *field.derivatives(points, ("", "t", "x", "xx")))))
                optimizer.objective_changed()

    Args:
        draw_candidates: Points of the domain, whatever its shape: :func:`uniform_in` and :func:`sobol_in` for boxes, or any function
            ``(count, generator) -> (count, d)`` that takes its randomness from the generator.
        count: Points that are drawn.
        candidates: Points they are drawn from; None for 10 times ``count``.
        exponent: Of the residual, not negative. The source recommends 1 or 2.
        offset: Not negative. The source recommends 0 or 1.
        kept: Share of the points, at least 0 and less than 1, that stay from one drawing to the next: those with the largest residuals.
        seed: Of everything random.

    Raises:
        ValueError: An option is out of range.

    Source:
        Wu, Zhu, Tan, Kartha & Lu (2023), Comput. Methods Appl. Mech. Eng. 403, arXiv 2207.10289, method RAD. Departure: ``kept``, which is 0 there.
    """

    def __init__(
        self,
        draw_candidates: Sampler,
        count: int,
        *,
        candidates: int | None = None,
        exponent: float = 1.0,
        offset: float = 1.0,
        kept: float = 0.0,
        seed: int = 0,
    ) -> None:
        candidates = _CANDIDATES * count if candidates is None else candidates
        if not 0 < count <= candidates:
            raise ValueError(f"RAD needs 0 < count <= candidates, got count={count}, candidates={candidates}.")
        if not 0.0 <= exponent < math.inf or not offset >= 0.0:
            raise ValueError(f"RAD needs 0 <= exponent < inf and offset >= 0, got exponent={exponent}, offset={offset}.")
        if not 0.0 <= kept < 1.0:
            raise ValueError(f"RAD needs 0 <= kept < 1, the share of the points that stay, got kept={kept}.")
        self._draw_candidates = draw_candidates
        self._count = count
        self._candidates = candidates
        self._exponent = exponent
        self._offset = offset
        self._staying = min(int(kept * count), count - 1)
        self._generator = Generator().manual_seed(seed)
        self._points: Tensor | None = None

    @property
    def points(self) -> Tensor | None:
        """The points drawn last, shape ``(count, d)``; None before the first drawing."""
        return self._points

    def begin(self) -> Tensor:
        """The first points, as the sampler gives them, for a start before any residual is known; shape ``(count, d)``."""
        self._points = self._sampled(self._count)
        return self._points

    def resample(self, residual_at: Callable[[Tensor], Tensor]) -> Tensor:
        """New points.

        Args:
            residual_at: The residual at points of shape ``(N, d)``: ``(N,)``, or ``(N, m)``, whose Euclidean norm counts. It is called with at most ``count``
                points at a time, so that it needs no more memory than a training step. Points where it is not finite are never drawn.

        Returns:
            Shape ``(count, d)``: first the points that stay, largest residual first, then the new ones. They carry no graph.

        Raises:
            ValueError: The sampler or the residual returns a wrong shape, or fewer candidates can be drawn than are needed.
        """
        candidates = self._sampled(self._candidates)
        staying = candidates[:0] if self._points is None else self._largest(self._points, residual_at)
        wanted = self._count - len(staying)
        scores = self._log_density(self._residual(candidates, residual_at))
        drawable = int((scores > -math.inf).sum())
        if drawable < wanted:
            raise ValueError(
                f"RAD needs {wanted} candidates with a finite residual that its density allows, got {drawable} of {self._candidates}. "
                "Let the parameters be finite, offset positive, or candidates more."
            )
        # The largest of log p + Gumbel noise are a draw without replacement; exponential noise is exp(-Gumbel).
        noise = torch.empty(len(candidates), dtype=torch.float64).exponential_(generator=self._generator).log_()
        drawn = candidates[(scores - noise).topk(wanted).indices.to(candidates.device)]
        self._points = torch.cat((staying, drawn))
        return self._points

    def state_dict(self) -> dict[str, Any]:
        """What the next drawings depend on, as tensors; options of the constructor are not saved."""
        return {"generator": self._generator.get_state(), "points": None if self._points is None else self._points.clone()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state; the next drawing is the same, bit for bit, as it would have been where the state was taken.

        Raises:
            ValueError: The state was saved for another number of points. Nothing is changed then.
        """
        points = state_dict["points"]
        if points is not None and len(points) != self._count:
            raise ValueError(f"RAD needs a state for {self._count} points, got one for {len(points)}.")
        self._generator.set_state(state_dict["generator"])
        self._points = None if points is None else points.clone()

    def _sampled(self, count: int) -> Tensor:
        points = self._draw_candidates(count, self._generator)
        if not isinstance(points, Tensor) or points.ndim != 2 or len(points) != count:
            got = tuple(points.shape) if isinstance(points, Tensor) else type(points).__name__
            raise ValueError(f"RAD needs draw_candidates({count}, generator) to return a tensor of shape ({count}, d), got {got}.")
        return points.detach()

    def _residual(self, points: Tensor, residual_at: Callable[[Tensor], Tensor]) -> Tensor:
        """``|r|`` at the points, shape ``(points,)``, float64 on the CPU, where the generator is and every device can send to."""
        return torch.cat([_magnitudes(residual_at(block), block) for block in torch.split(points, self._count)])

    def _largest(self, points: Tensor, residual_at: Callable[[Tensor], Tensor]) -> Tensor:
        if self._staying == 0:
            return points[:0]
        magnitudes = self._residual(points, residual_at)
        usable = int(torch.isfinite(magnitudes).sum())
        largest = magnitudes.nan_to_num(nan=-1.0, posinf=-1.0).topk(min(self._staying, usable)).indices
        return points[largest.to(points.device)]

    def _log_density(self, magnitudes: Tensor) -> Tensor:
        """``log p`` up to a constant, -inf where a candidate must not be drawn; by logarithms, so that no power overflows."""
        is_finite = torch.isfinite(magnitudes)
        powers = torch.where(is_finite, self._exponent * magnitudes.log(), -math.inf) if self._exponent else torch.zeros_like(magnitudes)
        mean = torch.logsumexp(powers[is_finite], 0) - math.log(max(1, int(is_finite.sum())))
        has_residual = self._offset < math.inf and float(mean) > -math.inf
        scores = torch.logaddexp(powers - mean, torch.full_like(powers, _log(self._offset))) if has_residual else torch.zeros_like(powers)
        return torch.where(is_finite, scores, -math.inf)


def uniform_in(low: Sequence[float], high: Sequence[float], *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Sampler:
    """A sampler of independent, evenly distributed points of the box ``low <= x <= high``.

    Args:
        low: Lower corner, one number per coordinate.
        high: Upper corner; a coordinate with ``low = high`` is constant.
        dtype: Of the points.
        device: Of the points; they are the same on all.

    Raises:
        ValueError: The corners are not finite, of different lengths, or not in order.
    """
    corner, lengths = _box(low, high, dtype, device)

    def draw(count: int, generator: Generator) -> Tensor:
        return corner + lengths * torch.rand(count, len(corner), generator=generator, dtype=dtype).to(corner.device)

    return draw


def sobol_in(low: Sequence[float], high: Sequence[float], *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Sampler:
    """A sampler of the box as :func:`uniform_in`, whose points are the beginning of a freshly scrambled Sobol sequence: they leave no gaps.

    At most 21,201 coordinates. A point lies on the boundary of the box with probability almost zero.
    """
    corner, lengths = _box(low, high, dtype, device)

    def draw(count: int, generator: Generator) -> Tensor:
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        unit = SobolEngine(len(corner), scramble=True, seed=seed).draw(count, dtype=dtype)  # type: ignore[no-untyped-call]
        return corner + lengths * unit.to(corner.device)

    return draw


def _box(low: Sequence[float], high: Sequence[float], dtype: torch.dtype, device: torch.device | str | None) -> tuple[Tensor, Tensor]:
    corners = list(zip(low, high, strict=False))
    if not corners or len(low) != len(high) or not all(-math.inf < a <= b < math.inf for a, b in corners):
        raise ValueError(f"Expected a box with finite low <= high, one number per coordinate, got low={tuple(low)}, high={tuple(high)}.")
    corner = torch.tensor(low, dtype=dtype, device=device)
    return corner, torch.tensor(high, dtype=dtype, device=device) - corner


def _magnitudes(residual: Tensor, points: Tensor) -> Tensor:
    if not isinstance(residual, Tensor) or residual.ndim not in (1, 2) or len(residual) != len(points):
        got = tuple(residual.shape) if isinstance(residual, Tensor) else type(residual).__name__
        raise ValueError(f"RAD needs residual_at(points) to return a tensor of shape ({len(points)},) or ({len(points)}, m), got {got}.")
    magnitudes: Tensor = torch.linalg.vector_norm(residual.detach().reshape(len(points), -1).cpu().double(), dim=1)
    return magnitudes


def _log(value: float) -> float:
    return math.log(value) if value > 0.0 else -math.inf
