"""Attention between given queries, keys and values: the products, and what a layer does in between."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Scores:
    """What one layer does between queries and weights."""

    scaling: float
    window: int = 0
    """Sliding window in tokens; 0: none."""
    softcap: float = 0.0
    """0: none."""
    sinks: Tensor | None = None
    """[query heads]: a logit per head that takes weight and has no value."""

    @property
    def is_plain(self) -> bool:
        """Whether torch's own attention computes this."""
        return not self.softcap and self.sinks is None


@dataclass(slots=True)  # made in each layer; not frozen: that takes three times as long
class Seen:
    """Tokens that queries look at."""

    keys: Tensor
    """[b, dim, length]"""
    values: Tensor
    """[b, length, value dim]"""
    mask: Tensor | None
    """What to add to the scores, ``[b, rows, length]`` or what broadcasts to it; None: nothing."""


def attend(
    queries: Tensor, seen: Seen, scores: Scores, *, heads: int, sink_rows: tuple[int, int, int]
) -> Tensor:
    """Batched attention of queries [b, rows, dim] to [b, rows, value dim].

    `b` is (slots, heads), `rows` is (query heads that share a head, queries); `sink_rows` says how many
    slots, such query heads, and queries.
    """
    weights = _scores(queries, seen, scores)
    if scores.sinks is None:
        return torch.bmm(torch.softmax(weights, dim=-1), seen.values)
    weights = torch.cat([weights, _sinks(scores.sinks, weights, heads, sink_rows)], dim=-1)
    return torch.bmm(torch.softmax(weights, dim=-1)[..., :-1], seen.values)


def attend_both(
    queries: Tensor, first: Seen, second: Seen, scores: Scores, *, heads: int, sink_rows: tuple[int, int, int]
) -> Tensor:
    """The same over tokens that lie in two places."""
    parts = [_scores(queries, first, scores), _scores(queries, second, scores)]
    if scores.sinks is not None:
        parts.append(_sinks(scores.sinks, parts[0], heads, sink_rows))
    weights = torch.softmax(torch.cat(parts, dim=-1), dim=-1)
    border = parts[0].shape[-1]
    result = torch.bmm(weights[..., :border], first.values)
    return result.baddbmm_(weights[..., border : border + parts[1].shape[-1]], second.values)


def _scores(queries: Tensor, seen: Seen, scores: Scores) -> Tensor:
    """[b, rows, length], before the softmax."""
    if scores.softcap:
        weights = torch.bmm(queries, seen.keys).mul_(scores.scaling / scores.softcap)
        weights = weights.tanh_().mul_(scores.softcap)
        return weights if seen.mask is None else weights.add_(seen.mask)
    if seen.mask is None:
        return torch.bmm(queries * scores.scaling, seen.keys)
    return torch.baddbmm(seen.mask, queries, seen.keys, alpha=scores.scaling)


def _sinks(sinks: Tensor, weights: Tensor, heads: int, sink_rows: tuple[int, int, int]) -> Tensor:
    slots, shared, width = sink_rows
    rows = sinks.to(weights.dtype).view(1, heads, shared, 1).expand(slots, heads, shared, width)
    return rows.reshape(*weights.shape[:2], 1)
