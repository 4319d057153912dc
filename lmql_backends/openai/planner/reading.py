"""`Reading`: an answer held against the constraint, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dcmodel.errors import GenerationError
from dcmodel.mask import row_allows
from dcmodel.scheduling.sequence import LogprobRecord
from dcmodel.types import FinishReason, TopLogprob
from lmql_backends.openai.endpoint_api import Reply
from lmql_backends.openai.planner.draft import Draft
from lmql_backends.openai.planner.lifting import Doubt, Hidden, Lifting, UnknownShareError
from lmql_backends.openai.planner.proposals import Proposal

UNKNOWN_LOGPROB = math.nan
NO_PIECE = Reply(token_ids=(), are_ids_exact=True, text="")


@dataclass(frozen=True, slots=True)
class Rejection:
    """The first token that the constraint refused."""

    drawn: tuple[TopLogprob, ...]
    """The token (or the tokens that end a text), with its log-probability."""
    tops: tuple[TopLogprob, ...]
    are_raw: bool | None


class Reading:
    """Takes the longest acceptable beginning of an answer.

    Tokens that are in the draft already (forced ones) have to be the same in the answer: what follows other
    tokens is drawn from another distribution. Nor is a token of a proposal that does not cover the mask.
    Reading pauses at a `doubt`, until `resolve` tells the probabilities that are in question, or `show` the
    tokens.
    """

    def __init__(
        self, draft: Draft, proposal: Proposal, *, repeated: int = 0, lifting: Lifting | None = None
    ) -> None:
        """`repeated`: with so many of the draft's last tokens the answer has to begin. `lifting`: of the
        proposal's bans."""
        self.taken = 0
        """Tokens of the answer that are now in the draft."""
        self.is_over = False
        """No further token of the answer is of use."""
        self.rejection: Rejection | None = None
        self.are_ids_exact = True
        self.doubt: Doubt | Hidden | None = None
        """What has to be known of this place."""
        self.lifted: list[int] = []
        """Banned tokens that came, or may have come."""
        self._tops: tuple[TopLogprob, ...] = ()
        self._lifting = lifting
        self._shown: tuple[int, tuple[TopLogprob, ...]] = -1, ()
        """A place whose likeliest tokens were asked for, and these."""
        self._stands_at = -1
        """Place of a token that needs no further coin."""
        self._piece = NO_PIECE
        self._next = 0
        """Which of the piece's tokens is read next."""
        self._draft = draft
        self._proposal = proposal
        self._begin = len(draft.token_ids) - repeated
        self._sampling = draft.sampling_now

    def read(self, piece: Reply) -> None:
        """The answer, or its next piece."""
        self._piece, self._next = piece, 0
        self._go_on()

    def resolve(self, probabilities: Sequence[float], drawn: Sequence[int]) -> None:
        """Go on after a doubt: the model's probabilities of the tokens in question, and the new draws."""
        doubt, self.doubt = self.doubt, None
        assert isinstance(doubt, Doubt)
        assert self._lifting is not None
        likeliest = {item.token_id for item in self._tops}
        if likeliest.issuperset(drawn) and self._lifting.came(doubt, probabilities):
            is_shown = doubt.instead in likeliest
            self._take_instead(doubt.instead, None if is_shown else math.log(probabilities[-1]))
        else:
            self._stands_at = len(self._draft.token_ids)
        self._go_on()

    def show(self, tops: tuple[TopLogprob, ...]) -> None:
        """Go on with the likeliest tokens of this place; without any, what was drawn stands."""
        self.doubt = None
        place = len(self._draft.token_ids)
        if tops:
            self._shown = place, tops
        else:
            self._stands_at = place
        self._go_on()

    def _go_on(self) -> None:
        piece = self._piece
        while self._next < len(piece.token_ids):
            if self.is_over:
                return
            place = self._next
            logprob = piece.logprobs[place] if piece.logprobs is not None else UNKNOWN_LOGPROB
            tops = piece.tops[place] if piece.tops is not None else ()
            self.are_ids_exact &= piece.are_ids_exact
            self._read_token(piece.token_ids[place], logprob, tops, piece)
            if self.doubt is not None:
                return
            self._next += 1
        if piece.is_ended and not self.is_over:
            self._read_end(piece)
            if self.doubt is not None:
                return
        if piece.finish_reason == "length" and not self.is_over and not self.taken:
            # There is no room for a single token.
            self._draft.ending = (FinishReason.LENGTH, "context")
        if piece.finish_reason == "content_filter" and not self.is_over:
            raise GenerationError(
                "the endpoint's content filter ended the answer.", remedy="Change the prompt."
            )

    def _read_token(self, token_id: int, logprob: float, tops: tuple[TopLogprob, ...], piece: Reply) -> None:
        draft = self._draft
        place = self._begin + self.taken
        if place < len(draft.token_ids):
            self.is_over = draft.token_ids[place] != token_id
            if not self.is_over:
                draft.know(place, self._record(logprob, tops, piece))
                self.taken += 1
                self._stop_at_end()
            return
        if self._is_blocked() or not self._stands(TopLogprob(token_id, logprob), tops, piece):
            return
        if draft.offer(token_id, self._record(logprob, tops, piece)):
            self.taken += 1
            self._stop_at_end()
        else:
            self._reject((TopLogprob(token_id, logprob),), tops, piece)

    def _read_end(self, piece: Reply) -> None:
        """The model drew an end-of-sequence token."""
        draft = self._draft
        if self._begin + self.taken < len(draft.token_ids) or self._is_blocked():
            self.is_over = True
            return
        ends = (piece.end_id,) if piece.end_id is not None else tuple(draft.eos_token_ids)[:1]
        logprob = UNKNOWN_LOGPROB if piece.end_logprob is None else piece.end_logprob
        if ends and not self._stands(TopLogprob(ends[0], logprob), piece.end_tops, piece):
            return
        if not ends and draft.matcher is not None and draft.matcher.is_accepting:
            draft.ending = (FinishReason.STOP, "eos")
        elif not ends or not draft.offer(ends[0], self._record(logprob, piece.end_tops, piece)):
            ends = ends if piece.end_id is not None else tuple(draft.eos_token_ids)
            # One of them was drawn, it is not known which: the probability is counted once.
            values = (logprob, *([UNKNOWN_LOGPROB] * (len(ends) - 1)))
            self._reject(tuple(map(TopLogprob, ends, values)), piece.end_tops, piece)
        self.is_over = True

    def _stop_at_end(self) -> None:
        self.is_over = self._draft.ending is not None and (
            self._begin + self.taken >= len(self._draft.token_ids)
        )

    def _is_blocked(self) -> bool:
        """Whether the next token, whatever it is, is not from the right distribution."""
        draft = self._draft
        if (
            draft.ending is not None
            or draft.sampling_now != self._sampling
            or (self._proposal.row is not None and not self._proposal.covers(draft.allowed_row()))
        ):
            self.is_over = True
        return self.is_over

    def _stands(self, drawn: TopLogprob, tops: tuple[TopLogprob, ...], piece: Reply) -> bool:
        """Whether the model would have drawn this token without the bans, too. Otherwise there is a doubt, or
        the answer is over."""
        draft = self._draft
        if self._lifting is None or self._stands_at == len(draft.token_ids):
            return True
        row = draft.allowed_row()
        allowed = [item for item in self._proposal.lifted if row is None or row_allows(row, item)]
        if not allowed:
            return True
        if not piece.are_logprobs_raw:
            self.is_over = True
            return False
        place, shown = self._shown
        self._tops = shown if place == len(draft.token_ids) else tops
        if not self._tops:
            self.doubt = Hidden()
            return False
        try:
            other = self._lifting.instead(drawn, self._tops, allowed)
        except UnknownShareError:
            self.is_over = True
            return False
        if isinstance(other, Doubt):
            self.doubt = other
            self.lifted.append(other.instead)
        elif other is not None:
            self.lifted.append(other)
            self._take_instead(other)
        return other is None

    def _take_instead(self, token_id: int, logprob: float | None = None) -> None:
        """A token that was banned. What follows in the answer follows another one."""
        if logprob is None:
            logprob = next(item.logprob for item in self._tops if item.token_id == token_id)
        if self._draft.offer(token_id, record_of(self._draft, logprob, self._tops)):
            self.taken += 1
        else:
            self.rejection = Rejection((TopLogprob(token_id, logprob),), self._tops, are_raw=True)
        self.is_over = True

    def _reject(self, drawn: tuple[TopLogprob, ...], tops: tuple[TopLogprob, ...], piece: Reply) -> None:
        self.rejection = Rejection(drawn, tops, piece.are_logprobs_raw)
        self.is_over = True

    def _record(self, logprob: float, tops: tuple[TopLogprob, ...], piece: Reply) -> LogprobRecord:
        if piece.are_logprobs_raw is False:
            return record_of(self._draft, math.nan, ())  # what is shown is not the model's own
        return record_of(self._draft, logprob, tops)


class FirstToken(Reading):
    """Shows the first token of an answer instead of taking it."""

    def __init__(self, draft: Draft, proposal: Proposal) -> None:
        super().__init__(draft, proposal)
        self.found: TopLogprob | None = None
        self.is_raw = False

    def _read_token(self, token_id: int, logprob: float, tops: tuple[TopLogprob, ...], piece: Reply) -> None:
        self.found = TopLogprob(token_id, logprob)
        self.is_raw = bool(piece.are_logprobs_raw)
        self.is_over = True

    def _read_end(self, piece: Reply) -> None:
        ends = (piece.end_id,) if piece.end_id is not None else tuple(self._draft.eos_token_ids)[:1]
        if ends:
            logprob = UNKNOWN_LOGPROB if piece.end_logprob is None else piece.end_logprob
            self._read_token(ends[0], logprob, piece.end_tops, piece)


def record_of(draft: Draft, logprob: float, tops: tuple[TopLogprob, ...]) -> LogprobRecord:
    """What is known of a token. Of the mask's mass nothing is, unless there is no mask."""
    shown = tops[: draft.top_logprobs]
    row = ([item.token_id for item in shown], [item.logprob for item in shown]) if shown else None
    if draft.matcher is None:
        return logprob, logprob, 0.0, row, row
    return logprob, math.nan, math.nan, row, None
