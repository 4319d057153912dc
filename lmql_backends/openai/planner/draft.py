"""`Draft`: the text under construction, with its constraint."""

from __future__ import annotations

from typing import Unpack

from dcmodel.constraint import MaskRow, Matcher
from dcmodel.errors import ConstraintRuntimeError
from dcmodel.mask import allocate_rows, row_to_ids
from dcmodel.scheduling.commits import MAX_DRAWS, leave_ways_out, no_choice, restrict, too_many_draws
from dcmodel.scheduling.sequence import LogprobRecord, Sequence, SequenceBounds
from dcmodel.types import GenerateRequest
from dctokenizers import Tokenizer
from lmql_backends.openai.planner.account import Account
from lmql_backends.openai.records import forced_record


class Draft(Sequence):
    """A sequence to which tokens are offered that were drawn without its mask."""

    forces = False
    """Whether what the constraint forces is appended at once: not before it is known that no grammar of the
    endpoint's decides."""

    def __init__(
        self,
        request: GenerateRequest,
        matcher: Matcher | None,
        tokenizer: Tokenizer,
        **bounds: Unpack[SequenceBounds],
    ) -> None:
        """Raises what `Sequence` raises about resumed tokens."""
        self.request = request
        self.account = Account()
        self.tokenizer = tokenizer
        self.vocab_size = tokenizer.vocab_size
        super().__init__(
            request.prompt_ids,
            sampling=request.sampling,
            matcher=matcher,
            want_logprobs=request.logprobs or request.top_logprobs > 0,
            resumed=request.resumed,
            **bounds,
        )

    def offer(self, token_id: int, record: LogprobRecord) -> bool:
        """Append a token if the constraint accepts it, and what is forced after it; whether it did."""
        if token_id in self.banned.get(len(self.token_ids), ()):
            return False
        if self.matcher is not None and self.matcher.advance([token_id]) != 1:
            return False
        self.is_cornered = False
        self._grow(token_id, forced=False)
        ready = len(self.token_ids)
        if self.want_logprobs:
            self.records.append(record)
        if token_id not in self.eos_token_ids:
            self._go_on_without_the_model()
        self.ready = ready if self.want_logprobs else len(self.token_ids)
        return True

    def draw(self, token_id: int, record: LogprobRecord) -> bool:
        """Append a token that the mask allows. False, and it is banned here, where nothing can follow it."""
        if self.offer(token_id, record):
            return True
        if self.matcher is not None and self.matcher.is_exact and not self.matcher.may_dead_end:
            raise ConstraintRuntimeError(f"the matcher refused token {token_id}, which its mask allowed.")
        self.ban(token_id)
        return False

    def ban(self, token_id: int) -> None:
        """The mask allows it, and nothing can follow it."""
        banned = self.banned.setdefault(len(self.token_ids), set())
        banned.add(token_id)
        if len(banned) > MAX_DRAWS:
            raise too_many_draws()

    def allowed_row(self) -> MaskRow | None:
        """What may come next; None: anything. Raises `DeadEndError` where nothing may."""
        if self.matcher is None:
            return None
        row: MaskRow = allocate_rows(1, self.vocab_size)[0]
        self.matcher.fill_mask(row)
        restrict(self, row)
        if not row.any() and self.corner():
            leave_ways_out(self, row)
        if not row.any():
            raise no_choice()
        return row

    def sole_choice(self, row: MaskRow) -> int | None:
        """The only token that is allowed, if there is only one."""
        ids = row_to_ids(row, self.vocab_size)
        return int(ids[0]) if len(ids) == 1 else None

    def know(self, place: int, record: LogprobRecord) -> None:
        """Note what an answer says of a forced token."""
        if self.want_logprobs and place == self.ready:
            logprob, _, _, row, _ = record
            self.score((logprob, 0.0, logprob, row, None), 0)

    def settle(self) -> None:
        """Of the forced tokens that are left nothing will be known, but that no other was allowed."""
        while self.ready < len(self.token_ids):
            self.score(forced_record(), 0)

    def force(self) -> None:
        """From here on, no grammar of the endpoint's decides."""
        self.forces = True
        self._append_forced()
        if not self.want_logprobs:
            self.ready = len(self.token_ids)

    def restart(self) -> None:
        """Take back all that was generated, what was forced, too."""
        self.forces = False
        self.take_back(self.output_length - self.num_resumed)

    def _append_forced(self) -> None:
        if self.forces:
            super()._append_forced()
