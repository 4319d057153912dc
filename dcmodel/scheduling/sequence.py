"""`Sequence`: one token stream, where its KV lies, and what is known of each of its tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from dcmodel.adapters import BASE
from dcmodel.constraint import Matcher
from dcmodel.constraints import StopMatcher
from dcmodel.engine import Span
from dcmodel.errors import (
    ConstraintRuntimeError,
    ConstraintViolationError,
    DcModelError,
    DeadEndError,
    InvalidRequestError,
)
from dcmodel.mask import TokenMask
from dcmodel.scheduling.adjustments import LogitAdjustments
from dcmodel.scheduling.bounds import SequenceBounds as SequenceBounds
from dcmodel.scheduling.look import Look
from dcmodel.scheduling.mounted import MountedAdapter
from dcmodel.scheduling.prefix_cache import Entry
from dcmodel.types import FinishReason, SamplingParams

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

TopRow = tuple[list[int], list[float]]
LogprobRecord = tuple[float, float, float, TopRow | None, TopRow | None]
"""raw_logprob, masked_logprob, log_mass, likeliest before and after the mask."""
UNKNOWN: LogprobRecord = (math.nan, math.nan, math.nan, None, None)
MAX_BACKTRACKS = 1_000


class Status(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Sequence:
    """A prompt and what follows it; generated, or given and only scored.

    `token_ids` grows at the end; `computed` of them have KV; all before `ready` are final, with their
    log-probabilities where those are wanted. Only the scheduler's thread changes anything here; others
    may read what lies before `ready`.
    """

    def __init__(
        self,
        prompt_ids: tuple[int, ...],
        *,
        sampling: SamplingParams,
        seed: int,
        limit: int,
        limit_reason: str = "max_tokens",
        eos_token_ids: frozenset[int] = frozenset(),
        matcher: Matcher | None = None,
        stop: StopMatcher | None = None,
        want_logprobs: bool = True,
        top_logprobs: int = 0,
        given: tuple[int, ...] = (),
        resumed: tuple[int, ...] = (),
    ) -> None:
        """`limit`: longest length, prompt included. `given`: tokens to score instead of generating.
        `resumed`: the beginning of the output (see `GenerateRequest`). Raises `ConstraintViolationError`
        where the constraint refuses one of them, `InvalidRequestError` where they go past the end."""
        self.token_ids: list[int] = list(prompt_ids)
        self.prompt_length = len(prompt_ids)
        self.sampling = sampling
        self.seed = seed
        self.limit = limit
        self.limit_reason = limit_reason
        self.eos_token_ids = eos_token_ids
        self.matcher = matcher
        self.stop = stop
        self.want_logprobs = want_logprobs
        self.top_logprobs = top_logprobs
        self.adjustments = LogitAdjustments.for_request(prompt_ids, sampling)

        self.mounted: MountedAdapter | None = None
        """The adapter that computes it; None: the model as it is."""
        self.status = Status.WAITING
        self.entry: Entry | None = None
        self.computed = 0
        self.cached_tokens = 0
        self.is_copy = False
        """Its beginning was copied from another sequence's KV."""
        self.prefill_length = self.prompt_length
        self.deferred_on: tuple[Entry, int] | None = None

        self.ready = self.prompt_length
        self.num_resumed = len(resumed)
        self.forced: list[bool] = []
        self.banned: dict[int, set[int]] = {}
        """By place in `token_ids`: tokens that led, or would lead, into a dead end."""
        self.is_cornered = False
        """Here, all that the mask allowed was refused: only the matcher's ways out are left."""
        self.backtracks = 0
        self.must_restart = False
        """Tokens were taken back: what is computed no longer fits."""
        self.holds_back = matcher is not None and matcher.may_dead_end
        """Nothing is shown before the end, since it may be taken back."""
        self.records: list[LogprobRecord] = []
        """One per token of the output before `ready`, if log-probabilities are wanted."""
        self.ranks: list[int] = []
        self.releasable_bytes: int | None = None
        """How many bytes of output may be shown; None = all (no stop strings)."""
        self.releasable_after: list[int | None] = []
        """The same after each token: what a token adds to the text does not depend on when it is read."""

        self.ending: tuple[FinishReason, str] | None = None
        """Set when no further token will be drawn; the sequence may still have tokens to score."""
        self.error: DcModelError | None = None
        self.cancelled = False

        self.loop: AbstractEventLoop | None = None
        self.notify: Callable[[], None] | None = None
        self.is_armed = False
        """Whether a consumer waits for the next token (and not only for the end)."""

        self.mask: TokenMask | None = None
        """A caller's own mask for the next token, on top of the constraint."""
        self.look: Look | None = None
        """Show the distribution of the next token instead of drawing it."""
        self.attempt = 0
        """Which random number of its place the next token is drawn with."""
        self.is_scoring = bool(given)
        if given:
            self.ending = (FinishReason.STOP, "given")
            self.token_ids.extend(given)
            self.forced = [True] * len(given)
            self.prefill_length = len(self.token_ids) - 1
        else:
            self._take_up(resumed)
            self._append_forced()
            if not want_logprobs:
                self.ready = len(self.token_ids)

    # -- what is left to do ------------------------------------------------------------------------

    @property
    def handle(self) -> int:
        assert self.entry is not None
        return self.entry.handle

    @property
    def adapter(self) -> int:
        """The engine's handle of its adapter."""
        return BASE if self.mounted is None else self.mounted.handle

    @property
    def visible(self) -> int:
        """How many tokens readers may see: those that are final."""
        return self.prompt_length if self.holds_back and not self.is_complete else self.ready

    @property
    def sampling_now(self) -> SamplingParams:
        """How the next token is drawn; a template may differ from the request."""
        changes = self.matcher.sampling if self.matcher is not None else None
        return replace(self.sampling, **changes) if changes else self.sampling

    @property
    def output_length(self) -> int:
        return len(self.token_ids) - self.prompt_length

    @property
    def end(self) -> int:
        """How many tokens must be computed before the next thing can happen."""
        return len(self.token_ids) - (self.ending is not None)

    @property
    def is_masked(self) -> bool:
        return self.matcher is not None or self.mask is not None

    @property
    def shown_logprobs(self) -> int:
        """How many likeliest tokens are wanted of its next row."""
        return self.top_logprobs if self.look is None else self.look.k or 0

    @property
    def leaves_nothing_new(self) -> bool:
        """Whether its KV is of no use to others when it has ended: a prompt that somebody else has as well,
        behind which tokens were only scored."""
        return self.is_scoring and self.is_copy and self.cached_tokens >= self.prompt_length - 1

    @property
    def is_prefilling(self) -> bool:
        return self.computed < self.prefill_length

    @property
    def is_complete(self) -> bool:
        """Nothing is left to draw or to score."""
        if self.error is not None or self.cancelled:
            return True
        return self.ending is not None and self.ready == len(self.token_ids)

    def span(self, max_tokens: int, max_rows: int) -> Span | None:
        """What of it the next forward computes, within these bounds; None: nothing.

        Row p predicts token p + 1: its logits are wanted where that token is not final yet, or to be drawn.
        """
        start = self.computed
        first_wanted = max(self.ready - 1 - start, 0)
        count = min(self.end - start, max_tokens, first_wanted + max_rows)
        if count <= 0:
            return None
        ids = self.token_ids[start : start + count]
        return Span(self.handle, start, ids, range(first_wanted, count), adapter=self.adapter)

    # -- transitions -------------------------------------------------------------------------------

    def commit(self, token_id: int, record: LogprobRecord | None) -> bool:
        """Append a drawn token, then all that the constraint forces after it; end where it must.

        False, and the token is banned here, where the constraint sees a dead end behind it.
        """
        if self.matcher is not None and not self._is_taken(token_id):
            return False
        self.is_cornered = False
        self._grow(token_id, forced=False)
        ready = len(self.token_ids)
        if record is not None:
            self.records.append(record)
        if token_id not in self.eos_token_ids:
            self._go_on_without_the_model()
        # Last, because readers in other threads take `ready` to mean that all the rest is in place.
        self.ready = ready if self.want_logprobs else len(self.token_ids)
        return True

    def corner(self) -> bool:
        """All that the mask allowed is banned: whether the matcher may know a way out that was not tried."""
        if self.is_cornered or self.matcher is None or self.matcher.is_exact:
            return False
        self.is_cornered = len(self.token_ids) in self.banned
        return self.is_cornered

    def _is_taken(self, token_id: int) -> bool:
        assert self.matcher is not None
        if self.matcher.advance([token_id]) == 1:
            return True
        if self.matcher.is_exact and not self.matcher.may_dead_end:
            raise ConstraintRuntimeError(f"the matcher refused token {token_id}, which its mask allowed.")
        self.banned.setdefault(len(self.token_ids), set()).add(token_id)
        return False

    def backtrack(self, error: DeadEndError) -> None:
        """Take back the last token that was drawn, and what was forced after it, and ban it there.

        Raises `error` where there is nothing to take back, or too much has been.
        """
        places = range(len(self.forced) - 1, self.num_resumed - 1, -1)
        drawn = next((place for place in places if not self.forced[place]), None)
        if self.matcher is None or not self.holds_back or drawn is None or self.backtracks == MAX_BACKTRACKS:
            raise error
        self.backtracks += 1
        place = self.prompt_length + drawn
        token_id = self.token_ids[place]
        self.take_back(len(self.token_ids) - place)
        self.banned.setdefault(place, set()).add(token_id)
        self.must_restart = True

    def take_back(self, count: int) -> None:
        """Drop the last `count` tokens, of the output only."""
        if not count:
            return
        place = len(self.token_ids) - count
        drawn = place - self.prompt_length
        if self.matcher is not None:
            self.matcher.rollback(count)
        if self.stop is not None:  # it never saw the token that ended the text
            self.stop.rollback(count - (self.ending is not None and self.ending[1] == "eos"))
        self.is_cornered = False
        self.banned = {where: tokens for where, tokens in self.banned.items() if where <= place}
        del self.token_ids[place:]
        del self.forced[drawn:]
        del self.releasable_after[drawn:]
        del self.records[drawn:]
        del self.ranks[drawn:]
        self.ready = min(self.ready, place)
        self.ending = None
        self._note_releasable()
        self._count_anew()

    def score(self, record: LogprobRecord, rank: int) -> None:
        """Record the log-probabilities of the first given or forced token that has none yet."""
        self.records.append(record)
        self.ranks.append(rank)
        self.ready += 1

    def preempted(self) -> None:
        """The KV was taken away: everything is to be computed again."""
        self.status = Status.WAITING
        self.must_restart = False
        self.entry = None
        self.computed = 0
        self.prefill_length = self.end

    def finish(self) -> None:
        """The scheduler lets go of it, and it of its adapter."""
        self.status = Status.FINISHED
        self.mounted = None

    # -- how text grows ----------------------------------------------------------------------------

    def _take_up(self, resumed: tuple[int, ...]) -> None:
        """Begin with tokens that exist already; nobody asks for their log-probabilities."""
        for place, token_id in enumerate(resumed):
            if self.ending is not None:
                raise InvalidRequestError(
                    f"token {token_id} at place {place} of the resumed output stands behind its end "
                    f"({self.ending[1]}).",
                    remedy="Resume with the tokens that the stream gave.",
                )
            if self.matcher is not None and self.matcher.advance([token_id]) != 1:
                raise ConstraintViolationError(
                    f"the constraint refuses token {token_id} at place {place} of the resumed output.",
                    remedy="Resume with the tokens that the stream gave, and the same constraint.",
                )
            self._grow(token_id, forced=False)
            if self.matcher is not None and self.ending is None and self.matcher.is_spent:
                self.matcher = None
        if resumed:
            self.records = [UNKNOWN] * len(resumed) if self.want_logprobs else []
            self.ready = len(self.token_ids)
            self.prefill_length = self.end

    def _count_anew(self) -> None:
        """What penalties count, from the tokens as they are now."""
        self.adjustments = LogitAdjustments.for_request(
            tuple(self.token_ids[: self.prompt_length]), self.sampling
        )
        if self.adjustments is not None:
            for token_id in self.token_ids[self.prompt_length :]:
                self.adjustments.add(token_id)

    def _go_on_without_the_model(self) -> None:
        self._append_forced()
        if self.matcher is not None and self.matcher.is_spent:
            self.matcher = None

    def _append_forced(self) -> None:
        if self.matcher is None or self.ending is not None:
            return
        if self.matcher.is_finished:
            self.ending = (FinishReason.STOP, "constraint")
            return
        for token_id in self.matcher.forced():
            if self.matcher.advance([token_id]) != 1:
                raise ConstraintRuntimeError(f"the matcher refused token {token_id}, which it forced.")
            self._append(token_id, forced=True)
            self._end_or_go_on()
            if self.ending is not None:
                break

    def _grow(self, token_id: int, *, forced: bool) -> None:
        """Append a token that the matcher has accepted, and end where it ends the text."""
        self._append(token_id, forced=forced)
        if token_id in self.eos_token_ids:
            self.ending = (FinishReason.STOP, "eos")
        else:
            self._end_or_go_on()

    def _append(self, token_id: int, *, forced: bool) -> None:
        self.token_ids.append(token_id)
        self.forced.append(forced)
        self.releasable_after.append(self.releasable_bytes)
        if self.adjustments is not None:
            self.adjustments.add(token_id)

    def _end_or_go_on(self) -> None:
        token_id = self.token_ids[-1]
        if self.stop is not None:
            self.stop.advance([token_id])
            if self.stop.matched is not None:
                self.releasable_bytes = self.releasable_after[-1] = self.stop.cut
                self.ending = (FinishReason.STOP, f"stop:{self.stop.matched}")
                return
        self._note_releasable()
        self.releasable_after[-1] = self.releasable_bytes
        if self.matcher is not None and self.matcher.is_finished:
            self.ending = (FinishReason.STOP, "constraint")
        elif len(self.token_ids) >= self.limit:
            self.ending = (FinishReason.LENGTH, self.limit_reason)

    def _note_releasable(self) -> None:
        self.releasable_bytes = None if self.stop is None else self.stop.length - self.stop.held
        if self.matcher is not None and (end := self.matcher.releasable) is not None:
            shown = self.releasable_bytes
            self.releasable_bytes = end if shown is None else min(end, shown)
