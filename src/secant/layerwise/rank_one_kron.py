"""Rank-one whitening of every weight matrix, from gradients alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, final

import torch
from torch import Tensor, nn

from secant.layerwise.elementwise import adamw_step, load_adamw_state
from secant.layerwise.factors import Power
from secant.layerwise.matrix_stack import FactorOptions, MatrixStack, Movement, Sides, kept_sides, load_matrix_state
from secant.layerwise.routing import (
    Route,
    RoutingTable,
    Rule,
    matrix_shape,
    module_routes,
    named_routes,
    overrule,
    overruled,
    parse_rule,
    refuse_unsupported,
    with_last_layer,
)
from secant.notice import warn_user

_SAVED = "secant"
_LARGEST_KAPPA = 0.9
_BARE_WARNING = (
    "RankOneKron was given parameters without names: embeddings cannot be told from weight matrices, and the last matrix in order counts as the last layer. "
    "Pass the model itself, or model.named_parameters(), or set rule='adamw' in the group of an embedding."
)

Parameters = nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]


@final
class RankOneKron(torch.optim.Optimizer):
    r"""Whitens the gradient of each weight matrix by factors that are corrected by a few rank-one terms per step.

    For a weight with gradient matrix ``G`` of shape ``(m, n)`` each kept side has a symmetric positive definite factor, ``P`` left and ``Q`` right,
    corrected by sketches ``V = M Q Z`` of its running average ``M`` with random signs ``Z`` (see :mod:`secant.layerwise.factors`)::

        P <- P - kappa P V (V' P V)^-1 V' P + (lost trace / m) I
        update = -lr * length * P M Q

    so that ``P ~ E[V V']^(-1/2)``. No eigenvalues, no roots, no hooks: ``step`` reads ``.grad`` and nothing else, so the optimizer stands wherever
    ``AdamW`` does. Each update has a root mean square of ``0.1 lr``, less where its largest
    singular value would exceed ``stretch`` times ``0.1 lr sqrt(min(m, n))``.

    A side of dimension ``p`` is kept where ``p * p`` does not exceed the number of elements and ``p`` not ``largest_side``: one factor for most matrices, two
    for square ones, and never more than three numbers of state per parameter (and ``p + 2`` for a square matrix). Embeddings, normalizations, biases, the
    last layer and whatever is not a matrix are trained by ``AdamW`` at ``adamw_share`` of the learning rate; :meth:`routing` tells which.

    Args:
        params: A module (routed by layer type; shared weights count once), ``model.named_parameters()`` (routed by name: see
            :func:`secant.layerwise.routing.named_routes`), parameters or groups (routed by shape). A group may hold ``rule="kron"`` or ``rule="adamw"``.
        lr: Learning rate; schedulers act on it. One value serves many models, because it does not depend on the scale of the loss.
        momentum: Weight of the past in the averaged gradient.
        weight_decay: Decoupled, as in ``AdamW``: each step multiplies the weights by ``1 - lr * weight_decay``.
        betas: Of ``AdamW``.
        eps: Of ``AdamW``.
        nesterov: Look one average ahead.
        adamw_share: Learning rate of ``AdamW`` over ``lr``.
        every: Steps from one correction of the factors to the next.
        window: Corrections over which the factors forget; before that they average over all (:func:`secant.layerwise.factors.window_kappa`).
        kappa: A fixed share of each sketch to take out instead; None for the rule of ``window``.
        power: 1 whitens, 2 approaches the full inverse ``E[V V']^-1``.
        sides: ``"all"`` kept sides, or only the ``"smaller"`` one.
        largest_side: Sides above this have no factor; a matrix without any is trained by ``AdamW``.
        stretch: Largest singular value of an update, in units of ``0.1 lr sqrt(min(m, n))``; infinity lifts the limit.
        multiply_dtype: In which the factors are applied; None for :func:`secant.layerwise.matrix_stack.fast_dtype`.
        rules: Shell patterns of parameter names and the rule of what they match.
        maximize: Climb instead.
        seed: Of the random signs, which are drawn on the host: the same on every rank and device.

    Raises:
        ValueError: An option out of range, an unknown rule, no parameter.
        TypeError: A parameter that is an integer, sparse, distributed (``DTensor``) or not yet initialized.

    Attributes:
        skipped_steps: Steps left out because a gradient was not finite. Nothing else changes in such a step.

    Cost:
        Per step about ``2 p m n`` flops for each factor of side ``p`` and five passes over the gradients, where forward and backward of ``t`` tokens take
        ``6 t m n``. One synchronization with the host. State: the averaged gradient and the factors in at least single precision.

    Source:
        The family of Li (2018), Preconditioned stochastic gradient descent, IEEE TNNLS 29(5), and Gupta, Koren & Singer (2018), Shampoo, ICML. Here the factors
        are corrected by the Sherman-Morrison-Woodbury formula.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> optimizer = RankOneKron(model)
        >>> print(optimizer.routing())
        0.weight  8x4  kron   matrix
        0.bias    8    adamw  vector
        2.weight  1x8  adamw  one row or column
        2.bias    1    adamw  vector
    """

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 0.01,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        nesterov: bool = True,
        adamw_share: float = 0.5,
        every: int = 2,
        window: int = 60,
        kappa: float | None = None,
        power: int = 1,
        sides: str = "all",
        largest_side: int = 8192,
        stretch: float = 4.0,
        multiply_dtype: torch.dtype | None = None,
        rules: Mapping[str, Rule | str] | None = None,
        maximize: bool = False,
        seed: int = 0,
    ) -> None:
        _check_options(every=every, window=window, kappa=kappa, largest_side=largest_side, stretch=stretch, multiply_dtype=multiply_dtype)
        self._options = FactorOptions(_sides(sides), largest_side, every, window, kappa, _LARGEST_KAPPA, _power(power), stretch, multiply_dtype)
        self._rules = dict(rules or {})
        self._routes: dict[Tensor, Route] = {}
        self._stacks: list[tuple[int, MatrixStack]] = []
        self._stacked: list[Tensor] = []
        self._generator = torch.Generator().manual_seed(seed)
        self.skipped_steps = 0
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "betas": betas,
            "eps": eps,
            "nesterov": nesterov,
            "adamw_share": adamw_share,
            "maximize": maximize,
            "rule": None,
        }
        super().__init__(_groups(params), defaults)
        if isinstance(params, nn.Module):
            routes = module_routes(params)
        else:
            routes = with_last_layer(named_routes(_named(self.param_groups)))
            if any(group["rule"] is None and "param_names" not in group and any(p.ndim >= 2 for p in group["params"]) for group in self.param_groups):
                warn_user(_BARE_WARNING)
        self._routes = self._with_group_rules(overruled(routes, self._rules), self.param_groups)

    def routing(self) -> RoutingTable:
        """How each parameter is trained and why, in the order of the groups; prints as a table."""
        return RoutingTable(self._routes[parameter] for group in self.param_groups for parameter in group["params"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, as in torch; they are routed by name if they have one, else by shape, and no last layer is looked for among them.

        Raises:
            ValueError: An option out of range, an unknown rule, or a parameter that is in another group. The group is not added then.
            TypeError: A parameter of a kind that cannot be trained.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            _check_group(group)
            for parameter in group["params"]:
                refuse_unsupported(parameter)
            group["rule"] = None if group["rule"] is None else parse_rule(group["rule"]).value  # plain, so that torch.load takes it back
            named = _named([group], start=len(self._routes))
            rules = {pattern: rule for pattern, rule in self._rules.items() if any(fnmatchcase(name, pattern) for name, _ in named)}
            self._routes |= self._with_group_rules(overruled(named_routes(named), rules), [group])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step from the gradients in ``.grad``; parameters without one stay as they are.

        Args:
            closure: Evaluates the model again, calls ``backward`` and returns the loss. Optional.

        Returns:
            What the closure returned, or None.

        Raises:
            TypeError: A gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        active = [(group, [p for p in group["params"] if p.grad is not None and p.numel() > 0]) for group in self.param_groups]
        gradients = [p.grad for _, parameters in active for p in parameters]
        if not gradients:
            return loss
        if not _all_finite(gradients):
            self.skipped_steps += 1
            return loss
        self._step_matrices(active)
        for group, parameters in active:
            others = [p for p in parameters if self._routes[p].rule is Rule.ADAMW]
            adamw_step(
                others,
                [self.state[p] for p in others],
                lr=_number(group["lr"]) * group["adamw_share"],
                betas=group["betas"],
                eps=group["eps"],
                weight_decay=group["weight_decay"] / group["adamw_share"],
                maximize=group["maximize"],
            )
        return loss

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict`` needs to go on bit for bit: tensors and plain numbers; ``"secant"`` holds generator and ``skipped_steps``."""
        saved = super().state_dict()
        saved[_SAVED] = {"generator": self._generator.get_state(), "skipped_steps": self.skipped_steps}
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state; the next step goes on bit for bit where it was taken.

        Options of the constructor (``every``, ``window``, ``kappa``, ``power``, ``sides``, ``rules``) are not saved: build the optimizer as it was.

        Raises:
            ValueError: The dictionary was saved by another optimizer, or for other parameters or rules. Nothing is changed then.
        """
        if _SAVED not in state_dict:
            raise ValueError(f"Expected a state_dict saved by RankOneKron, got one without the entry {_SAVED!r}.")
        self._check_saved(state_dict)
        super().load_state_dict({key: value for key, value in state_dict.items() if key != _SAVED})
        saved_ids = itertools.chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        for index, parameter in zip(saved_ids, self._all_parameters(), strict=True):
            entry = state_dict["state"].get(index)
            if entry:
                # torch casts state to the type of the parameter, which would round factors of half-precision weights, and shares it with what was saved
                load = load_matrix_state if self._routes[parameter].rule is Rule.KRON else load_adamw_state
                self.state[parameter] = load(parameter, entry)
        self._generator.set_state(state_dict[_SAVED]["generator"].cpu())
        self.skipped_steps = state_dict[_SAVED]["skipped_steps"]

    def __getstate__(self) -> dict[str, Any]:
        """What ``pickle`` and ``deepcopy`` take: everything but the stacks, which are built again from ``state``, and hooks, as in torch."""
        mine = ("_options", "_rules", "_routes", "_generator", "skipped_steps")
        return super().__getstate__() | {name: getattr(self, name) for name in mine}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what ``__getstate__`` or torch's ``load_state_dict`` gives."""
        super().__setstate__(state)
        self._stacks, self._stacked = [], []

    def _with_group_rules(self, routes: Mapping[Tensor, Route], groups: Iterable[Mapping[str, Any]]) -> dict[Tensor, Route]:
        """The routes of the parameters of these groups under the rules of the groups; no matrix without a factor is left to ``kron``."""
        found = {}
        for group in groups:
            for parameter in group["params"]:
                route = routes[parameter]
                if group["rule"] is not None:
                    route = overrule(parameter, route, parse_rule(group["rule"]), "rule of its group")
                if route.rule is Rule.KRON and not any(self._kept(parameter)):
                    route = overrule(parameter, route, Rule.ADAMW, f"both sides above {self._options.largest_side}")
                found[parameter] = route
        return found

    def _kept(self, parameter: Tensor) -> tuple[bool, bool]:
        return kept_sides(*matrix_shape(parameter), self._options.sides, self._options.largest_side)

    def _all_parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _step_matrices(self, active: Sequence[tuple[dict[str, Any], Sequence[Tensor]]]) -> None:
        self._restack([[p for p in parameters if self._routes[p].rule is Rule.KRON] for _, parameters in active])
        needed = [stack.signs_needed() for _, stack in self._stacks]
        signs = self._signs(sum(needed))
        for (index, stack), piece in zip(self._stacks, torch.split(signs, needed), strict=True):
            group = self.param_groups[index]
            gradients = [p.grad for p in stack.parameters if p.grad is not None]
            if group["maximize"]:
                gradients = list(torch._foreach_neg(gradients))
            movement = Movement(_number(group["lr"]), group["momentum"], group["nesterov"], group["weight_decay"])
            stack.advance(gradients, movement, piece.to(stack.parameters[0].device, non_blocking=True))

    def _restack(self, chosen: Sequence[Sequence[Tensor]]) -> None:
        """Build the stacks again where other matrices take part than in the step before, or where ``state`` was replaced."""
        momenta = [self.state[p].get("momentum") for parameters in chosen for p in parameters]
        if len(momenta) == len(self._stacked) and all(new is old for new, old in zip(momenta, self._stacked, strict=True)):
            return
        taking_part = set(itertools.chain.from_iterable(chosen))
        for _, stack in self._stacks:
            for parameter in stack.parameters:
                if parameter in self.state and parameter not in taking_part:  # its views would keep the whole stack, and its age would go on
                    self.state[parameter] = {name: value.clone() for name, value in self.state[parameter].items()}
        self._stacks = [
            (index, MatrixStack(equal, [self.state[p] for p in equal], self._options)) for index, ps in enumerate(chosen) for equal in self._equal(ps)
        ]
        self._stacked = [self.state[p]["momentum"] for parameters in chosen for p in parameters]

    def _equal(self, parameters: Sequence[Tensor]) -> list[list[Tensor]]:
        """Parameters that can share a kernel: of one matrix shape, dtype and device, and equally old."""
        stacks: dict[Any, list[Tensor]] = {}
        for p in parameters:
            age = int(self.state[p]["step"]) if self.state[p] else None
            stacks.setdefault((p.shape, p.dtype, p.device, age), []).append(p)
        return list(stacks.values())

    def _signs(self, count: int) -> Tensor:
        """Random signs as small integers, drawn on the host."""
        return torch.randint(0, 2, (count,), generator=self._generator, dtype=torch.int8).mul_(2).sub_(1)

    def _check_saved(self, state_dict: dict[str, Any]) -> None:
        saved_ids = list(itertools.chain.from_iterable(group["params"] for group in state_dict["param_groups"]))
        parameters = self._all_parameters()
        if len(saved_ids) != len(parameters):
            raise ValueError(f"Expected a state for {len(parameters)} parameters, got one for {len(saved_ids)}.")
        for index, parameter in zip(saved_ids, parameters, strict=True):
            entry, route = state_dict["state"].get(index), self._routes[parameter]
            if entry and ("momentum" in entry) != (route.rule is Rule.KRON):
                raise ValueError(f"Expected a state of rule {route.rule.value!r} for {route.name}, got the other one. Build the optimizer with the same rules.")
            average = (entry or {}).get("momentum", (entry or {}).get("exp_avg"))
            if average is not None and average.shape != parameter.shape:
                raise ValueError(f"Expected a state of shape {tuple(parameter.shape)} for {route.name}, got {tuple(average.shape)}.")
            if entry and route.rule is Rule.KRON and self._kept(parameter) != ("left" in entry, "right" in entry):
                raise ValueError(f"Expected a state with the factors of {route.name}, got others. Build the optimizer with the same sides and largest_side.")


def _groups(params: Parameters) -> list[Any]:
    """What torch takes as groups."""
    if isinstance(params, Tensor):
        raise TypeError("Expected a module, an iterable of parameters or groups, got one tensor. Pass [parameter].")
    groups = list(params.named_parameters() if isinstance(params, nn.Module) else params)
    if not groups:
        raise ValueError("Expected a module with parameters, or some parameters, got none.")
    return groups


def _named(groups: Iterable[Mapping[str, Any]], start: int = 0) -> list[tuple[str, Tensor]]:
    """All parameters with their names, or numbers from ``start`` where they have none."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    names = [name for group in groups for name in group.get("param_names", ())] or [f"param {start + index}" for index in range(len(parameters))]
    return list(zip(names, parameters, strict=True))


def _all_finite(gradients: Sequence[Tensor]) -> bool:
    """Whether no gradient holds NaN or infinity: the one question the host asks in a step."""
    for gradient in gradients:
        if gradient.layout != torch.strided:
            raise TypeError(f"Expected dense gradients, got one with layout {gradient.layout}. Build the embedding with sparse=False.")
    device, dtype = gradients[0].device, torch.float32
    norms = [norm if norm.device == device and norm.dtype == dtype else norm.to(device, dtype) for norm in torch._foreach_norm(list(gradients), 2)]
    if math.isfinite(torch.stack(norms).sum()):
        return True
    # the squares of finite gradients may overflow; the maximum, ten times slower, cannot
    return all(bool(gradient.isfinite().all()) for gradient in gradients)


def _number(value: float | Tensor) -> float:
    return float(value)


def _power(value: int) -> Power:
    try:
        return Power(value)
    except ValueError as error:
        raise ValueError(f"RankOneKron needs power=1 (whitening) or power=2 (full inverse), got {value!r}.") from error


def _sides(value: str) -> Sides:
    try:
        return Sides(value)
    except ValueError as error:
        raise ValueError(f"RankOneKron needs sides='all' or sides='smaller', got {value!r}.") from error


def _check_options(*, every: int, window: int, kappa: float | None, largest_side: int, stretch: float, multiply_dtype: torch.dtype | None) -> None:
    for name, value in (("every", every), ("window", window), ("largest_side", largest_side)):
        if not (isinstance(value, int) and value >= 1):
            raise ValueError(f"RankOneKron needs a whole number {name} >= 1, got {value!r}.")
    if kappa is not None and not 0.0 < kappa < 1.0:
        raise ValueError(f"RankOneKron needs 0 < kappa < 1, or None for the rule of window, got kappa={kappa}.")
    if not stretch >= 1.0:
        raise ValueError(f"RankOneKron needs stretch >= 1, got {stretch}: an update with equal singular values has a stretch of 1 in a square matrix.")
    if multiply_dtype not in (None, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(f"RankOneKron needs multiply_dtype=torch.bfloat16, torch.float32 or torch.float64, got {multiply_dtype}. Others lose small gradients.")


def _check_group(group: Mapping[str, Any]) -> None:
    lr, momentum, decay, betas, eps = _number(group["lr"]), group["momentum"], group["weight_decay"], tuple(group["betas"]), group["eps"]
    if not lr >= 0.0:
        raise ValueError(f"RankOneKron needs lr >= 0, got {lr}.")
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"RankOneKron needs 0 <= momentum < 1, got {momentum}.")
    if not decay >= 0.0:
        raise ValueError(f"RankOneKron needs weight_decay >= 0, got {decay}.")
    if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas) or not eps >= 0.0:
        raise ValueError(f"RankOneKron needs two betas, 0 <= beta < 1, and eps >= 0, got betas={betas}, eps={eps}.")
    if not group["adamw_share"] > 0.0:
        raise ValueError(f"RankOneKron needs adamw_share > 0, got {group['adamw_share']}. Freeze parameters by requires_grad=False instead.")
