"""From score requests to sequences, and from finished sequences to results."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from dcmodel.engine import Capabilities
from dcmodel.local.completion import top_logprobs
from dcmodel.scheduling.candidate_tree import CandidateTree
from dcmodel.scheduling.candidates import CandidateSequence
from dcmodel.scheduling.mounted import MountedAdapter
from dcmodel.scheduling.sequence import Sequence, TopRow
from dcmodel.types import SamplingParams, ScoredContinuation, ScoreRequest, ScoreResult, Usage


class ScoreJob:
    """The sequences that answer one request.

    Candidates form one tree behind the prompt. One that is too long for that, and all of them where the
    engine computes no branches, are sequences of their own, which share the prompt through the prefix cache.
    """

    def __init__(
        self, request: ScoreRequest, limits: Capabilities, mounted: MountedAdapter | None = None
    ) -> None:
        self._request = request
        prompt, top = request.prompt_ids, request.top_logprobs
        # Parts of a tree repeat the ancestors of their first token: deep trees are better off as sequences.
        longest = limits.max_branch_tokens // 2
        distinct = dict.fromkeys(request.continuations)
        self._short = short = [item for item in distinct if longest and len(item) - 1 <= longest]
        in_tree = set(short)
        self._alone = {item: _given(prompt, item, top) for item in distinct if item not in in_tree}
        self._tree: CandidateSequence | None = None
        if short:
            tree = CandidateTree(short, top)
            self._tree = CandidateSequence(prompt, tree, max_part=limits.max_branch_tokens)
        self._prompt = None
        if request.prompt_logprobs is not None:
            self._prompt = _given(prompt[:1], prompt[1:], request.prompt_logprobs)
        for sequence in self.sequences:
            sequence.mounted = mounted

    @property
    def sequences(self) -> list[Sequence]:
        """What is to be run. The prompt's own scores come first: they compute it for all."""
        found: list[Sequence] = [] if self._prompt is None else [self._prompt]
        return [*found, *([] if self._tree is None else [self._tree]), *self._alone.values()]

    def result(self) -> ScoreResult:
        """After all have finished. Raises the first error."""
        for sequence in self.sequences:
            if sequence.error is not None:
                raise sequence.error
        scored = {item: _scored(item, sequence) for item, sequence in self._alone.items()}
        if self._tree is not None:
            for item, (logprobs, ranks, tops) in zip(self._short, self._tree.tree.results(), strict=True):
                scored[item] = ScoredContinuation(
                    token_ids=item,
                    logprobs=tuple(logprobs),
                    ranks=tuple(ranks),
                    top_logprobs=tuple(map(top_logprobs, tops)),
                )
        prompt = self._request.prompt_ids
        return ScoreResult(
            continuations=tuple(scored[item] for item in self._request.continuations),
            usage=Usage(
                prompt_tokens=len(prompt),
                cached_tokens=self.sequences[0].cached_tokens,
                completion_tokens=sum(map(len, self._request.continuations)),
                forced_tokens=0,
            ),
            prompt=None if self._prompt is None else _scored(prompt[1:], self._prompt),
        )


def _given(prompt_ids: tuple[int, ...], given: tuple[int, ...], top_logprobs: int) -> Sequence:
    return Sequence(
        prompt_ids,
        sampling=SamplingParams(),
        seed=0,
        limit=len(prompt_ids) + len(given) - 1,  # the last one is only looked up
        top_logprobs=top_logprobs,
        given=given,
    )


def _scored(token_ids: tuple[int, ...], sequence: Sequence) -> ScoredContinuation:
    tops: Seq[TopRow | None] = [record[3] for record in sequence.records]
    return ScoredContinuation(
        token_ids=token_ids,
        logprobs=tuple(record[0] for record in sequence.records),
        ranks=tuple(sequence.ranks),
        top_logprobs=tuple(top_logprobs(top) for top in tops if top is not None),
    )
