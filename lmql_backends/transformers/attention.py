"""The attention function that transformers models call: new keys and values into their slots, then attend."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from lmql_backends.transformers.branch_attention import attend_branches
from lmql_backends.transformers.kv_segment import LayerShape
from lmql_backends.transformers.scores import Scores, Seen, attend
from lmql_backends.transformers.step_plan import Group, PlacedSpan, StepPlan

ATTENTION_NAME = "dcmodel_slots"
# Scores of a long span are computed in blocks of up to this many rows (little is computed past the diagonal)
# and about this many numbers.
BLOCK_ROWS = 64
MAX_SCORES = 1 << 22


class Step(Protocol):
    """What stands behind the attention calls of one forward."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
        """From ``[heads, rows, dim]`` each to ``[rows, query heads, value dim]``; one call per layer."""


def register_attention() -> None:
    """Make the function known to transformers under `ATTENTION_NAME`."""
    AttentionInterface.register(ATTENTION_NAME, _attention_forward)


def _attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    dcmodel_step: Step | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    if dcmodel_step is None or attention_mask is not None or position_bias is not None or is_causal is False:
        raise NotImplementedError(f"{type(module).__name__} attends in a way that the slot store cannot.")
    scores = Scores(
        scaling=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        window=sliding_window or 0,
        softcap=softcap or 0.0,
        sinks=s_aux,
    )
    return dcmodel_step.attend(query[0], key[0], value[0], scores).unsqueeze(0), None


@dataclass(slots=True)
class ProbeStep:
    """A forward of one token that only looks: what does each layer keep, and in which window?"""

    shapes: list[LayerShape] = field(default_factory=list)
    windows: list[int] = field(default_factory=list)
    devices: set[torch.device] = field(default_factory=set)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
        self.shapes.append(LayerShape(key.shape[0], key.shape[-1], value.shape[-1], key.dtype))
        self.windows.append(scores.window)
        self.devices.add(key.device)
        return value.repeat_interleave(query.shape[0] // value.shape[0], dim=0).transpose(0, 1)


class SlotStep:
    """Executes a `StepPlan`, layer by layer."""

    def __init__(self, plan: StepPlan, num_layers: int) -> None:
        self._plan = plan
        self._layers = num_layers
        self._layer = 0
        self._chunk_masks: dict[tuple[int, int, int, int], Tensor] = {}
        self.is_finite = True
        """Whether all keys and values of this forward are numbers (valid afterwards)."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
        layer, self._layer = self._layer, self._layer + 1
        plan = self._plan
        queries, keys, values = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        for write in plan.writes:
            cells = (write.slots, write.positions)
            write.segment.key_cells[layer].index_put_(cells, keys[write.rows])
            write.segment.value_cells[layer].index_put_(cells, values[write.rows])
        if self._layer == self._layers:
            # A NaN of any earlier layer has reached this one through the residual stream.
            self.is_finite = bool(values.sum(dtype=torch.float32).isfinite())
        if len(plan.groups) == 1 and not plan.chunks and not plan.branches and plan.groups[0].kept is None:
            group = plan.groups[0]
            if isinstance(group.rows, slice):
                return _attend_group(group, layer, queries, scores)
        context = query.new_empty((queries.shape[0], queries.shape[1], value.shape[-1]))
        for group in plan.groups:
            attended = _attend_group(group, layer, queries[group.rows], scores)
            if group.kept is None:
                context[group.rows] = attended
            else:
                assert isinstance(group.rows, Tensor)
                context[group.rows[group.kept]] = attended[group.kept]
        for chunk in plan.chunks:
            rows = slice(chunk.row, chunk.row + chunk.count)
            self._attend_chunk(
                chunk, layer, query[:, rows], key[:, rows], value[:, rows], scores, context[rows]
            )
        # Behind their spans, whose keys and values are in the slots by now.
        for branches in plan.branches:
            rows = slice(branches.row, branches.row + branches.count)
            block_rows = _block_rows(query.shape[0], branches.end + branches.count)
            attend_branches(
                branches,
                layer,
                query[:, rows],
                key[:, rows],
                value[:, rows],
                scores,
                block_rows,
                context[rows],
            )
        return context

    def _attend_chunk(
        self,
        chunk: PlacedSpan,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scores: Scores,
        context: Tensor,
    ) -> None:
        """A long span: ``[heads, rows, dim]`` each, into `context` ``[rows, query heads, value dim]``."""
        slot_keys, slot_values = (
            chunk.segment.keys[layer][chunk.slot],
            chunk.segment.values[layer][chunk.slot],
        )
        slot_keys[:, :, chunk.start : chunk.end].copy_(key.transpose(1, 2))
        slot_values[:, chunk.start : chunk.end].copy_(value)
        heads = key.shape[0]
        query = query.view(heads, -1, *query.shape[1:])
        # On a CPU, blocks take down to a quarter of the time of torch's own attention.
        if not scores.is_plain or query.device.type == "cpu":
            self._attend_chunk_blocks(chunk, query, slot_keys, slot_values, scores, context)
            return
        if chunk.start == 0 and (not scores.window or chunk.end <= scores.window):
            attended = F.scaled_dot_product_attention(
                query,
                key.unsqueeze(1).expand(-1, query.shape[1], -1, -1),
                value.unsqueeze(1).expand(-1, query.shape[1], -1, -1),
                is_causal=True,
                scale=scores.scaling,
            )
        else:
            low = _first_seen(chunk.start, scores.window)
            past_keys = slot_keys[:, :, low : chunk.end].transpose(1, 2).contiguous()
            past_values = slot_values[:, low : chunk.end]
            attended = F.scaled_dot_product_attention(
                query,
                past_keys.unsqueeze(1).expand(-1, query.shape[1], -1, -1),
                past_values.unsqueeze(1).expand(-1, query.shape[1], -1, -1),
                attn_mask=self._chunk_mask(chunk.start, chunk.end, scores.window, 1, query),
                scale=scores.scaling,
            )
        context.copy_(attended.flatten(0, 1).transpose(0, 1))

    def _attend_chunk_blocks(
        self,
        chunk: PlacedSpan,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        scores: Scores,
        context: Tensor,
    ) -> None:
        heads, shared, count, _ = query.shape
        block = _block_rows(heads * shared, chunk.end)
        for first in range(0, count, block):
            last = min(first + block, count)
            start, end = chunk.start + first, chunk.start + last
            low = _first_seen(start, scores.window)
            mask = self._chunk_mask(start, end, scores.window, shared, query)
            attended = attend(
                query[:, :, first:last].flatten(1, 2),
                Seen(keys[:, :, low:end], values[:, low:end], mask),
                scores,
                heads=heads,
                sink_rows=(1, shared, last - first),
            )
            context[first:last] = attended.view(heads * shared, last - first, -1).transpose(0, 1)

    def _chunk_mask(self, start: int, end: int, window: int, copies: int, like: Tensor) -> Tensor:
        """What to add to the scores of queries ``start .. end - 1`` over the tokens they see, repeated."""
        key = (start, end, window, copies)
        if key not in self._chunk_masks:
            positions = torch.arange(start, end, device=like.device)
            mask = _additive_mask(positions, _first_seen(start, window), end, window, like.dtype)
            self._chunk_masks[key] = mask.repeat(copies, 1)
        return self._chunk_masks[key]


def _block_rows(query_heads: int, length: int) -> int:
    return max(1, min(BLOCK_ROWS, MAX_SCORES // (query_heads * length)))


def _first_seen(position: int, window: int) -> int:
    """The first token that a query at `position` sees."""
    return max(0, position - window + 1) if window else 0


def _attend_group(group: Group, layer: int, queries: Tensor, scores: Scores) -> Tensor:
    """``[slots * width, query heads, dim]`` to ``[slots * width, query heads, value dim]``."""
    slots, width = group.slots, group.width
    heads = group.segment.keys[layer].shape[1]
    shared = queries.shape[1] // heads
    low, mask = _group_mask(group, scores.window, heads, shared, queries)
    batch = slice(group.first * heads, (group.first + slots) * heads)
    seen = Seen(
        group.segment.flat_keys[layer][batch, :, low : group.length],
        group.segment.flat_values[layer][batch, low : group.length],
        mask,
    )
    if width == 1:
        packed = queries.reshape(slots * heads, shared, -1)
        context = attend(packed, seen, scores, heads=heads, sink_rows=(slots, shared, 1))
        return context.view(slots, heads * shared, -1)
    # Query rows of a slot by (head within the group, row).
    packed = queries.view(slots, width, heads, shared, -1).permute(0, 2, 3, 1, 4)
    packed = packed.reshape(slots * heads, shared * width, -1)
    context = attend(packed, seen, scores, heads=heads, sink_rows=(slots, shared, width))
    context = context.view(slots, heads, shared, width, -1).permute(0, 3, 1, 2, 4)
    return context.reshape(slots * width, heads * shared, -1)


def _group_mask(
    group: Group, window: int, heads: int, shared: int, like: Tensor
) -> tuple[int, Tensor | None]:
    """The first token that a group reads, and what to add to its scores (shared by all layers)."""
    if window in group.masks:
        return group.masks[window]
    low = _first_seen(group.earliest, window)
    mask: Tensor | None = None
    # Where all queries are last in their slots, reading from `low` is all that the window asks.
    if any(position != group.length - 1 for position in group.positions):
        positions = torch.tensor(group.positions).to(like.device)
        rows = _additive_mask(positions, low, group.length, window, like.dtype)
        rows = rows.view(group.slots, 1, 1, group.width, -1)
        if group.width == 1:
            mask = rows.expand(-1, heads, -1, -1, -1).reshape(group.slots * heads, 1, -1)
        else:
            mask = rows.expand(-1, heads, shared, -1, -1).reshape(
                group.slots * heads, shared * group.width, -1
            )
    group.masks[window] = (low, mask)
    return group.masks[window]


def _additive_mask(positions: Tensor, low: int, end: int, window: int, dtype: torch.dtype) -> Tensor:
    """[positions, end - low]: 0 where a query may look, -inf elsewhere."""
    tokens = torch.arange(low, end, device=positions.device)
    hidden = tokens > positions[:, None]
    if window:
        hidden |= tokens <= positions[:, None] - window
    mask = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill_(hidden, float("-inf"))
