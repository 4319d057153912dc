"""The sequence behind a session: it comes back to its owner after each step."""

from __future__ import annotations

from copy import copy
from typing import Unpack

from dcmodel.constraint import Matcher
from dcmodel.errors import ConstraintViolationError
from dcmodel.mask import TokenMask
from dcmodel.scheduling.look import Look
from dcmodel.scheduling.sequence import LogprobRecord, Sequence, SequenceBounds, Status
from dcmodel.types import FinishReason, SamplingParams


class SessionSequence(Sequence):
    """Between its steps it is out of the scheduler, holds no KV, and belongs to the session alone.

    The session extends it, takes tokens back and forks it; `resume` makes it ready to be submitted for one
    more step. What the constraint forces is appended by the session, if it likes.
    """

    def __init__(
        self,
        prompt_ids: tuple[int, ...],
        *,
        sampling: SamplingParams,
        matcher: Matcher | None,
        **bounds: Unpack[SequenceBounds],
    ) -> None:
        super().__init__(prompt_ids, sampling=sampling, matcher=matcher, **bounds)
        self.holds_back = False
        self._goal = self.ready
        """How many tokens are final when the step is done."""
        if matcher is not None and matcher.is_finished:
            self.ending = (FinishReason.STOP, "constraint")

    @property
    def end(self) -> int:
        return len(self.token_ids) - (self._goal <= len(self.token_ids) and self.look is None)

    @property
    def is_complete(self) -> bool:
        if self.error is not None or self.cancelled:
            return True
        return self.look.is_done if self.look is not None else self.ready >= self._goal

    def finish(self) -> None:
        """The step is done; the session keeps its adapter."""
        self.status = Status.FINISHED

    # -- between steps -----------------------------------------------------------------------------

    def resume(
        self,
        *,
        mask: TokenMask | None = None,
        look: Look | None = None,
        draws: bool = True,
        attempt: int = 0,
    ) -> None:
        """Make it ready for its next step: one more token, a look at what it could be, or (`draws` False)
        only the scores of the tokens that have none."""
        self.attempt = attempt
        self.status = Status.WAITING
        self.error = None
        self.cancelled = False
        self.mask = mask
        self.look = look
        self._goal = len(self.token_ids) + draws
        self.computed = 0
        self.is_copy = False
        self.deferred_on = None

    def draw_by(self, sampling: SamplingParams) -> None:
        """Draw by other parameters from now on."""
        self.sampling = sampling
        self._count_anew()

    def extend(self, token_id: int, record: LogprobRecord | None, *, forced: bool) -> None:
        """Append a token of the caller's; without a record it is scored in the next step.

        Raises `ConstraintViolationError`, and nothing has changed, where the constraint refuses it.
        """
        if self.matcher is not None and self.matcher.advance([token_id]) != 1:
            raise ConstraintViolationError(f"the constraint refuses token {token_id} here.")
        self._grow(token_id, forced=forced)
        if record is not None and self.ready == len(self.token_ids) - 1:
            self.records.append(record)
            self.ready += 1

    def score(self, record: LogprobRecord, rank: int) -> None:
        if not self.forced[self.ready - self.prompt_length]:  # no mask was asked: all was allowed
            record = (record[0], record[0], 0.0, record[3], record[3])
        super().score(record, rank)

    def fork(self, seed: int) -> SessionSequence:
        """An independent copy that draws other numbers."""
        other = copy(self)
        other.seed = seed
        other.token_ids = self.token_ids.copy()
        other.forced = self.forced.copy()
        other.releasable_after = self.releasable_after.copy()
        other.records = self.records.copy()
        other.ranks = []
        other.banned = {place: tokens.copy() for place, tokens in self.banned.items()}
        other.matcher = self.matcher.fork() if self.matcher is not None else None
        other.stop = self.stop.fork() if self.stop is not None else None
        other._count_anew()
        return other

    def _go_on_without_the_model(self) -> None:
        """The session decides."""

    def _append_forced(self) -> None:
        """The session decides."""
