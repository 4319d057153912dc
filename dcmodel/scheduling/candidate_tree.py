"""Continuations of one prompt as a tree, cut into parts that fit a forward.

An *edge* is a token after one certain text; candidates that begin alike share edges. Edges are numbered
depth first, in the order of the sorted candidates. An edge has its log-probability from the row of its
parent (the prompt's last row at the top); only edges with children are computed (*inner* ones).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dcmodel.engine import Branches
from dcmodel.logits import Floats, Ints

TOP = -1
"""The parent of the first tokens."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one forward computes of a tree."""

    branches: Branches
    first: int
    count: int
    """Which inner edges, of all, it computes for the first time."""


class CandidateTree:
    """The edges of all candidates, and what is known of them."""

    def __init__(self, candidates: Sequence[tuple[int, ...]], top_logprobs: int = 0) -> None:
        """`candidates`: none of them empty; the same one may come several times."""
        self.top_logprobs = top_logprobs
        tokens, parents, self._paths = _edges(candidates)
        self._tokens = np.array(tokens, dtype=np.int64)
        self._parents = np.array(parents, dtype=np.int64)
        # Edges by parent: the targets of one row lie together, the rows in the order of the inner edges.
        self._by_parent = np.argsort(self._parents, kind="stable")
        self._sorted_parents = self._parents[self._by_parent]
        self._inner = np.unique(self._sorted_parents[self._sorted_parents != TOP])
        self._logprobs: Floats = np.zeros(len(tokens), dtype=np.float32)
        self._ranks: Ints = np.zeros(len(tokens), dtype=np.int64)
        self._tops: dict[int, tuple[list[int], list[float]]] = {}
        self.has_top = False
        """Whether the first tokens are scored."""
        self._next = 0

    @property
    def num_inner(self) -> int:
        """How many tokens have to be computed behind the prompt."""
        return len(self._inner)

    @property
    def is_done(self) -> bool:
        return self.has_top and self._next == len(self._inner)

    def part(self, max_tokens: int, max_rows: int) -> Part | None:
        """The next inner edges that fit, with the ancestors of the first one, which are computed again;
        None: nothing is left, or not even one fits."""
        left = self._inner[self._next :]
        if not len(left):
            return None
        ancestors = self._ancestors(int(left[0]))
        count = min(max_tokens - len(ancestors), max_rows, len(left))
        if count <= 0:
            return None
        edges = np.concatenate([np.array(ancestors, dtype=np.int64), left[:count]])
        above = self._parents[edges]
        parents = np.where(above == TOP, -1, np.searchsorted(edges, above))
        branches = Branches(
            token_ids=self._tokens[edges].tolist(),
            parents=parents.tolist(),
            wanted=range(len(ancestors), len(edges)),
        )
        return Part(branches, self._next, count)

    def targets(self, part: Part | None, *, with_top: bool) -> tuple[Ints, Ints, Ints]:
        """The edges that a forward scores, their tokens and the rows that hold them, counted from the
        first row of the sequence (the prompt's last row, `with_top`)."""
        begin = 0 if with_top else self._first_target(0)
        end = self._first_target(0 if part is None else part.first + part.count)
        if part is not None and not with_top:
            begin = self._first_target(part.first)
        edges = self._by_parent[begin:end]
        above = self._sorted_parents[begin:end]
        rows = np.zeros(len(edges), dtype=np.int64)
        if part is not None:
            own = self._inner[part.first : part.first + part.count]
            rows = np.where(above == TOP, 0, np.searchsorted(own, above) + with_top)
        return edges, self._tokens[edges], rows

    def take(self, part: Part | None, edges: Ints, logprobs: Floats, ranks: Ints, *, with_top: bool) -> None:
        """Keep what a forward gave for `targets`."""
        self._logprobs[edges] = logprobs
        self._ranks[edges] = ranks
        self.has_top |= with_top
        if part is not None:
            self._next += part.count

    def take_tops(self, edges: Ints, ids: Ints, logprobs: Floats) -> None:
        """Keep the likeliest tokens ``[edges, k]`` of the rows that hold these edges (one of each row)."""
        for edge, row_ids, row_logprobs in zip(edges, ids.tolist(), logprobs.tolist(), strict=True):
            self._tops[int(self._parents[edge])] = (row_ids, row_logprobs)

    def results(self) -> list[tuple[list[float], list[int], list[tuple[list[int], list[float]]]]]:
        """Log-probabilities, ranks and likeliest tokens of each candidate, in the order given."""
        logprobs, ranks = self._logprobs.tolist(), self._ranks.tolist()
        parents = self._parents.tolist() if self._tops else []
        return [
            (
                [logprobs[edge] for edge in path],
                [ranks[edge] for edge in path],
                [self._tops[parents[edge]] for edge in path] if self._tops else [],
            )
            for path in self._paths
        ]

    def _first_target(self, inner: int) -> int:
        """The place in the edges by parent where the children of an inner edge begin."""
        if inner == len(self._inner):
            return len(self._by_parent)
        return int(np.searchsorted(self._sorted_parents, self._inner[inner]))

    def _ancestors(self, edge: int) -> list[int]:
        found: list[int] = []
        edge = int(self._parents[edge])
        while edge != TOP:
            found.append(edge)
            edge = int(self._parents[edge])
        return found[::-1]


def _edges(candidates: Sequence[tuple[int, ...]]) -> tuple[list[int], list[int], list[tuple[int, ...]]]:
    """Tokens and parents of all edges, and each candidate's edges."""
    order = sorted(range(len(candidates)), key=candidates.__getitem__)
    tokens: list[int] = []
    parents: list[int] = []
    paths: list[tuple[int, ...]] = [()] * len(candidates)
    last: tuple[int, ...] = ()
    path: list[int] = []
    for place in order:
        candidate = candidates[place]
        shared = 0
        for left, right in zip(last, candidate, strict=False):
            if left != right:
                break
            shared += 1
        del path[shared:]
        for token_id in candidate[shared:]:
            parents.append(path[-1] if path else TOP)
            path.append(len(tokens))
            tokens.append(token_id)
        paths[place] = tuple(path)
        last = candidate
    return tokens, parents, paths
