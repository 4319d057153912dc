"""`Reading`: an answer held against the constraint, token by token."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dcmodel.errors import GenerationError
from dcmodel.scheduling.sequence import LogprobRecord
from dcmodel.types import FinishReason, TopLogprob
from lmql_backends.openai.endpoint_api import Reply
from lmql_backends.openai.planner.draft import Draft
from lmql_backends.openai.planner.proposals import Proposal

UNKNOWN_LOGPROB = math.nan


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
    """

    def __init__(self, draft: Draft, proposal: Proposal, *, repeated: int = 0) -> None:
        """`repeated`: with so many of the draft's last tokens the answer has to begin."""
        self.taken = 0
        """Tokens of the answer that are now in the draft."""
        self.is_over = False
        """No further token of the answer is of use."""
        self.rejection: Rejection | None = None
        self.are_ids_exact = True
        self._draft = draft
        self._proposal = proposal
        self._begin = len(draft.token_ids) - repeated
        self._sampling = draft.sampling_now

    def read(self, piece: Reply) -> None:
        """The answer, or its next piece."""
        for place, token_id in enumerate(piece.token_ids):
            if self.is_over:
                return
            logprob = piece.logprobs[place] if piece.logprobs is not None else UNKNOWN_LOGPROB
            tops = piece.tops[place] if piece.tops is not None else ()
            self.are_ids_exact &= piece.are_ids_exact
            self._read_token(token_id, logprob, tops, piece)
        if piece.is_ended and not self.is_over:
            self._read_end(piece)
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
        if self._is_blocked():
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
