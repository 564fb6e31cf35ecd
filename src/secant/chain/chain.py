"""One optimizer after another on the same parameters, as one optimizer of torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor

from secant.chain.differentiated import differentiated
from secant.chain.stage import Stage, Switch, checked_stages, counted
from secant.chain.until import Elapsed
from secant.closures import Closure
from secant.layout import ParamGroup
from secant.notice import warn_user
from secant.optimizer import CurvatureOptimizer, Params
from secant.step import Outcome

_SAVED = "secant"
_TINY_RATE = 0.01  # of a stage's own learning rate; a line search that starts so far down spends its evaluations on the way up


@dataclass(frozen=True, slots=True)
class _Rate:
    """Of one group: the learning rate its stage was built with, and that of the stage in whose unit ``group["lr"]`` is written."""

    own: float
    unit: float

    @property
    def ratio(self) -> float:
        return self.own / self.unit if self.unit != 0.0 else 1.0


@final
class Chain(torch.optim.Optimizer):
    """Optimizers that take turns: each stage is built when it is reached, on the same parameter groups, from where the one before it left the parameters.

    A stage ends at the end of a ``step``, when its ``until`` says so or its optimizer's :class:`~secant.step.Outcome` stops (converged, rounding floor,
    stuck, a callback that raised ``StopIteration``); the next one is then built at once, without an evaluation. The last stage goes on for as long as it is
    stepped. A stage that cannot be built raises, and leaves the chain in the stage before.

    **Closures** of both kinds work in every stage. The optimizers of this package get the closure itself; all others get one that clears the gradients,
    evaluates the loss and calls ``backward`` where the closure did not. A ``step()`` without closure does what the current stage's does.

    **Groups.** The dictionaries of ``param_groups`` stay the same objects; a stage writes its options into them, over those of the stages before. An
    option given with a group (``lr`` too) holds in every stage. Frozen parameters and :meth:`add_param_group` are the current stage's affair.

    **Learning rates.** A stage starts at its own. ``param_groups[i]["lr"]`` is what the current stage uses, unless a scheduler was bound (it leaves
    ``initial_lr`` in the group): then its numbers keep the unit of the stage they were made for, and a later stage steps with

        ``its own lr * param_groups[i]["lr"] / (own lr of the stage at which the scheduler was bound)``

    because a scheduler knows one base rate and writes absolute numbers. A schedule is a factor that carries on through every stage: 1 means the stage's
    own rate. :attr:`learning_rates` holds the rates after this conversion.

    Under several processes the stages decide as each of them does; of the conditions, only ``Iterations`` decides alike on all ranks.

    Args:
        params: As for every torch optimizer.
        stages: At least one; all but the last with ``until``.
        clock: Seconds on a clock that never goes back.

    Raises:
        TypeError: An element of ``stages`` is no :class:`Stage`, or a stage builds no optimizer.
        ValueError: No stage, a stage before the last that would never end, or an optimizer that trains other groups than it was given.

    Example:
        >>> import torch, secant
        >>> x = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
        >>> def valley():
        ...     return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        >>> first = secant.Stage(lambda groups: torch.optim.Adam(groups, lr=0.05), until=secant.Iterations(20))
        >>> chain = secant.Chain([x], [first, secant.Stage(secant.SSBroyden)])
        >>> while not chain.finished:
        ...     loss = chain.step(valley)
        >>> chain.stage, torch.allclose(x, torch.ones(2, dtype=torch.float64))
        (1, True)
        >>> [(switch.ended, switch.began, switch.reason) for switch in chain.switches]
        [('Adam', 'SSBroyden', 'Its iterations are done.')]
    """

    def __init__(self, params: Params, stages: Sequence[Stage], *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._stages = checked_stages(stages)
        self._clock = clock
        self._given: list[ParamGroup] = []
        self._rates: list[_Rate] = []
        self._stage = 0
        self._elapsed = Elapsed()
        self._switches: tuple[Switch, ...] = ()
        self._optimizer: torch.optim.Optimizer | None = None
        super().__init__(params, {})
        self._enter(self._built(0))

    @property
    def stage(self) -> int:
        """Index of the current stage, from 0."""
        return self._stage

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The current stage's optimizer. It shares its groups and state with the chain; step the chain, not it."""
        assert self._optimizer is not None
        return self._optimizer

    @property
    def elapsed(self) -> Elapsed:
        """What the current stage has used so far."""
        return self._elapsed

    @property
    def switches(self) -> tuple[Switch, ...]:
        """What ended when and why, oldest first."""
        return self._switches

    @property
    def outcome(self) -> Outcome | None:
        """Why the last step of the current stage ended as it did; None before it, and for optimizers that do not say."""
        return self._optimizer.outcome if isinstance(self._optimizer, CurvatureOptimizer) else None

    @property
    def finished(self) -> bool:
        """Whether the last stage is over, too: its ``until`` is reached or its outcome stops."""
        return self._stage + 1 == len(self._stages) and self._reason() is not None

    @property
    def learning_rates(self) -> list[float]:
        """What the current stage steps with, group by group."""
        return [_rate(group) * rate.ratio for group, rate in zip(self.param_groups, self._rates, strict=True)]

    def step(self, closure: Closure | None = None) -> Tensor | None:  # type: ignore[override]
        """One step of the current stage, and the switch to the next where it ends with it.

        Args:
            closure: Evaluates the loss and returns it, with or without calling ``backward``. Pass the same object to every call.

        Returns:
            The closure's loss at the start of the step, detached; None without a closure.

        Raises:
            TypeError: The stage needs a closure and got none, or the closure returns no loss.
            RuntimeError: The loss has no graph or reaches no parameter.
        """
        until = self._stages[self._stage].condition
        if closure is None and until is not None and until.needs_loss:
            raise TypeError(f"{type(until).__name__} judges the loss, so step needs a closure that evaluates it. Pass one, or use Iterations.")
        started = self._clock()

        def seconds() -> float:
            return self._clock() - started

        with self._converted_rates():
            loss, minimized = self._advance(closure)
        self._elapsed = self._elapsed.longer(seconds()) if until is None else until.after(self._elapsed, minimized, seconds)
        reason = self._reason()
        if reason is not None and self._stage + 1 < len(self._stages):
            self._switch(reason)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, as the current stage does it."""
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the current stage, as its optimizer does it, and to those that follow. A group that is refused is not added."""
        given = dict(param_group) if isinstance(param_group, dict) else {}
        if self._optimizer is None:  # torch's constructor is collecting groups
            super().add_param_group(param_group)
        else:
            self._optimizer.add_param_group(param_group)
            self.param_groups.append(self._optimizer.param_groups[-1])
            rate = _rate(param_group)
            self._rates.append(_Rate(rate, rate))
        self._given.append({name: value for name, value in given.items() if name != "params"})

    def state_dict(self) -> dict[str, Any]:
        """The dictionary of torch for the current stage and, under ``"secant"``, all that is needed to resume: tensors and plain numbers."""
        saved = {
            "stage": self._stage,
            "method": type(self.optimizer).__name__,
            "optimizer": self.optimizer.state_dict(),
            "rates": [asdict(rate) for rate in self._rates],
            "elapsed": self._elapsed.state(),
            "switches": [asdict(switch) for switch in self._switches],
        }
        return super().state_dict() | {_SAVED: saved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state, in the stage in which it was saved; the next step goes on bit for bit where it was taken.

        Build the chain with the same stages and groups before. Stages after the saved one may differ.

        Raises:
            ValueError: The dictionary was saved by something else, or for other stages or groups. Nothing is changed then.
        """
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = hook(self, state_dict) or state_dict
        saved = self._checked_saved(state_dict)
        optimizer = self.optimizer if saved["stage"] == self._stage else self._built(saved["stage"])
        if type(optimizer).__name__ != saved["method"]:
            raise ValueError(
                f"Expected a state saved in stage {saved['stage']} by {type(optimizer).__name__}, got one by {saved['method']}. Build the chain as it was."
            )
        optimizer.load_state_dict(saved["optimizer"])
        self._stage = saved["stage"]
        self._elapsed = Elapsed(**saved["elapsed"])
        self._switches = tuple(Switch(**switch) for switch in saved["switches"])
        self._rates = [_Rate(**rate) for rate in saved["rates"]]
        for group, loaded in zip(self.param_groups, optimizer.param_groups, strict=True):
            if group is not loaded:
                group.clear()
                group.update(loaded)
        self._share(optimizer)
        for done in self._optimizer_load_state_dict_post_hooks.values():
            done(self)

    def __repr__(self) -> str:
        """The stages, where the chain stands, and torch's lines on the groups."""
        lines = []
        for index, stage in enumerate(self._stages):
            until = "" if stage.condition is None else f", until {stage.condition}"
            if index < len(self._switches):
                lines.append(f"  Stage {index}: {self._switches[index].ended}, {counted(self._switches[index].iterations)}. {self._switches[index].reason}")
            elif index == self._stage:
                lines.append(f"> Stage {index}: {type(self.optimizer).__name__}, {counted(self._elapsed.iterations)} so far{until}")
            else:
                lines.append(f"  Stage {index}: to come{until}")
        name, _, groups = super().__repr__().partition("\n")
        return "\n".join([name, *lines, groups])

    def __getstate__(self) -> dict[str, Any]:
        """What ``deepcopy`` and ``pickle`` take. A stage's ``build`` goes along: ``pickle`` wants a function of a module or a ``partial``, no lambda."""
        return super().__getstate__() | {name: value for name, value in self.__dict__.items() if name in _COPIED}

    def _advance(self, closure: Closure | None) -> tuple[Tensor | None, Tensor | float | None]:
        """One step of the current stage: what ``step`` returns, and the minimized number."""
        optimizer = self.optimizer
        if isinstance(optimizer, CurvatureOptimizer):
            loss = optimizer.step(closure)
            return loss, None if optimizer.point is None else optimizer.point.loss
        if closure is None:
            optimizer.step()
            return None, None
        losses: list[Tensor] = []

        def evaluate() -> Tensor:
            optimizer.zero_grad()
            loss = differentiated(closure, [parameter for group in self.param_groups for parameter in group["params"]])
            if not losses:
                losses.append(loss)
            return loss

        optimizer.step(evaluate)  # type: ignore[arg-type]  # torch means a tensor where it says float
        if not losses:
            raise RuntimeError(f"{type(optimizer).__name__}.step did not evaluate its closure. Call backward yourself and step the chain without one.")
        is_maximized = any(group.get("maximize", False) for group in self.param_groups)
        return losses[0], -losses[0] if is_maximized else losses[0]

    def _reason(self) -> str | None:
        outcome, until = self.outcome, self._stages[self._stage].condition
        if outcome is not None and outcome.stops:
            return outcome.sentence
        return None if until is None else until.reason(self._elapsed)

    def _switch(self, reason: str) -> None:
        optimizer = self._built(self._stage + 1)
        ended, began = type(self.optimizer).__name__, type(optimizer).__name__
        self._switches = (*self._switches, Switch(ended, began, self._elapsed.iterations, self._elapsed.seconds, reason))
        self._stage, self._elapsed = self._stage + 1, Elapsed()
        self._enter(optimizer)

    def _built(self, index: int) -> torch.optim.Optimizer:
        """The optimizer of a stage on groups of its own, which hold the parameters and the options they were given."""
        optimizer = self._stages[index].build([_fresh(group, given) for group, given in zip(self.param_groups, self._given, strict=True)])
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"Expected stage {index} to build a torch.optim.Optimizer, got {type(optimizer).__name__}. End the function with the optimizer.")
        if isinstance(optimizer, Chain):
            raise TypeError(f"Expected stage {index} to build one optimizer, got a Chain. List its stages among those of the outer chain.")
        if _parameters(optimizer.param_groups) != _parameters(self.param_groups):
            raise ValueError(
                f"Expected {type(optimizer).__name__} of stage {index} to train the groups it is given, got other parameters or another order. "
                "Write Stage(lambda groups: ...(groups, ...))."
            )
        return optimizer

    def _enter(self, optimizer: torch.optim.Optimizer) -> None:
        """Take over the options of a new stage; a scheduler's rates stay in the unit it knows."""
        rates = []
        for index, (group, fresh) in enumerate(zip(self.param_groups, optimizer.param_groups, strict=True)):
            own = _rate(fresh)
            is_scheduled = bool(self._rates) and "initial_lr" in group
            rates.append(_Rate(own, self._rates[index].unit if is_scheduled else own))
            group.update(fresh | {"lr": group["lr"]} if is_scheduled else fresh)
        self._rates = rates
        self._share(optimizer)
        if isinstance(optimizer, CurvatureOptimizer):
            self._warn_tiny_rates()

    def _share(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer and the chain see the same groups and state: what is written to one is written to both."""
        optimizer.param_groups[:] = self.param_groups
        self._optimizer = optimizer
        self.state = optimizer.state
        self.defaults = optimizer.defaults

    def _warn_tiny_rates(self) -> None:
        shares = [rate / own for rate, own in zip(self.learning_rates, (rate.own for rate in self._rates), strict=True) if own > 0.0]
        if shares and max(shares) < _TINY_RATE:
            warn_user(
                f"The schedule has brought the learning rate to {max(shares):.1e} of its own where {type(self.optimizer).__name__} takes over, and its first "
                "trial steps shrink with it. Let the schedule be 1 there, for instance by LambdaLR(chain, lambda step: ... if chain.stage == 0 else 1.0)."
            )

    @contextmanager
    def _converted_rates(self) -> Iterator[None]:
        """Show the stage its learning rates in its own unit."""
        scheduled = [(group, group["lr"], rate.ratio) for group, rate in zip(self.param_groups, self._rates, strict=True) if rate.ratio != 1.0]
        for group, lr, ratio in scheduled:
            group["lr"] = lr * ratio
        try:
            yield
        finally:
            for group, lr, _ in scheduled:
                group["lr"] = lr

    def _checked_saved(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        saved: dict[str, Any] | None = state_dict.get(_SAVED)
        if saved is None or "stage" not in saved:
            raise ValueError("Expected a state_dict saved by Chain, got one of another optimizer. Load it into the optimizer that saved it.")
        if saved["stage"] >= len(self._stages):
            raise ValueError(f"Expected a state saved in one of {len(self._stages)} stages, got one of stage {saved['stage']}. Build the chain as it was.")
        sizes = [len(group["params"]) for group in self.param_groups]
        others = [len(group["params"]) for group in state_dict["param_groups"]]
        if sizes != others:
            raise ValueError(f"Expected a state for groups of {sizes} parameters, got one for {others}. Add the groups before loading.")
        return saved


_COPIED = frozenset({"_stages", "_clock", "_given", "_rates", "_stage", "_elapsed", "_switches", "_optimizer"})


def _fresh(group: ParamGroup, given: ParamGroup) -> ParamGroup:
    """A group for the next stage. Its learning rate is the one it was given with: what a scheduler has written since belongs to the schedule."""
    options = {name: value if name == "lr" else group.get(name, value) for name, value in given.items()}
    names = {"param_names": group["param_names"]} if "param_names" in group else {}
    return {"params": list(group["params"])} | names | options


def _rate(group: ParamGroup) -> float:
    lr = group.get("lr")
    return 1.0 if lr is None else float(lr)


def _parameters(groups: Sequence[ParamGroup]) -> list[list[int]]:
    return [[id(parameter) for parameter in group["params"]] for group in groups]
