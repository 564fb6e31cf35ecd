"""Reference solutions of evolution equations: spectral in space, exponential Runge-Kutta in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Real: TypeAlias = NDArray[np.floating[Any]]
Spectrum: TypeAlias = NDArray[np.inexact[Any]]

_CONTOUR_POINTS = 64


def exponential_runge_kutta(
    linear: Spectrum, nonlinear: Callable[[Spectrum], Spectrum], start: Spectrum, *, duration: float, intervals: int, steps_per_interval: int
) -> Spectrum:
    """The solution of ``v' = linear * v + nonlinear(v)`` at equally spaced times, by ETDRK4: order 4, and exact where ``nonlinear`` is zero.

    Args:
        linear: Shape ``(modes,)``; the stiff part, diagonal. Real parts must not be large and positive.
        nonlinear: Of coefficients, shape ``(modes,)`` to ``(modes,)``.
        start: Coefficients at time 0, shape ``(modes,)``.
        duration: The last time.
        intervals: Between the returned times.
        steps_per_interval: Equal steps in each.

    Returns:
        Shape ``(intervals + 1, modes)``, the start first. Cost: four calls of ``nonlinear`` a step.

    Source:
        Cox & Matthews (2002), J. Comput. Phys. 176, 430, section 2; coefficients by contour integrals, Kassam & Trefethen (2005), SIAM J. Sci. Comput. 26,
        1214, section 3.
    """
    step = duration / (intervals * steps_per_interval)
    whole, half = np.exp(step * linear), np.exp(0.5 * step * linear)
    inner, first, middle, last = _exponential_weights(step, linear)
    v = start
    kept = [v]
    for _ in range(intervals):
        for _ in range(steps_per_interval):
            at_start = nonlinear(v)
            a = half * v + inner * at_start
            at_a = nonlinear(a)
            at_b = nonlinear(half * v + inner * at_a)
            at_end = nonlinear(half * a + inner * (2.0 * at_b - at_start))
            v = whole * v + first * at_start + middle * (at_a + at_b) + last * at_end
        kept.append(v)
    return np.array(kept)


def periodic_advection(
    linear: Callable[[Real], Spectrum], initial: Callable[[Real], Real], *, nodes: int, intervals: int, steps_per_interval: int
) -> tuple[Real, Real]:
    """The solution of ``u_t + u u_x = L u`` for ``x`` in [-1, 1), periodic, and ``t`` in [0, 1], by Fourier collocation.

    Args:
        linear: The symbol of ``L``: its eigenvalue at ``exp(i k x)`` as a function of the wave numbers ``k = 0, pi, 2 pi, ...``.
        initial: ``u(0, x)``.
        nodes: Equally spaced, from -1 on; an even number. Products are not dealiased: the spectrum must have decayed to rounding at half of the modes.
        intervals: Between the returned times ``0, 1 / intervals, ..., 1``.
        steps_per_interval: Of the time integration.

    Returns:
        The positions ``-1 + 2 j / nodes``, shape ``(nodes,)``, and ``u``, shape ``(intervals + 1, nodes)``.
    """
    positions = -1.0 + 2.0 * np.arange(nodes) / nodes
    waves = np.pi * np.arange(nodes // 2 + 1)
    slope = -0.5j * waves
    slope[-1] = 0.0  # The highest mode is a cosine, whose derivative vanishes at the nodes.

    def advection(v: Spectrum) -> Spectrum:
        return slope * scipy.fft.rfft(scipy.fft.irfft(v, nodes) ** 2)

    start = scipy.fft.rfft(initial(positions))
    spectra = exponential_runge_kutta(linear(waves), advection, start, duration=1.0, intervals=intervals, steps_per_interval=steps_per_interval)
    return positions, scipy.fft.irfft(spectra, nodes, axis=1)


def even_reaction_diffusion(
    diffusivity: float, reaction: Callable[[Real], Real], initial: Callable[[Real], Real], *, degree: int, intervals: int, steps_per_interval: int
) -> Real:
    """The solution of ``u_t = diffusivity u_xx + reaction(u)`` for ``x`` in [-1, 1] and ``t`` in [0, 1], even in ``x``, both ends held at their start.

    Chebyshev collocation; the symmetry halves the unknowns. Time integration in the eigenbasis of the second derivative, which is well conditioned
    (condition number 4 at degree 640) although the matrix is not symmetric.

    Args:
        diffusivity: Positive.
        reaction: Elementwise.
        initial: ``u(0, x)``, an even function.
        degree: Of the polynomials in ``x``, an even number.
        intervals: Between the returned times ``0, 1 / intervals, ..., 1``.
        steps_per_interval: Of the time integration.

    Returns:
        The Chebyshev coefficients of ``u``, shape ``(intervals + 1, degree + 1)``, for :func:`numpy.polynomial.chebyshev.chebval`.

    Source:
        Trefethen (2000), Spectral Methods in MATLAB, chapters 6 and 13; Kassam & Trefethen (2005), section 4, for the same equation with other data.
    """
    half = degree // 2
    nodes, derivative = _chebyshev_derivative(degree)
    second = derivative @ derivative
    folded = second[1 : half + 1, 1 : half + 1].copy()
    folded[:, :-1] += second[1 : half + 1, -2:half:-1]
    values = initial(nodes)
    wall = values[0]
    eigenvalues, basis = np.linalg.eig(folded)
    inverse = np.linalg.inv(basis)

    def reacted(v: Spectrum) -> Spectrum:
        return inverse @ reaction(wall + basis @ v)

    start = inverse @ (values[1 : half + 1] - wall)
    states = exponential_runge_kutta(diffusivity * eigenvalues, reacted, start, duration=1.0, intervals=intervals, steps_per_interval=steps_per_interval)
    right = wall + states @ basis.T
    solution = np.empty((intervals + 1, degree + 1))
    solution[:, [0, -1]] = wall
    solution[:, 1 : half + 1] = right
    solution[:, half + 1 : -1] = right[:, -2::-1]
    solution[0] = values
    return _chebyshev_coefficients(solution)


def _exponential_weights(step: float, linear: Spectrum) -> tuple[Spectrum, Spectrum, Spectrum, Spectrum]:
    """The weights of ETDRK4, each a mean over a circle of radius 1 about ``step * linear``: their closed forms cancel where that is small."""
    circle = np.exp(2j * np.pi * (np.arange(_CONTOUR_POINTS) + 0.5) / _CONTOUR_POINTS)
    z = step * linear[:, None] + circle
    power, cube = np.exp(z), z**3
    weights = (
        np.expm1(0.5 * z) / z,
        (-4.0 - z + power * (4.0 - 3.0 * z + z * z)) / cube,
        2.0 * (2.0 + z + power * (z - 2.0)) / cube,
        (-4.0 - 3.0 * z - z * z + power * (4.0 - z)) / cube,
    )
    inner, first, middle, last = (step * weight.mean(axis=1) for weight in weights)
    if np.iscomplexobj(linear):
        return inner, first, middle, last
    return inner.real, first.real, middle.real, last.real


def _chebyshev_derivative(degree: int) -> tuple[Real, Real]:
    """The nodes ``cos(pi j / degree)``, from 1 to -1, and the matrix that differentiates a polynomial given there."""
    angles = np.pi * np.arange(degree + 1) / degree
    signs = np.where(np.arange(degree + 1) % 2 == 0, 1.0, -1.0)
    signs[[0, -1]] *= 2.0
    # The difference of two cosines as a product of sines, which does not cancel.
    distances = -2.0 * np.sin(0.5 * (angles[:, None] + angles)) * np.sin(0.5 * (angles[:, None] - angles))
    matrix = np.outer(signs, 1.0 / signs) / (distances + np.eye(degree + 1))
    matrix -= np.diag(matrix.sum(axis=1))
    return np.sin(np.pi * (degree - 2.0 * np.arange(degree + 1)) / (2.0 * degree)), matrix


def _chebyshev_coefficients(values: Real) -> Real:
    """The coefficients of the polynomials with these values at the nodes, along the last axis."""
    coefficients: Real = scipy.fft.dct(values, type=1, axis=-1) / (values.shape[-1] - 1)
    coefficients[..., [0, -1]] *= 0.5
    return coefficients
