"""`LocalSession`: a session over a local scheduler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index

import numpy as np

from dcmodel.checks import check_integer
from dcmodel.constraints.mask_answers import Answer, WrongAnswerError, mask_of_answer
from dcmodel.errors import DcModelError, InvalidRequestError
from dcmodel.local.completion import completion_of, token_logprobs
from dcmodel.local.text import TextAssembler
from dcmodel.local.turns import Turns
from dcmodel.mask import TokenMask, check_token_ids
from dcmodel.scheduling.look import Look
from dcmodel.scheduling.randomness import MAX_ATTEMPT, SEED_MASK, child_seed
from dcmodel.scheduling.sequence import LogprobRecord
from dcmodel.scheduling.session_sequence import SessionSequence
from dcmodel.session import Session
from dcmodel.types import (
    MAX_TOP_LOGPROBS,
    Completion,
    FinishReason,
    GenerateRequest,
    NextTokens,
    SamplingParams,
    TokenLogprobs,
    TokenStep,
)
from dctokenizers import Tokenizer


class LocalSession(Session):
    """All state is in a sequence that goes to the scheduler for each step and comes back."""

    def __init__(
        self,
        request: GenerateRequest,
        sequence: SessionSequence,
        tokenizer: Tokenizer,
        vocab_size: int,
        turns: Turns,
    ) -> None:
        """`vocab_size`: the engine's."""
        self.prompt_ids = request.prompt_ids
        self._request = request
        self._sequence = sequence
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._turns = turns
        self._forks = 0
        self._is_busy = False
        self._streamed = self._assembler()
        self._num_streamed = 0
        """How many tokens `_streamed` has seen."""

    # -- the text ----------------------------------------------------------------------------------

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(self._sequence.token_ids[self._sequence.prompt_length :])

    @property
    def token_logprobs(self) -> tuple[float, ...]:
        return tuple(record[0] for record in self._sequence.records)

    def known(self, start: int) -> tuple[TokenLogprobs, ...]:
        return tuple(map(token_logprobs, self._sequence.records[start:]))

    @property
    def raw_logprob(self) -> float:
        return math.fsum(record[0] for record in self._sequence.records)

    @property
    def text(self) -> str:
        assembler = self._assembler()
        parts = [assembler.push(token_id, self._sequence.releasable_bytes) for token_id in self.token_ids]
        return "".join(parts) + assembler.finish(self._sequence.releasable_bytes)

    @property
    def max_tokens(self) -> int:
        return self._sequence.limit - self._sequence.prompt_length

    @property
    def is_finished(self) -> bool:
        return self._sequence.ending is not None

    @property
    def stop_reason(self) -> str:
        return "" if self._sequence.ending is None else self._sequence.ending[1]

    @property
    def is_accepting(self) -> bool:
        return self._sequence.matcher is None or self._sequence.matcher.is_accepting

    @property
    def is_exact(self) -> bool:
        return self._sequence.matcher is None or self._sequence.matcher.is_exact

    def forced(self) -> list[int]:
        if self._sequence.matcher is None or self.is_finished:
            return []
        return self._sequence.matcher.forced()[: self.max_tokens - len(self.token_ids)]

    # -- changing it -------------------------------------------------------------------------------

    def append(
        self,
        token_ids: Sequence[int],
        *,
        logprobs: Sequence[TokenLogprobs] | None = None,
        forced: bool = False,
    ) -> None:
        ids = self._checked(token_ids)
        if logprobs is not None and len(logprobs) != len(ids):
            raise InvalidRequestError(
                f"there are {len(ids)} tokens and {len(logprobs)} log-probabilities.", remedy="Give one each."
            )
        self._check_idle()
        done = 0
        try:
            for place, token_id in enumerate(ids):
                self._check_open()
                record = None if logprobs is None else _given_record(logprobs[place])
                self._sequence.extend(token_id, record, forced=forced)
                done += 1
        except DcModelError:
            self._sequence.take_back(done)
            raise

    def rollback(self, count: int) -> None:
        check_integer("count", count, low=0)
        self._check_idle()
        if count > self._sequence.output_length:
            raise InvalidRequestError(
                f"{count} tokens cannot be taken back: the session has {self._sequence.output_length}.",
                remedy="The prompt stays as it is.",
            )
        self._sequence.take_back(count)
        self._streamed = self._assembler()
        self._num_streamed = 0

    def fork(self) -> LocalSession:
        self._check_idle()
        self._forks += 1
        seed = child_seed(self._sequence.seed & SEED_MASK, self._forks)
        return LocalSession(
            self._request, self._sequence.fork(seed), self._tokenizer, self._vocab_size, self._turns
        )

    def skip_forks(self, count: int) -> None:
        check_integer("count", count, low=0)
        self._forks += count

    # -- asking the model --------------------------------------------------------------------------

    async def step(
        self, mask: Answer = None, *, sampling: SamplingParams | None = None, attempt: int = 0
    ) -> TokenStep:
        self._check_open()
        check_integer("attempt", attempt, low=0, high=MAX_ATTEMPT)
        sequence = self._sequence
        self._catch_up()
        own = sequence.sampling
        if sampling is not None:
            sequence.draw_by(sampling)
        try:
            await self._advance(mask, None, attempt)
        finally:
            if sampling is not None:
                sequence.draw_by(own)
        token_id = sequence.token_ids[-1]
        return TokenStep(
            token_id=token_id,
            text=self._catch_up(),
            logprobs=token_logprobs(sequence.records[-1]),
            finish_reason=sequence.ending[0] if sequence.ending is not None else None,
        )

    async def logprobs(self, mask: Answer = None, *, k: int | None = None) -> NextTokens:
        self._check_open()
        look = checked_look(k, self._vocab_size)
        await self._advance(mask, look)
        assert look.found is not None
        return look.found

    async def settle(self) -> None:
        if self._sequence.ready < len(self._sequence.token_ids):
            self._check_idle()
            self._sequence.resume(draws=False)
            await self._go()

    def completion(self, reason: FinishReason | None = None) -> Completion:
        self._check_idle()
        sequence = self._sequence
        ending = sequence.ending if reason is None else (reason, str(reason))
        if sequence.ready < len(sequence.token_ids):
            raise InvalidRequestError(
                f"{len(sequence.token_ids) - sequence.ready} appended tokens have no log-probabilities yet.",
                remedy="Await settle() first.",
            )
        whole = sequence.fork(sequence.seed)  # a judgement may use the matcher up
        return completion_of(whole, self._request, self._tokenizer, self.text, ending)

    async def _advance(self, mask: Answer, look: Look | None, attempt: int = 0) -> None:
        self._check_idle()
        checked = checked_mask(mask, self._tokenizer.vocab_size)
        self._sequence.resume(mask=checked, look=look, attempt=attempt)
        await self._go()

    async def _go(self) -> None:
        self._is_busy = True
        try:
            await self._turns.step(self._sequence)
        finally:
            self._is_busy = False
        if self._sequence.error is not None:
            raise self._sequence.error

    def _assembler(self) -> TextAssembler:
        return TextAssembler(self._tokenizer, skip=len(self._request.healed.encode()))

    def _catch_up(self) -> str:
        """What the tokens add to the text that no step has shown yet."""
        sequence = self._sequence
        new = sequence.token_ids[sequence.prompt_length + self._num_streamed :]
        self._num_streamed += len(new)
        parts = [self._streamed.push(token_id, sequence.releasable_bytes) for token_id in new]
        if self.is_finished:
            parts.append(self._streamed.finish(sequence.releasable_bytes))
        return "".join(parts)

    def _checked(self, token_ids: Sequence[int]) -> list[int]:
        try:
            ids = [index(token_id) for token_id in token_ids]
        except TypeError:
            raise InvalidRequestError(
                f"{token_ids!r:.60} is no list of token ids.", remedy="Encode a text first."
            ) from None
        check_token_ids(np.asarray(ids, dtype=np.int64), self._vocab_size, what="appended token id")
        return ids

    def _check_open(self) -> None:
        if self._sequence.ending is not None:
            raise InvalidRequestError(
                f"the text has ended ({self._sequence.ending[1]}).",
                remedy="Take tokens back with rollback().",
            )

    def _check_idle(self) -> None:
        if self._is_busy:
            raise InvalidRequestError(
                "the session is in the middle of a step.", remedy="Await it first, or fork before it."
            )


def checked_mask(mask: Answer, vocab_size: int) -> TokenMask | None:
    """What a caller gave as a mask; None allows everything."""
    if mask is None:
        return None
    try:
        checked = mask_of_answer(mask, vocab_size)
    except WrongAnswerError as error:
        raise InvalidRequestError(f"the mask cannot be used: {error}") from error
    if not checked.bits.any():
        raise InvalidRequestError("the mask allows no token.", remedy="Allow at least one.")
    return checked


def checked_look(k: int | None, vocab_size: int) -> Look:
    """A look at `k` tokens, or at all of them."""
    if k is not None:
        check_integer("k", k, low=1, high=MAX_TOP_LOGPROBS)
        k = min(k, vocab_size)
    return Look(k)


def _given_record(known: TokenLogprobs) -> LogprobRecord:
    """What the caller knows of a token, as the scheduler would have found it."""
    return known.raw_logprob, known.masked_logprob, known.log_mass, None, None
