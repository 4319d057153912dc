"""Beam search over hypotheses, in one group or in several that keep away from one another.

Each round asks for all live texts in one batch, which also scores what was forced since the last one. Then
each group ranks all (text, next token) pairs by what is known of them, and takes the best ones in turn
until it has `width` live texts again. A pair that ends a text takes no place among the live ones. A token
that the constraint refuses is passed over, so more tokens than `width` may be needed of a text: they are
asked for when its list runs out, and so a group never misses a pair that it would have taken.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dcmodel.decoding.hypotheses import Candidates, Hypothesis
from dcmodel.decoding.runs import together
from dcmodel.errors import DeadEndError

MORE = 4
"""How many times longer a list is asked for where it ran out."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """What a text is ranked by: total / length ** length_penalty."""

    length_penalty: float
    max_length: int
    """No text gets longer."""
    is_bounded: bool = True
    """No token adds to a total: it is a sum of log-probabilities."""

    def score(self, total: float, length: int) -> float:
        return total / math.pow(max(length, 1), self.length_penalty)

    def bound(self, total: float, length: int) -> float:
        """The best score that a text with this total can still come to.

        Totals only fall and are not positive, so it is that of the longest text in which all further tokens
        are certain: ``total / max_length ** length_penalty``; with a length penalty of 0 the total itself.
        Where totals may rise there is no bound, and its present score stands for it.
        """
        return self.score(total, self.max_length if self.is_bounded else length)


@dataclass(slots=True)
class Ended:
    """A finished text and its score."""

    score: float
    hypothesis: Hypothesis


@dataclass(slots=True)
class Group:
    """Texts that compete for the same places."""

    width: int
    keep: int
    scoring: Scoring
    live: list[Hypothesis] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    """The best `keep`, best first."""
    cut: list[Ended] = field(default_factory=list)
    """The best `keep` of those that ended where the constraint is not satisfied: `max_tokens` ran out."""

    async def select(
        self,
        seen: Sequence[tuple[Hypothesis, Candidates]],
        count: int,
        penalty: Callable[[int, int], float],
    ) -> None:
        """Extend the texts that were looked at, each with its candidates, of which `count` were asked for.

        `penalty`: what a token at a place of the text loses in rank.
        """
        queue = _Queue(self.scoring, penalty, self._may_be_kept)
        self.live = []
        for hypothesis, candidates in seen:
            if hypothesis.is_ended:
                self._end(hypothesis)
            await queue.add(hypothesis, candidates, count)
        num_ended = 0
        while len(self.live) < self.width and queue.has_more:
            extended = await queue.pop()
            if extended is None:
                continue
            if extended.session.is_finished and not extended.session.is_accepting:
                if extended.is_ended:
                    self._end(extended)
                continue
            if not extended.is_ended:  # perhaps finished, but for the scores of what was forced at its end
                self.live.append(extended)
            elif num_ended < self.width:  # no more, or what ends would be exempt from the penalty
                num_ended += 1
                self._end(extended)
        self.live = [item for item in self.live if self._may_be_kept(item.total, item.length)]

    def token_at(self, place: int) -> Counter[int]:
        """How often each token stands at this place of its texts."""
        texts = [item.session.token_ids for item in self.live]
        texts += [item.hypothesis.session.token_ids for item in self.ended]
        return Counter(text[place] for text in texts if len(text) > place)

    def _end(self, hypothesis: Hypothesis) -> None:
        kept = self.ended if hypothesis.session.is_accepting else self.cut
        kept.append(Ended(self.scoring.score(hypothesis.total, hypothesis.length), hypothesis))
        kept.sort(key=lambda item: -item.score)
        del kept[self.keep :]

    def _may_be_kept(self, total: float, length: int) -> bool:
        """Whether what a text can come to is better than the worst of what is kept."""
        return len(self.ended) < self.keep or self.scoring.bound(total, length) > self.ended[-1].score


async def search(groups: Sequence[Group], diversity: float = 0.0) -> list[Ended]:
    """Run until no group has a live text that can beat what it keeps; all kept texts, best first.

    Where none satisfies its constraint, those that `max_tokens` cut short.

    `diversity`: what a token loses in rank for each text of an earlier group that has it at the same place.
    Raises `DeadEndError` where no text came to an end at all.
    """
    beams = sum(group.width for group in groups)
    # Of so many tokens, as many as a group takes are neither penalised nor the text's end, as a rule.
    count = 2 * beams
    dead_end: DeadEndError | None = None
    while any(group.live for group in groups):
        asked = [item for group in groups for item in group.live]
        answers = dict(zip(map(id, asked), await together(item.look(count) for item in asked), strict=True))
        for place, group in enumerate(groups):
            seen = []
            for item in group.live:
                answer = answers[id(item)]
                if isinstance(answer, DeadEndError):
                    dead_end = answer
                else:
                    seen.append((item, answer))
            await group.select(seen, count, _penalty(groups[:place], diversity))
    found = [item for group in groups for item in group.ended]
    found = found or [item for group in groups for item in group.cut]
    if not found:
        raise DeadEndError("no beam came to an end.", remedy="Give more beams.") from dead_end
    return sorted(found, key=lambda item: -item.score)


def _penalty(earlier: Sequence[Group], diversity: float) -> Callable[[int, int], float]:
    """Hamming diversity (Vijayakumar et al. 2016)."""
    known: dict[int, Counter[int]] = {}

    def penalty(place: int, token_id: int) -> float:
        if not earlier or not diversity:
            return 0.0
        if place not in known:
            known[place] = sum((group.token_at(place) for group in earlier), Counter[int]())
        return diversity * known[place][token_id]

    return penalty


class _Queue:
    """The pairs of a text and a next token, best first, over all texts of a group."""

    def __init__(
        self,
        scoring: Scoring,
        penalty: Callable[[int, int], float],
        may_be_kept: Callable[[float, int], bool],
    ) -> None:
        """`may_be_kept`: whether a text with this total and length is worth a try."""
        self._scoring = scoring
        self._penalty = penalty
        self._may_be_kept = may_be_kept
        self._texts: list[_Ranked] = []
        # (minus the rank, which text, which token); no two are equal.
        self._heap: list[tuple[float, int, int]] = []

    @property
    def has_more(self) -> bool:
        return bool(self._heap)

    async def add(self, hypothesis: Hypothesis, candidates: Candidates, count: int) -> None:
        text = _Ranked(hypothesis, count)
        self._texts.append(text)
        self._rank(text, candidates)
        await self._push(len(self._texts) - 1)

    async def pop(self) -> Hypothesis | None:
        """The best pair as a new text; None where the constraint refuses it, or it is not worth a try."""
        _, which, token_id = heapq.heappop(self._heap)
        text = self._texts[which]
        text.tried.add(token_id)
        gain = text.gains[token_id]
        extended = None
        if self._may_be_kept(text.hypothesis.total + gain, text.hypothesis.length + 1):
            extended = text.hypothesis.extended(token_id, gain)
        await self._push(which)
        return extended

    async def _push(self, which: int) -> None:
        """Put the best pair of a text that was not tried yet into the heap."""
        text = self._texts[which]
        length = text.hypothesis.length + 1
        while (
            text.is_cut
            and (not text.ranked or text.ranked[-1][0] < self._scoring.score(text.rest, length))
            and self._may_be_kept(text.rest, length)
        ):
            # What the list leaves out may be better than the best that is left of it.
            text.count *= MORE
            self._rank(text, await text.hypothesis.look(text.count))
        if text.ranked:
            rank, _, token_id = text.ranked.pop()
            heapq.heappush(self._heap, (-rank, which, token_id))

    def _rank(self, text: _Ranked, candidates: Candidates) -> None:
        base, length = text.hypothesis.total, text.hypothesis.length
        text.gains = dict(zip(candidates.token_ids, candidates.gains, strict=True))
        ranks = (
            (self._scoring.score(base + gain, length + 1) - self._penalty(length, token_id), -place, token_id)
            for place, (token_id, gain) in enumerate(text.gains.items())
            if token_id not in text.tried
        )
        text.ranked = sorted(ranks)
        text.is_cut = candidates.is_cut
        if candidates.gains:
            text.rest = base + candidates.gains[-1]


@dataclass(slots=True)
class _Ranked:
    """A text and the tokens that may follow it."""

    hypothesis: Hypothesis
    count: int
    """How many were asked for."""
    gains: dict[int, float] = field(default_factory=dict)
    tried: set[int] = field(default_factory=set)
    ranked: list[tuple[float, int, int]] = field(default_factory=list)
    """(rank, minus the place in the model's order, token), the best one last; without those tried."""
    is_cut: bool = False
    rest: float = 0.0
    """With no token that the list leaves out is the total higher."""
