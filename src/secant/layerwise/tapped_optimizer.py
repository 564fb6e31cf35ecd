"""A preconditioner and the step behind it, as one optimizer."""

from __future__ import annotations

import glob
import math
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from secant.layerwise.elementwise import adamw_step
from secant.layerwise.preconditioner import Preconditioner
from secant.layerwise.routing import Route, Rule, module_routes, overrule, overruled, refuse_unsupported

_SAVED = "secant"
_SIZE = 0.2  # about the root mean square of Adam's update, so that both kinds of parameters share one learning rate


class Base(Enum):
    """What steps behind the preconditioner.

    Attributes:
        MOMENTUM: The gradient is averaged, the average preconditioned, and the step brought to a root mean square of ``0.2 lr``.
        ADAMW: The gradient is preconditioned at its own length (``.grad`` holds it afterwards) and given to ``AdamW``.
    """

    MOMENTUM = "momentum"
    ADAMW = "adamw"


class TappedOptimizer(torch.optim.Optimizer):
    """Preconditions the gradients of tapped weights; everything else is trained by ``AdamW``.

    A step with a gradient or a capture that is not finite changes nothing but :attr:`skipped_steps`. Captures live as long as gradients: ``zero_grad`` and
    ``step`` drop them.

    Under ``torch.amp.GradScaler`` call ``scaler.step(optimizer, scaler=scaler)``, so that the captures are brought to the scale of the gradients.

    Attributes:
        preconditioner: The taps and the curvature.

    Args:
        model: Its parameters are trained; others can be added as groups, and ``AdamW`` trains them.
        preconditioner: Of the model; its weights move along preconditioned gradients.
        base: What steps behind it.
        lr: Learning rate of all parameters; schedulers act on it.
        momentum: Weight of the past in the averaged gradient of ``Base.MOMENTUM``.
        weight_decay: Decoupled: each step multiplies the parameters by ``1 - lr * weight_decay``.
        betas: Of ``AdamW``.
        eps: Of ``AdamW``.
        rules: Shell patterns of parameter names and the rule of what they match (``"kron"`` for tapped, ``"adamw"``), over the routing by layer type.

    Raises:
        ValueError: An option is out of range, a pattern matches nothing, or nothing can be tapped.
        TypeError: A parameter is an integer, sparse, distributed (``DTensor``) or not yet initialized.
    """

    def __init__(
        self,
        model: nn.Module,
        preconditioner: Preconditioner,
        *,
        base: Base,
        lr: float | Tensor,
        momentum: float,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float,
        rules: Mapping[str, Rule | str] | None,
    ) -> None:
        self.preconditioner = preconditioner
        self._base = base
        self._routes = _tapped(_routes(model, rules), preconditioner)
        self._averages: dict[Tensor, Tensor] = {}
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "betas": betas, "eps": eps}
        try:
            super().__init__(model.parameters(), defaults)
        except (TypeError, ValueError):
            preconditioner.remove()  # a model whose optimizer was refused is left as it was
            raise

    @property
    def skipped_steps(self) -> int:
        """Steps without effect because a gradient or a capture was not finite."""
        return self.preconditioner.skipped_steps

    def routing(self) -> tuple[Route, ...]:
        """How each parameter of the model is trained and why; :func:`secant.layerwise.routing.table` prints it."""
        return tuple(self._routes.values())

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, scaler: torch.amp.GradScaler | None = None) -> Any:
        """One step from the gradients in ``.grad`` and the captures beside them; parameters without a gradient stay as they are.

        Args:
            closure: Evaluates the model again, calls ``backward`` and returns the loss. Optional.
            scaler: What the loss was scaled by, when it was.

        Returns:
            What the closure returned, or None.

        Raises:
            RuntimeError: A weight has a gradient that no tap has seen.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.preconditioner.correct(scaler):
            for group in self.param_groups:
                self._advance(group)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, and with them the captures."""
        super().zero_grad(set_to_none)
        self.preconditioner.taps.clear()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters outside the model, as in torch; ``AdamW`` trains them. A group that is refused is not added."""
        super().add_param_group(param_group)
        try:
            _check_group(self.param_groups[-1])
            for parameter in self.param_groups[-1]["params"]:
                refuse_unsupported(parameter)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def state_dict(self) -> dict[str, Any]:
        """The dictionary of torch and, under ``"secant"``, copies of curvature and averaged gradients in their own dtypes: enough to go on bit for bit."""
        averages = {name: self._averages[weight].clone() for weight, name in self._named_weights() if weight in self._averages}
        return super().state_dict() | {_SAVED: {"preconditioner": self.preconditioner.state_dict(), "averages": averages}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state; the next step goes on bit for bit where it was taken.

        Options of the constructor are not saved: build the optimizer as it was.

        Raises:
            ValueError: The dictionary was saved by another optimizer or for another model.
        """
        if _SAVED not in state_dict:
            raise ValueError(f"Expected a state_dict saved by {type(self).__name__}, got one without the entry {_SAVED!r}.")
        self.preconditioner.load_state_dict(state_dict[_SAVED]["preconditioner"])
        super().load_state_dict({key: value for key, value in state_dict.items() if key != _SAVED})
        averages = state_dict[_SAVED]["averages"]
        self._averages = {weight: averages[name].to(weight.device, copy=True) for weight, name in self._named_weights() if name in averages}

    def __getstate__(self) -> dict[str, Any]:
        """What ``pickle`` and ``deepcopy`` take; a copy belongs to the copy of the model that is made with it."""
        return super().__getstate__() | {"preconditioner": self.preconditioner, "_base": self._base, "_averages": self._averages, "_routes": self._routes}

    def _advance(self, group: dict[str, Any]) -> None:
        lr, decay = float(group["lr"]), group["weight_decay"]
        others = []
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            if not self._is_tapped(parameter):
                others.append(parameter)
            elif self._base is Base.MOMENTUM:
                self._move(parameter, lr, group["momentum"], decay)
            else:
                parameter.grad.copy_(self.preconditioner.precondition(parameter, parameter.grad))
                others.append(parameter)
        states = [self.state[parameter] for parameter in others]
        adamw_step(others, states, lr=lr, betas=group["betas"], eps=group["eps"], weight_decay=decay, maximize=False)

    def _move(self, weight: nn.Parameter, lr: float, momentum: float, decay: float) -> None:
        assert weight.grad is not None
        average = self._averages.get(weight)
        if average is None:
            average = self._averages[weight] = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        average.lerp_(weight.grad.to(average.dtype), 1.0 - momentum)
        update = self.preconditioner.precondition(weight, average)
        tiny = torch.finfo(update.dtype).tiny
        update.mul_(-_SIZE * lr * math.sqrt(update.numel()) / torch.linalg.vector_norm(update).clamp_min(tiny))
        if decay != 0.0:
            weight.mul_(1.0 - lr * decay)
        weight.add_(update)

    def _is_tapped(self, parameter: Tensor) -> bool:
        route = self._routes.get(parameter)
        return route is not None and route.rule is Rule.KRON

    def _named_weights(self) -> Iterator[tuple[nn.Parameter, str]]:
        return ((weight, name) for name, weight in self.preconditioner.taps.weights.items())


def names_of_others(model: nn.Module, rules: Mapping[str, Rule | str] | None) -> tuple[str, ...]:
    """Patterns of the names of the parameters that ``AdamW`` trains: embeddings, norms, vectors, the last layer, and what ``rules`` say."""
    return tuple(glob.escape(route.name) for route in _routes(model, rules).values() if route.rule is Rule.ADAMW)


def _routes(model: nn.Module, rules: Mapping[str, Rule | str] | None) -> dict[Tensor, Route]:
    return overruled(module_routes(model), rules or {})


def _tapped(routes: dict[Tensor, Route], preconditioner: Preconditioner) -> dict[Tensor, Route]:
    """The routes with the weights that no tap reaches trained by ``AdamW``."""
    weights = set(preconditioner.taps.weights.values())
    return {
        parameter: overrule(parameter, route, Rule.ADAMW, "cannot be tapped") if route.rule is Rule.KRON and parameter not in weights else route
        for parameter, route in routes.items()
    }


def _check_group(group: Mapping[str, Any]) -> None:
    for name in ("lr", "weight_decay", "eps"):
        if not 0.0 <= float(group[name]) < math.inf:
            raise ValueError(f"Expected 0 <= {name} < inf, got {name}={float(group[name])}.")
    for name, value in (("momentum", group["momentum"]), *(("a beta", beta) for beta in group["betas"])):
        if not 0.0 <= value < 1.0:
            raise ValueError(f"Expected {name} in [0, 1), got {value}.")
