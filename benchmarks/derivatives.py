"""Loss, gradient and Jacobian of the Burgers residual by derivatives carried forward, against nested automatic differentiation and torch.func."""

from __future__ import annotations

import functools
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from benchmarks.record import one_thread, save
from secant.derivatives import Field, PointResidual, loss_closure
from secant.derivatives.names import Name
from secant.linearization.normal_matrix import add_gram

POINTS = 5000
ROUNDS = 31
JACOBIAN_ROUNDS = 7
VISCOSITY = 0.01 / math.pi
CHUNKS = (100, 250, 500, 1000, 2500, 5000)

Work = Callable[[], object]


def main() -> None:
    one_thread()
    if sys.argv[1:] == ["--compile-only"]:
        print(_compiled()[1])
        return
    network, points = _network(), _points()
    parameters = list(network.parameters())
    first, second = _compile_seconds()
    closures = {"carried forward": loss_closure(_residual(network, points)), "t and xx as one": loss_closure(_joint(network, points))}
    compiled = {
        f"{name}, compiled": loss_closure(build(network, points), compile=True) for name, build in (("carried forward", _residual), ("t and xx as one", _joint))
    }

    def nested() -> tuple[Tensor, ...]:
        r = _scale() * _nested(network, points)
        return torch.autograd.grad(0.5 * torch.dot(r, r), parameters)

    works: dict[str, Work] = {"nested": nested}
    works |= {name: functools.partial(_gradient, closure, parameters) for name, closure in (closures | compiled).items()}
    exact = torch.cat([part.flatten() for part in nested()])
    errors = {name: float((torch.cat([part.flatten() for part in work()]) - exact).norm() / exact.norm()) for name, work in works.items()}  # type: ignore[attr-defined]
    rows = {"loss and gradient": _table(_in_turn(works, ROUNDS), "nested", errors), "Jacobian and its Gram matrix": _jacobians(network, points)}
    save(
        "derivatives",
        rows,
        points=POINTS,
        parameters=sum(parameter.numel() for parameter in parameters),
        dtype="float64",
        clock="process CPU time of one thread; medians over the rounds, all works in turn in each round",
        seconds_to_compile={"nothing cached": first, "second process": second},
        note="times_faster: median over the rounds of the base's time over this one's in the same round. nested and torch.func run in the same process, where "
        "the C library keeps freed memory, too. relative_error of the gradient is against nested.",
    )


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Linear(3, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1))
    return nn.Sequential(*layers).double()


def _points() -> Tensor:
    unit = torch.quasirandom.SobolEngine(2, scramble=True, seed=1).draw(POINTS, dtype=torch.float64)
    return torch.stack((unit[:, 0], 2.0 * unit[:, 1] - 1.0), 1)


def _scale() -> float:
    return math.sqrt(2.0 / POINTS)


def _inputs(points: Tensor) -> Tensor:
    t, x = points[:, :1], points[:, 1:]
    return torch.cat((t, torch.cos(math.pi * x), torch.sin(math.pi * x)), 1)


def _outputs(points: Tensor, outputs: Tensor) -> Tensor:
    return points[:, :1] * outputs - torch.sin(math.pi * points[:, 1:])


def _field(network: nn.Module) -> Field:
    return Field(network, "tx", input_transform=_inputs, output_transform=_outputs)


def _residual(network: nn.Module, points: Tensor) -> PointResidual:
    return PointResidual(_field(network), points, lambda points, u, u_t, u_x, u_xx: u_t + u * u_x - VISCOSITY * u_xx, ("", "t", "x", "xx"), scale=_scale())


def _joint(network: nn.Module, points: Tensor) -> PointResidual:
    names: tuple[Name, ...] = ("", "x", {"t": 1.0, "xx": -VISCOSITY})
    return PointResidual(_field(network), points, lambda points, u, u_x, linear: linear + u * u_x, names, scale=_scale())


def _nested(network: nn.Module, points: Tensor) -> Tensor:
    points = points.detach().requires_grad_()
    u = _outputs(points, network(_inputs(points)))[:, 0]
    u_t, u_x = torch.autograd.grad(u.sum(), points, create_graph=True)[0].unbind(1)
    u_xx = torch.autograd.grad(u_x.sum(), points, create_graph=True)[0][:, 1]
    return u_t + u * u_x - VISCOSITY * u_xx


def _gradient(closure: Callable[[], Tensor], parameters: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(closure(), parameters)


def _jacobians(network: nn.Module, points: Tensor) -> dict[str, object]:
    """The Jacobian alone and with its Gram matrix, ours, by torch.func with the best chunk, and what the products alone take."""
    parameters = list(network.parameters())
    works: dict[str, Work] = {f"torch.func, chunks of {chunk}": functools.partial(_by_torch_func, network, points, chunk) for chunk in CHUNKS}
    first = _in_turn(works, 2)
    best = min(first, key=lambda name: min(first[name]))
    residuals = {"carried forward": _residual(network, points), "t and xx as one": _joint(network, points)}
    exact = works[best]()
    assert isinstance(exact, Tensor)
    errors = {name: float((residual.linearize(slice(None), parameters)[1] - exact).norm() / exact.norm()) for name, residual in residuals.items()}
    gram = torch.zeros(exact.shape[1], exact.shape[1], dtype=torch.float64)

    def gram_of(J: Tensor) -> None:
        add_gram(gram.zero_(), J)

    jacobian = {best: works[best]} | {name: functools.partial(residual.linearize, slice(None), parameters) for name, residual in residuals.items()}
    both: dict[str, Work] = {f"{best}, J.T @ J": lambda: (J := _by_torch_func(network, points, int(best.split()[-1]))).T @ J}
    both |= {name: lambda residual=residual: gram_of(residual.linearize(slice(None), parameters)[1]) for name, residual in residuals.items()}
    ours = residuals["carried forward"].linearize(slice(None), parameters)[1]
    adjoints, inputs = torch.randn(POINTS, 20, 4, dtype=torch.float64), torch.randn(POINTS, 4, 20, dtype=torch.float64)
    products = torch.empty(POINTS, 20, 20, dtype=torch.float64)

    def two_products() -> None:
        for _ in range(2):  # the two layers of 400 weights; the others are small
            torch.bmm(adjoints, inputs, out=products)
        gram_of(ours)

    both |= {"the products alone: two batched outer products, one triangle of J.T @ J": two_products, "J.T @ J alone": lambda: ours.T @ ours}
    return {
        "chunks of torch.func, milliseconds": {name: 1e3 * min(times) for name, times in first.items()},
        "Jacobian": _table(_in_turn(jacobian, JACOBIAN_ROUNDS), best, errors),
        "with Gram matrix": _table(_in_turn(both, JACOBIAN_ROUNDS), f"{best}, J.T @ J", {}),
        "times the products alone": {
            name: statistics.median(a / b for a, b in zip(times["ours"], times["alone"], strict=True))
            for name in residuals
            for times in (_in_turn({"ours": both[name], "alone": two_products}, JACOBIAN_ROUNDS),)
        },
    }


def _by_torch_func(network: nn.Module, points: Tensor, chunk: int) -> Tensor:
    values = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def residual(weights: Mapping[str, Tensor], point: Tensor) -> Tensor:
        def u(p: Tensor) -> Tensor:
            inputs = _inputs(p[None])
            return _outputs(p[None], torch.func.functional_call(network, weights, (inputs,)))[0, 0]

        slope = torch.func.grad(u)
        first, (u_t, u_x) = u(point), slope(point)
        u_xx = torch.func.grad(lambda p: slope(p)[1])(point)[1]
        return _scale() * (u_t + first * u_x - VISCOSITY * u_xx)

    pieces = torch.func.vmap(torch.func.jacrev(residual), in_dims=(None, 0), chunk_size=chunk)(values, points)
    return torch.cat([pieces[name].flatten(1) for name in values], 1)


def _compile_seconds() -> tuple[float, float]:
    """Wall seconds of two processes that compile the same loss, the second with what the first left on disk."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.derivatives", "--compile-only"]
        runs = [subprocess.run(command, env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": folder}, capture_output=True, text=True, check=True) for _ in range(2)]
    return float(runs[0].stdout), float(runs[1].stdout)


def _compiled() -> tuple[Callable[[], Tensor], float]:
    residual = _residual(_network(), _points())
    began = time.perf_counter()
    return loss_closure(residual, compile=True), time.perf_counter() - began


def _in_turn(works: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            began = time.process_time()
            work()
            times[name].append(time.process_time() - began)
    return times


def _table(times: Mapping[str, list[float]], base: str, errors: Mapping[str, float]) -> dict[str, dict[str, float]]:
    rows = {}
    for name, row in times.items():
        faster = statistics.median(b / a for a, b in zip(row, times[base], strict=True))
        rows[name] = {
            "milliseconds": 1e3 * statistics.median(row),
            "lowest": 1e3 * min(row),
            "times_faster": faster,
            "lowest_over_lowest": min(times[base]) / min(row),
        }
        if name in errors:
            rows[name]["relative_error"] = errors[name]
        print(name, rows[name], flush=True)
    return rows


if __name__ == "__main__":
    main()
