"""Rank-one whitening of every weight matrix, from gradients alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from secant.layerwise.elementwise import adamw_step
from secant.layerwise.factors import Power
from secant.layerwise.matrix_stack import FactorOptions, MatrixStack, Movement, Sides, kept_sides
from secant.layerwise.routing import (
    Route,
    Rule,
    bare_routes,
    matrix_shape,
    module_routes,
    named_routes,
    overrule,
    overruled,
    parse_rule,
    refuse_unsupported,
    table,
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
    corrected by sketches ``V = G Q Z`` with random signs ``Z`` (see :mod:`secant.layerwise.factors`)::

        P <- P - kappa P V (V' P V)^-1 V' P + (lost trace / m) I
        update = -lr * length * P (average of G) Q

    so that ``P ~ E[V V']^(-1/2)``. No eigenvalues, no roots, no hooks: ``step`` reads ``.grad`` and nothing else, so the optimizer stands wherever
    ``AdamW`` does. Each update has a root mean square of ``0.1 lr``, less where its largest singular value would be above ``0.2 lr sqrt(max(m, n))``.

    A side of dimension ``p`` is kept where ``p * p`` does not exceed the number of elements and ``p`` not ``largest_side``: one factor for most matrices, two
    for square ones, and never more than three numbers of state per parameter. Embeddings, normalizations, biases, the last layer and whatever is not a
    matrix are trained by ``AdamW`` at ``adamw_share`` of the learning rate; :meth:`routing` tells which.

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
        multiply_dtype: torch.dtype | None = None,
        rules: Mapping[str, Rule | str] | None = None,
        maximize: bool = False,
        seed: int = 0,
    ) -> None:
        _check_options(every=every, window=window, kappa=kappa, largest_side=largest_side, adamw_share=adamw_share)
        self._options = FactorOptions(_sides(sides), largest_side, window, kappa, _LARGEST_KAPPA, _power(power), multiply_dtype)
        self._every = every
        self._routes: dict[Tensor, Route] = {}
        self._given_rules = dict(rules or {})
        self._stacks: list[tuple[dict[str, Any], MatrixStack]] = []
        self._stacked: tuple[int, ...] = ()
        self._steps = 0
        self._seed = seed
        self._generator = torch.Generator().manual_seed(seed)
        self.skipped_steps = 0
        groups, known = _groups(params)
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
        self._known = known
        super().__init__(groups, defaults)
        self._route()

    def routing(self) -> RoutingTable:
        """How each parameter is trained and why, in the order of the groups; prints as a table."""
        return RoutingTable(self._routes[parameter] for group in self.param_groups for parameter in group["params"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, as in torch; they are routed by name if they have one, else by shape.

        Raises:
            ValueError: An option out of range, an unknown rule, or a parameter that is in another group.
            TypeError: A parameter of a kind that cannot be trained.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            _check_group(group)
            for parameter in group["params"]:
                refuse_unsupported(parameter)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        if self._routes:  # not while the constructor runs
            self._route()

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
        self._steps += 1
        return loss

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict`` needs to go on bit for bit: tensors and plain numbers; the entry ``"secant"`` holds the random generator and counters."""
        saved = super().state_dict()
        saved[_SAVED] = {"generator": self._generator.get_state(), "steps": self._steps, "skipped_steps": self.skipped_steps}
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
        # torch casts state to the type of the parameter, which would round factors of half-precision weights
        saved_ids = itertools.chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        for index, parameter in zip(saved_ids, self._all_parameters(), strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                device = None if name in ("step", "corrections") else parameter.device
                self.state[parameter][name] = value.detach().to(device=device, copy=True)
        saved = state_dict[_SAVED]
        self._generator.set_state(saved["generator"].cpu())
        self._steps, self.skipped_steps = saved["steps"], saved["skipped_steps"]
        self._stacked = ()
        self._route()

    def __getstate__(self) -> dict[str, Any]:
        """What ``pickle`` and ``deepcopy`` take; a generator can only be taken as bytes."""
        left_out = ("_generator", "_stacks", "_stacked")
        mine = {name: value for name, value in self.__dict__.items() if name.startswith("_") and name not in left_out and name in _PICKLED}
        return super().__getstate__() | mine | {"skipped_steps": self.skipped_steps, "_generator_bytes": self._generator.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the generator and the stacks."""
        saved = state.pop("_generator_bytes", None)
        super().__setstate__(state)
        if saved is not None:
            self._generator = torch.Generator()
            self._generator.set_state(saved)
            self._stacks, self._stacked = [], ()

    def _route(self) -> None:
        """Decide the rule of every parameter: its group's, a pattern's, its layer's, its name's or its shape's."""
        bare = [p for p in self._all_parameters() if p not in self._known]
        named = {p: name for group in self.param_groups for p, name in zip(group["params"], group.get("param_names", ()), strict=False)}
        if bare and not named and any(p.ndim >= 2 for p in bare) and not all(group.get("rule") for group in self.param_groups) and not self._routes:
            warn_user(_BARE_WARNING)
        found = dict(self._known)
        by_name = [(named[p], p) for p in bare if p in named]
        found |= named_routes(by_name)
        found |= bare_routes(p for p in bare if p not in named)
        if self._given_rules:
            found = overruled(found, self._given_rules)
        for group in self.param_groups:
            for parameter in group["params"]:
                if group.get("rule") is not None:
                    found[parameter] = overrule(parameter, found[parameter], parse_rule(group["rule"]), "rule of its group")
                if found[parameter].rule is Rule.KRON and not any(kept_sides(*matrix_shape(parameter), self._options.sides, self._options.largest_side)):
                    found[parameter] = overrule(parameter, found[parameter], Rule.ADAMW, f"both sides above {self._options.largest_side}")
        self._routes = {parameter: found[parameter] for parameter in self._all_parameters()}
        self._stacked = ()

    def _all_parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _step_matrices(self, active: Sequence[tuple[dict[str, Any], Sequence[Tensor]]]) -> None:
        chosen = [(group, [p for p in parameters if self._routes[p].rule is Rule.KRON]) for group, parameters in active]
        identity = tuple(id(p) for _, parameters in chosen for p in parameters)
        if identity != self._stacked:
            self._stacks = [(group, MatrixStack(equal, [self.state[p] for p in equal], self._options)) for group, ps in chosen for equal in self._equal(ps)]
            self._stacked = identity
        corrects = self._steps % self._every == 0
        needed = [stack.signs_needed(corrects=corrects) for _, stack in self._stacks]
        signs = self._signs(sum(needed)) if any(needed) else None
        start = 0
        for (group, stack), count in zip(self._stacks, needed, strict=True):
            piece = None if signs is None else signs[start : start + count].to(stack.parameters[0].device, non_blocking=True)
            start += count
            gradients = [p.grad for p in stack.parameters if p.grad is not None]
            if group["maximize"]:
                gradients = list(torch._foreach_neg(gradients))
            movement = Movement(_number(group["lr"]), group["momentum"], group["nesterov"], group["weight_decay"])
            stack.advance(gradients, movement, piece, corrects=corrects)

    def _equal(self, parameters: Sequence[Tensor]) -> list[list[Tensor]]:
        """Parameters that can share a kernel: of one matrix shape, dtype and device, and equally old."""
        stacks: dict[Any, list[Tensor]] = {}
        for p in parameters:
            state = self.state[p]
            age = (float(state["step"]), float(state["corrections"])) if state else None
            stacks.setdefault((tuple(p.shape), p.dtype, p.device, age), []).append(p)
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


_PICKLED = frozenset({"_options", "_every", "_routes", "_given_rules", "_steps", "_seed", "_known"})


@final
class RoutingTable(tuple[Route, ...]):
    """The routes of all parameters; prints as aligned text."""

    __slots__ = ()

    def __str__(self) -> str:
        return table(self)


def _groups(params: Parameters) -> tuple[list[Any], dict[Tensor, Route]]:
    """What torch takes as groups, and the routes that only a module can tell."""
    if isinstance(params, nn.Module):
        named = list(params.named_parameters())
        if not named:
            raise ValueError("Expected a module with parameters, got one without any.")
        return named, module_routes(params)
    if isinstance(params, Tensor):
        raise TypeError("Expected a module, an iterable of parameters or groups, got one tensor. Pass [parameter].")
    return list(params), {}


def _all_finite(gradients: Sequence[Tensor]) -> bool:
    """Whether no gradient holds NaN or infinity: the one question the host asks in a step."""
    for gradient in gradients:
        if gradient.layout != torch.strided:
            raise TypeError(f"Expected dense gradients, got one with layout {gradient.layout}. Build the embedding with sparse=False.")
    device = gradients[0].device
    if bool(torch.stack([norm.to(device, torch.float32) for norm in torch._foreach_norm(list(gradients), 2)]).isfinite().all()):
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


def _check_options(*, every: int, window: int, kappa: float | None, largest_side: int, adamw_share: float) -> None:
    for name, value in (("every", every), ("window", window), ("largest_side", largest_side)):
        if not (isinstance(value, int) and value >= 1):
            raise ValueError(f"RankOneKron needs a whole number {name} >= 1, got {value!r}.")
    if kappa is not None and not 0.0 < kappa < 1.0:
        raise ValueError(f"RankOneKron needs 0 < kappa < 1, or None for the rule of window, got kappa={kappa}.")
    if not adamw_share > 0.0:
        raise ValueError(f"RankOneKron needs adamw_share > 0, got {adamw_share}. Freeze parameters by requires_grad=False instead.")


def _check_group(group: Mapping[str, Any]) -> None:
    lr, momentum, decay, betas, eps = _number(group["lr"]), group["momentum"], group["weight_decay"], group["betas"], group["eps"]
    if not lr >= 0.0:
        raise ValueError(f"RankOneKron needs lr >= 0, got {lr}.")
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"RankOneKron needs 0 <= momentum < 1, got {momentum}.")
    if not decay >= 0.0:
        raise ValueError(f"RankOneKron needs weight_decay >= 0, got {decay}.")
    if not all(0.0 <= beta < 1.0 for beta in betas) or not eps >= 0.0:
        raise ValueError(f"RankOneKron needs 0 <= beta < 1 and eps >= 0, got betas={tuple(betas)}, eps={eps}.")
    if group.get("rule") is not None:
        parse_rule(group["rule"])
