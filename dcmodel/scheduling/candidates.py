"""A prompt with a tree of candidates behind it, as a sequence of the scheduler."""

from __future__ import annotations

from dcmodel.engine import Span
from dcmodel.logits import Floats, Ints
from dcmodel.scheduling.candidate_tree import CandidateTree, Part
from dcmodel.scheduling.sequence import Sequence
from dcmodel.types import SamplingParams


class CandidateSequence(Sequence):
    """Computes its prompt like any other, and then the tree, in as many parts as need be.

    The first part goes along with the end of the prompt. Nothing is drawn, and only the prompt stays in KV.
    """

    def __init__(self, prompt_ids: tuple[int, ...], tree: CandidateTree, *, max_part: int) -> None:
        """`max_part`: most tokens of the tree in one forward; at least as many as it is deep."""
        super().__init__(
            prompt_ids,
            sampling=SamplingParams(),
            seed=0,
            limit=len(prompt_ids),
            top_logprobs=tree.top_logprobs,
        )
        self.is_scoring = True
        self.tree = tree
        self._max_part = max_part
        self._part: Part | None = None
        self._has_top = False
        """Whether the present forward gives the row behind the prompt."""

    @property
    def end(self) -> int:
        return len(self.token_ids)

    @property
    def is_complete(self) -> bool:
        return self.error is not None or self.cancelled or self.tree.is_done

    def span(self, max_tokens: int, max_rows: int) -> Span | None:
        start, self._part = self.computed, None
        count = min(self.end - start, max_tokens)
        is_whole = start + count == self.end
        self._has_top = is_whole and count > 0 and not self.tree.has_top
        if is_whole:
            self._part = self.tree.part(
                min(max_tokens - count, self._max_part), max_rows - int(self._has_top)
            )
        if count <= 0 and self._part is None:
            return None
        branches = self._part.branches if self._part is not None else None
        wanted = range(count - int(self._has_top), count)
        return Span(self.handle, start, self.token_ids[start : start + count], wanted, branches, self.adapter)

    def targets(self) -> tuple[Ints, Ints, Ints]:
        """Edges, tokens and rows (counted from the sequence's first) of the present forward."""
        return self.tree.targets(self._part, with_top=self._has_top)

    def take(self, edges: Ints, logprobs: Floats, ranks: Ints) -> None:
        """Keep what the present forward gave for `targets`."""
        self.tree.take(self._part, edges, logprobs, ranks, with_top=self._has_top)
