"""From the rows of a forward to the trees of candidates that asked for them."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np

from dcmodel.logits import Bools, Floats, Ints, LogitRows, ScoredRows
from dcmodel.scheduling.candidates import CandidateSequence

TreeAndRow = tuple[CandidateSequence, int]
"""A sequence of a batch and its first row of logits."""


@dataclass(slots=True)
class TreeScores:
    """What one forward says of one tree."""

    edges: Ints
    logprobs: Floats
    ranks: Ints
    is_finite: bool
    top_edges: Ints
    """One edge of each row, where likeliest tokens are wanted."""
    top: tuple[Ints, Floats]


def score_trees(rows: LogitRows, trees: Seq[TreeAndRow]) -> list[TreeScores]:
    """Look up the targets of all trees in one operation, the likeliest tokens of their rows in another."""
    if not trees:
        return []
    targets = [sequence.targets() for sequence, _ in trees]
    places = [local + first for (_, first), (*_, local) in zip(trees, targets, strict=True)]
    tokens = [token_ids for _, token_ids, _ in targets]
    scored = rows.score(np.concatenate(places), np.concatenate(tokens), 0)
    one_each = [
        _row_starts(own) if sequence.top_logprobs else np.zeros(0, dtype=np.int64)
        for own, (sequence, _) in zip(places, trees, strict=True)
    ]
    top = _top(rows, trees, places, tokens, one_each)
    result: list[TreeScores] = []
    begin = top_begin = 0
    for (edges, _, _), starts in zip(targets, one_each, strict=True):
        end, top_end = begin + len(edges), top_begin + len(starts)
        result.append(
            TreeScores(
                edges=edges,
                logprobs=scored.logprob[begin:end],
                ranks=scored.rank[begin:end],
                is_finite=bool(scored.is_finite[begin:end].all()),
                top_edges=edges[starts],
                top=(top[0][top_begin:top_end], top[1][top_begin:top_end]),
            )
        )
        begin, top_begin = end, top_end
    return result


def _top(
    rows: LogitRows, trees: Seq[TreeAndRow], places: list[Ints], tokens: list[Ints], one_each: list[Ints]
) -> tuple[Ints, Floats]:
    count = max(sequence.top_logprobs for sequence, _ in trees)
    if not count:
        return np.zeros((0, 0), dtype=np.int64), np.zeros((0, 0), dtype=np.float32)
    wanted = np.concatenate([own[starts] for own, starts in zip(places, one_each, strict=True)])
    some = np.concatenate([own[starts] for own, starts in zip(tokens, one_each, strict=True)])
    found: ScoredRows = rows.score(wanted, some, count)
    return found.top


def _row_starts(rows: Ints) -> Ints:
    """Where, in ascending row numbers, each row begins."""
    changes: Bools = np.ones(len(rows), dtype=np.bool_)
    changes[1:] = rows[1:] != rows[:-1]
    return np.flatnonzero(changes)
