"""The newest secant pairs of a limited-memory method, and the inner products among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from secant.curvature.curvature import State
from secant.space import Space
from secant.step import Step

_FIRST_SLOTS = 8  # a short run holds no more than these; the ninth pair allocates the rest
_BLOCK = 1 << 15  # columns of one combination on a processor: the result stays in its cache while all rows are added


@dataclass(frozen=True, slots=True)
class PairProducts:
    """Inner products of one vector with the stored pairs, oldest first: ``on_s`` is ``S'v``, ``on_y`` is ``Y'v``; shape ``(k,)``, float64, on the host."""

    on_s: Tensor
    on_y: Tensor

    def without_oldest(self) -> PairProducts:
        """The products with all pairs but the oldest."""
        return PairProducts(self.on_s[1:], self.on_y[1:])

    def without_newest(self) -> PairProducts:
        """The products with all pairs but the newest."""
        return PairProducts(self.on_s[:-1], self.on_y[:-1])

    def minus(self, other: PairProducts) -> PairProducts:
        """The products with the difference of two vectors."""
        return PairProducts(self.on_s - other.on_s, self.on_y - other.on_y)


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A pair that is written but not yet kept.

    Attributes:
        slot: Where it is written.
        ss, sy, yy: ``s.s``, ``s.y``, ``y.y``.
        xx: ``x.x`` at the step's start.
        products: Of all written rows with the gradient at the trial.
    """

    slot: int
    ss: float
    sy: float
    yy: float
    xx: float
    products: Tensor


@final
class PairMemory:
    """The newest ``k <= capacity`` pairs as rows of one matrix, with ``S'S``, ``S'Y`` and ``Y'Y`` as small matrices on the host.

    Rows stay where they were written: the ring is a list of slots, and only the small matrices are shifted. A draft is written over the oldest pair of a full
    memory before it is tested, so a pair that is refused then leaves ``capacity - 1``. The products with the gradient of the point where a run stands are
    remembered: those with the next gradient, one pass over the rows, then give ``S'y`` and ``Y'y`` as differences.

    In the metric of a diagonal ``D`` (groups with different learning rates) everything lives in the variables ``D^(-1/2) x``: rows hold ``D^(-1/2) s`` and
    ``D^(1/2) y``, and vectors are multiplied by ``D^(1/2)`` on the way in and out.

    Attributes:
        ss, sy, yy: ``S'S``, ``S'Y`` and ``Y'Y``, shape ``(k, k)``, oldest pair first, float64. ``sy[i, j]`` is ``s_i . y_j``.

    Args:
        capacity: ``m``, at least 1.
        diagonal: The diagonal of ``D``, shape ``(n,)``, positive, with the type and device of the rows.
    """

    def __init__(self, capacity: int, diagonal: Tensor) -> None:
        self.capacity = capacity
        self.root = None if bool((diagonal == 1.0).all()) else diagonal.sqrt()
        self.ss = self.sy = self.yy = torch.zeros(0, 0, dtype=torch.float64)
        self._slots: list[int] = []
        self._written = 0
        self._rows = diagonal.new_empty(0, diagonal.numel())
        self._known: tuple[Tensor, PairProducts] | None = None

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self._slots)

    def draft(self, step: Step, space: Space) -> Draft:
        """Write the pair of a step with a trial into a free slot, dropping the oldest pair of a full memory. Cost: one pass over the rows, one reduction."""
        assert step.trial is not None
        if len(self._slots) == self.capacity:
            self._drop_oldest()
        slot = next(slot for slot in range(self.capacity) if slot not in self._slots)
        self._reserve(slot)
        pair = self._rows[2 * slot : 2 * slot + 2]
        s, y = pair[0], pair[1]
        torch.sub(step.trial.x, step.start.x, out=s)
        torch.sub(step.trial.grad, step.start.grad, out=y)
        if self.root is not None:
            s.div_(self.root)
            y.mul_(self.root)
        gradient = step.trial.grad if self.root is None else step.trial.grad * self.root
        products, G = space.joint(self._rows[: 2 * self._written], gradient, s, y, step.start.x)
        ss, sy, yy = G[0][0], G[0][1], G[1][1]
        if not ss + yy < float("inf"):
            pair.zero_()  # a row that is not finite would spoil combinations even with the factor 0
        return Draft(slot, ss, sy, yy, G[2][2], products)

    def keep(self, draft: Draft, step: Step, space: Space, s_new: PairProducts | None = None) -> None:
        """Make the draft of a step the newest pair. Cost: small matrices; a pass over the rows when the gradient at the step's start is not the remembered one.

        Args:
            draft: What :meth:`draft` gave for this step.
            step: The step.
            space: Inner products.
            s_new: The products with the draft's ``s``. Without them ``S'S`` and the part of ``S'Y`` below the diagonal are NaN: BFGS has no use for them.
        """
        assert step.trial is not None
        before = self.products(step.start.grad, space)
        after = _of_slots(draft.products, [*self._slots, draft.slot])
        y_new = after.without_newest().minus(before)
        if s_new is None:
            s_new = PairProducts(torch.full_like(before.on_s, torch.nan), torch.full_like(before.on_y, torch.nan))
        self.ss = _bordered(self.ss, s_new.on_s, s_new.on_s, draft.ss)
        self.sy = _bordered(self.sy, y_new.on_s, s_new.on_y, draft.sy)
        self.yy = _bordered(self.yy, y_new.on_y, y_new.on_y, draft.yy)
        self._slots.append(draft.slot)
        if step.kept is step.trial:
            self._known = (step.trial.grad, after)
        else:
            newest = (float(after.on_s[-1]) - draft.sy, float(after.on_y[-1]) - draft.yy)
            self._known = (step.start.grad, PairProducts(_appended(before.on_s, newest[0]), _appended(before.on_y, newest[1])))

    def discard_newest(self) -> None:
        """Undo :meth:`keep`."""
        self._slots.pop()
        self.ss, self.sy, self.yy = self.ss[:-1, :-1], self.sy[:-1, :-1], self.yy[:-1, :-1]
        if self._known is not None:
            self._known = (self._known[0], self._known[1].without_newest())

    def forget_all_but(self, count: int) -> None:
        """Drop the oldest pairs until ``count`` are left."""
        while len(self._slots) > count:
            self._drop_oldest()

    def products(self, v: Tensor, space: Space) -> PairProducts:
        """``S'v`` and ``Y'v`` for a vector of shape ``(n,)``. Cost: one pass over the rows, none for the remembered gradient."""
        if self._known is not None and (self._known[0] is v or torch.equal(self._known[0], v)):
            return self._known[1]
        return self._pass(v, space, self._slots)

    def remember(self, v: Tensor, products: PairProducts) -> None:
        """Note the products with the gradient of the point where the run stands."""
        self._known = (v, products)

    def row_products(self, draft: Draft, space: Space) -> PairProducts:
        """The products of the kept pairs with the draft's ``s``. Cost: one pass over the rows."""
        return self._pass(self._rows[2 * draft.slot], space, self._slots, is_row=True)

    def _pass(self, v: Tensor, space: Space, slots: list[int], *, is_row: bool = False) -> PairProducts:
        if not slots:
            return PairProducts(torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64))
        found = space.cross(self._rows[: 2 * self._written], v if self.root is None or is_row else v * self.root)
        return _of_slots(found, slots)

    def combination(self, v: Tensor, multiple: float, of_s: Tensor, of_y: Tensor) -> Tensor:
        """``multiple D v + S of_s + Y of_y``, with ``S`` and ``Y`` in the metric of ``D``, shape ``(n,)``, a new tensor. Cost: one pass over the rows."""
        if not self._slots:
            return v * multiple if self.root is None else v * self.root * multiple * self.root
        rows = self._rows[: 2 * self._written]
        weights = torch.zeros(2 * self._written, dtype=torch.float64)
        weights[[2 * slot for slot in self._slots]] = of_s
        weights[[2 * slot + 1 for slot in self._slots]] = of_y
        weights = weights.to(rows.device, rows.dtype)
        if self.root is not None:
            v = v * self.root
        result = torch.empty_like(v)
        block = _BLOCK if v.device.type == "cpu" else max(1, v.numel())
        for start in range(0, v.numel(), block):
            columns = slice(start, start + block)
            torch.addmv(v[columns], rows[:, columns].T, weights, beta=multiple, out=result[columns])
        return result if self.root is None else result.mul_(self.root)

    def dense(self, multiple: float, middle: Tensor, *, inverse: bool) -> Tensor:
        """``multiple D + W middle W'`` with ``W = [S Y]``, or the same in ``D^-1`` for the Hessian: a new symmetric matrix of shape ``(n, n)``."""
        rows = self._rows[[2 * slot for slot in self._slots] + [2 * slot + 1 for slot in self._slots]].double()
        matrix = rows.T @ middle.to(rows.device) @ rows
        matrix = 0.5 * (matrix + matrix.T)
        matrix.diagonal().add_(multiple)
        if self.root is not None:
            factor = self.root.double() if inverse else self.root.double().reciprocal()
            matrix = factor[:, None] * matrix * factor
        return matrix.to(self._rows.dtype)

    @staticmethod
    def bytes_needed(capacity: int, size: int, bytes_per_number: int) -> int:
        """``2 m n`` numbers, and the first few pairs a second time while they move to the full block."""
        moved = _FIRST_SLOTS if capacity > _FIRST_SLOTS else 0
        return 2 * (capacity + moved) * size * bytes_per_number

    def state(self) -> State:
        """All that is needed to go on bit for bit; the tensors are copies."""
        written = self._rows[: 2 * self._written].clone()
        slots = torch.tensor(self._slots, dtype=torch.int64)
        root = None if self.root is None else self.root.clone()
        saved: State = {"rows": written, "slots": slots, "ss": self.ss.clone(), "sy": self.sy.clone(), "yy": self.yy.clone(), "root": root}
        if self._known is not None:
            vector, products = self._known
            saved |= {"known_vector": vector.clone(), "known_on_s": products.on_s.clone(), "known_on_y": products.on_y.clone()}
        return saved

    @classmethod
    def from_state(cls, state: State, capacity: int, like: Tensor) -> PairMemory:
        """The memory that was saved, on the device of ``like``; its newest pairs where it held more than fit."""
        saved = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        rows = saved["rows"].to(like.device)
        memory = cls(capacity, rows.new_ones(rows.shape[1]))
        memory.root = saved["root"].to(like.device, copy=True) if "root" in saved else None
        memory.ss, memory.sy, memory.yy = (saved[name].to("cpu", copy=True) for name in ("ss", "sy", "yy"))
        if "known_vector" in saved:
            products = PairProducts(saved["known_on_s"].to("cpu", copy=True), saved["known_on_y"].to("cpu", copy=True))
            memory.remember(saved["known_vector"].to(like.device, copy=True), products)
        memory._slots = saved["slots"].tolist()
        if rows.shape[0] > 2 * capacity:
            memory.forget_all_but(capacity)
            rows = rows[[row for slot in memory._slots for row in (2 * slot, 2 * slot + 1)]]
            memory._slots = list(range(len(memory._slots)))
        if rows.shape[0]:
            memory._reserve(rows.shape[0] // 2 - 1)
            memory._rows[: rows.shape[0]].copy_(rows)
        return memory

    def _reserve(self, slot: int) -> None:
        """Room for the rows of ``slot``."""
        if 2 * slot + 2 > self._rows.shape[0]:
            slots = self.capacity if slot >= _FIRST_SLOTS else min(_FIRST_SLOTS, self.capacity)
            rows = self._rows.new_empty(2 * slots, self._rows.shape[1])
            rows[: 2 * self._written].copy_(self._rows[: 2 * self._written])
            self._rows = rows
        self._written = max(self._written, slot + 1)

    def _drop_oldest(self) -> None:
        del self._slots[0]
        self.ss, self.sy, self.yy = self.ss[1:, 1:], self.sy[1:, 1:], self.yy[1:, 1:]
        if self._known is not None:
            self._known = (self._known[0], self._known[1].without_oldest())


def _of_slots(found: Tensor, slots: list[int]) -> PairProducts:
    """The products of these slots, in this order, among those of all written rows."""
    return PairProducts(found[[2 * slot for slot in slots]], found[[2 * slot + 1 for slot in slots]])


def _appended(values: Tensor, value: float) -> Tensor:
    return torch.cat([values, values.new_tensor([value])])


def _bordered(matrix: Tensor, column: Tensor, row: Tensor, corner: float) -> Tensor:
    """A square matrix with one more column, row and corner."""
    k = matrix.shape[0]
    larger = matrix.new_empty(k + 1, k + 1)
    larger[:k, :k], larger[:k, k], larger[k, :k], larger[k, k] = matrix, column, row, corner
    return larger
