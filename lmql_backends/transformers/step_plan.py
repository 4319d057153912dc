"""How one forward is laid out: which rows go where in the KV store, and which are attended together.

Rows are the tokens of the batch in *packed order*: spans of one token by slot, then short spans by slot,
then long spans, then the branches of all spans. All layers share the plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dcmodel.adapters import BASE
from dcmodel.engine import GenerateBatch
from lmql_backends.transformers.branch_plan import PlacedBranches, depths_and_sight
from lmql_backends.transformers.kv_segment import Segment
from lmql_backends.transformers.kv_store import KVStore

# Spans up to this many tokens are attended in groups, as padded rows; longer ones each by themselves.
SHORT_SPAN = 16
# What one more group costs in each layer (a handful of small operations), as bytes of KV read in that time.
GROUP_BYTES = 256 * 1024


@dataclass(slots=True)
class PlacedSpan:
    """A span of the batch and where its sequence lies."""

    index: int
    segment: Segment
    slot: int
    start: int
    count: int
    row: int = 0
    """Its first row in packed order."""

    @property
    def end(self) -> int:
        return self.start + self.count


@dataclass(slots=True)
class Write:
    """New keys and values of some rows, for the cells of one segment."""

    segment: Segment
    rows: slice | Tensor
    slots: Tensor
    positions: Tensor


@dataclass(slots=True)
class Group:
    """Slots ``first .. first + slots - 1`` of a segment, each attended by up to `width` query rows.

    Slots without a span in this step (holes) and missing rows are computed as well, and dropped.
    """

    segment: Segment
    first: int
    slots: int
    width: int
    length: int
    """How many tokens of each slot are read."""
    earliest: int
    """Lowest position of a query."""
    positions: list[int]
    """Of each of the ``slots * width`` query rows."""
    rows: slice | Tensor
    """Packed row of each query row."""
    kept: Tensor | None
    """Which query rows are real; None if all are."""
    masks: dict[int, tuple[int, Tensor | None]] = field(default_factory=dict)
    """Per sliding window (0: none): the first token to read, and what to add to the scores."""


@dataclass(slots=True)
class StepPlan:
    """One forward."""

    input_ids: Tensor
    """[1, rows]"""
    position_ids: Tensor
    """[1, rows]"""
    logit_rows: Tensor
    """Packed rows whose logits are wanted, in the order of the batch."""
    writes: list[Write]
    groups: list[Group]
    chunks: list[PlacedSpan]
    """Long spans."""
    branches: list[PlacedBranches]
    adapters: list[int] | int
    """Of each row; `BASE` where none has one."""
    wanted: list[int]
    """`logit_rows` as a list."""


def plan_step(batch: GenerateBatch, store: KVStore) -> StepPlan:
    """Lay out a batch whose sequences have room for it."""
    single: list[PlacedSpan] = []
    short: list[PlacedSpan] = []
    chunks: list[PlacedSpan] = []
    branches: list[PlacedBranches] = []
    for index, wanted in enumerate(batch.spans):
        entry = store[wanted.sequence]
        placed = PlacedSpan(index, entry.segment, entry.slot, wanted.start, len(wanted.token_ids))
        if wanted.branches is not None and len(wanted.branches.token_ids):
            shape = depths_and_sight(wanted.branches)
            branches.append(PlacedBranches(index, entry.segment, entry.slot, placed.end, *shape))
        if not placed.count:
            continue
        kind = single if placed.count == 1 else short if placed.count <= SHORT_SPAN else chunks
        kind.append(placed)
    bytes_per_token = max(shape.bytes_per_token for shape in store.shapes)
    runs = [_by_segment(single), _by_segment(short)]
    ordered = [span for run in runs for spans in run for span in spans] + chunks
    token_ids: list[int] = []
    positions: list[int] = []
    for span in ordered:
        span.row = len(token_ids)
        token_ids.extend(batch.spans[span.index].token_ids)
        positions.extend(range(span.start, span.end))
    for tree in branches:
        found = batch.spans[tree.index].branches
        assert found is not None
        tree.row = len(token_ids)
        token_ids.extend(found.token_ids)
        positions.extend(tree.positions.tolist())
    wanted_rows = _wanted_rows(batch, ordered, branches)
    grouped = [span for span in ordered if span.count <= SHORT_SPAN]
    device = store.device
    return StepPlan(
        input_ids=_longs(token_ids, device).unsqueeze(0),
        position_ids=_longs(positions, device).unsqueeze(0),
        logit_rows=_longs(wanted_rows, device),
        writes=[_write(spans, device) for spans in _by_segment(grouped)],
        groups=[
            _group(members, device)
            for run in runs
            for spans in run
            for members in _partition(spans, GROUP_BYTES // bytes_per_token)
        ],
        chunks=chunks,
        branches=branches,
        adapters=_adapters(batch, [*ordered, *branches]),
        wanted=wanted_rows,
    )


def _adapters(batch: GenerateBatch, placed: Sequence[PlacedSpan | PlacedBranches]) -> list[int] | int:
    """The adapter of each row in packed order."""
    if all(span.adapter == BASE for span in batch.spans):
        return BASE
    return [adapter for part in placed for adapter in [batch.spans[part.index].adapter] * part.count]


def _by_segment(spans: list[PlacedSpan]) -> list[list[PlacedSpan]]:
    """Spans by segment and, within one, in the order of their slots."""
    segments: dict[int, list[PlacedSpan]] = {}
    for span in spans:
        segments.setdefault(id(span.segment), []).append(span)
    return [sorted(members, key=lambda span: span.slot) for members in segments.values()]


def _wanted_rows(
    batch: GenerateBatch, ordered: list[PlacedSpan], branches: list[PlacedBranches]
) -> list[int]:
    first_row = {span.index: span.row for span in ordered}
    first_branch_row = {tree.index: tree.row for tree in branches}
    rows: list[int] = []
    for index, span in enumerate(batch.spans):
        rows.extend(first_row[index] + offset for offset in span.wanted)
        if span.branches is not None:
            rows.extend(first_branch_row[index] + offset for offset in span.branches.wanted)
    return rows


def _write(spans: list[PlacedSpan], device: torch.device) -> Write:
    rows = [row for span in spans for row in range(span.row, span.row + span.count)]
    return Write(
        segment=spans[0].segment,
        rows=_slice_or_index(rows, device),
        slots=_longs([span.slot for span in spans for _ in range(span.count)], device),
        positions=_longs([position for span in spans for position in range(span.start, span.end)], device),
    )


def _partition(spans: list[PlacedSpan], group_cost: int) -> Iterable[list[PlacedSpan]]:
    """Split spans (by slot) where the padding of a joint group would cost more than one more group."""
    members: list[PlacedSpan] = []
    width = length = 0
    cost = 0.0
    for span in spans:
        joint_width, joint_length = max(width, span.count), max(length, span.end)
        if members:
            slots = span.slot - members[0].slot + 1
            joint_cost = _cost(slots, joint_width, joint_length)
            if joint_cost - cost - _cost(1, span.count, span.end) > group_cost:
                yield members
                members, joint_width, joint_length = [], span.count, span.end
        members.append(span)
        width, length = joint_width, joint_length
        cost = _cost(span.slot - members[0].slot + 1, width, length)
    if members:
        yield members


def _cost(slots: int, width: int, length: int) -> float:
    """In tokens of KV read; each further query row costs about a quarter of the reading."""
    return slots * length * (3 + width) / 4


def _group(members: list[PlacedSpan], device: torch.device) -> Group:
    first = members[0].slot
    slots = members[-1].slot - first + 1
    width = max(span.count for span in members)
    length = max(span.end for span in members)
    # Holes and missing rows read some row of the batch, at a position that leaves them something to attend.
    rows = [members[0].row] * (slots * width)
    positions = [length - 1] * (slots * width)
    real: list[int] = []
    for span in members:
        base = (span.slot - first) * width
        rows[base : base + width] = [*range(span.row, span.row + span.count)] + [span.row] * (
            width - span.count
        )
        positions[base : base + width] = [*range(span.start, span.end)] + [span.start] * (width - span.count)
        real.extend(range(base, base + span.count))
    return Group(
        segment=members[0].segment,
        first=first,
        slots=slots,
        width=width,
        length=length,
        earliest=min(span.start for span in members),
        positions=positions,
        rows=_slice_or_index([rows[place] for place in real], device)
        if len(real) == len(rows)
        else _longs(rows, device),
        kept=None if len(real) == len(rows) else _longs(real, device),
    )


def _slice_or_index(rows: list[int], device: torch.device) -> slice | Tensor:
    """Consecutive rows as a slice: a view instead of a copy."""
    if rows == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[-1] + 1)
    return _longs(rows, device)


def _longs(values: list[int], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.long).to(device, non_blocking=True)
