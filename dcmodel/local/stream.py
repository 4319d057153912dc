"""The stream of one request that runs on a local scheduler."""

from __future__ import annotations

import asyncio
from typing import Any

from dcmodel.constraints.canonical import CanonicalMatcher
from dcmodel.errors import DcModelError
from dcmodel.local.text import TextAssembler
from dcmodel.model import GenerateStream
from dcmodel.scheduling.scheduler import Scheduler
from dcmodel.scheduling.sequence import LogprobRecord, Sequence, Status, TopRow
from dcmodel.types import (
    Certificate,
    Completion,
    FinishReason,
    GenerateRequest,
    TokenLogprobs,
    TokenStep,
    TopLogprob,
    Usage,
)
from dctokenizers import Tokenizer


class LocalStream(GenerateStream):
    """Reads a `Sequence` that the scheduler's thread writes; steps are made when they are asked for."""

    def __init__(self, request: GenerateRequest, tokenizer: Tokenizer, scheduler: Scheduler) -> None:
        self._request = request
        self._tokenizer = tokenizer
        self._scheduler = scheduler
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._sequence: Sequence | None = None
        self._error: DcModelError | None = None
        self._cancelled = False
        self._is_streaming = False
        self._read = 0
        self._text = TextAssembler(tokenizer, skip=len(request.healed.encode()))
        self._parts: list[str] = []
        self._result: Completion | None = None

    def start(self, sequence: Sequence) -> None:
        """Hand the sequence to the scheduler (in the stream's loop)."""
        self._sequence = sequence
        sequence.loop = self._loop
        sequence.notify = self._news.set
        sequence.cancelled = self._cancelled
        sequence.is_armed = self._is_streaming
        try:
            self._scheduler.submit([sequence])
        except DcModelError as error:
            self.fail(error)

    def fail(self, error: DcModelError) -> None:
        """The request never ran."""
        self._error = error
        self._news.set()

    async def __anext__(self) -> TokenStep:
        while True:
            if (step := self._next_step()) is not None:
                return step
            if self._has_ended():
                if (error := self._failure()) is not None:
                    raise error
                raise StopAsyncIteration
            self._is_streaming = True
            if self._sequence is not None:
                self._sequence.is_armed = True
            self._news.clear()
            if not self._is_readable():
                await self._news.wait()

    async def completion(self) -> Completion:
        try:
            while not self._has_ended():
                self._news.clear()
                if not self._has_ended():
                    await self._news.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if (error := self._failure()) is not None:
            raise error
        if self._result is None:
            while self._next_step() is not None:
                pass
            self._result = self._complete()
        return self._result

    def cancel(self) -> None:
        self._cancelled = True
        if self._sequence is not None and self._sequence.status is not Status.FINISHED:
            self._scheduler.cancel(self._sequence)

    def __del__(self) -> None:
        self.cancel()

    # -- reading the sequence ----------------------------------------------------------------------

    def _is_readable(self) -> bool:
        sequence = self._sequence
        if sequence is None:
            return self._error is not None
        return sequence.prompt_length + self._read < sequence.visible or sequence.status is Status.FINISHED

    def _has_ended(self) -> bool:
        return self._error is not None or (
            self._sequence is not None and self._sequence.status is Status.FINISHED
        )

    def _failure(self) -> DcModelError | None:
        if self._error is not None:
            return self._error
        assert self._sequence is not None
        return self._sequence.error

    def _next_step(self) -> TokenStep | None:
        """The next token that is ready, if any."""
        sequence = self._sequence
        if sequence is None or sequence.prompt_length + self._read >= sequence.visible:
            return None
        place = self._read
        self._read += 1
        token_id = sequence.token_ids[sequence.prompt_length + place]
        text = self._text.push(token_id, sequence.releasable_bytes)
        ending = sequence.ending
        is_last = ending is not None and sequence.prompt_length + self._read == len(sequence.token_ids)
        if is_last:
            text += self._text.finish(sequence.releasable_bytes)
        self._parts.append(text)
        return TokenStep(
            token_id=token_id,
            text=text,
            forced=sequence.forced[place],
            logprobs=_logprobs(sequence.records[place]) if sequence.want_logprobs else None,
            finish_reason=ending[0] if ending is not None and is_last else None,
        )

    def _complete(self) -> Completion:
        sequence, request = self._sequence, self._request
        assert sequence is not None
        output = tuple(sequence.token_ids[sequence.prompt_length : sequence.ready])
        is_whole = sequence.ending is not None and sequence.ready == len(sequence.token_ids)
        if sequence.ending is not None and is_whole:
            finish_reason, stop_reason = sequence.ending
        else:
            finish_reason, stop_reason = FinishReason.CANCELLED, "cancelled"
            self._parts.append(self._text.finish(sequence.releasable_bytes))
        text = "".join(self._parts)
        valid = self._is_valid(sequence, text) if is_whole else False
        parsed: Any = None
        if request.constraint is not None and valid:
            parsed = request.constraint.parse(text)
        forced = tuple(sequence.forced[: len(output)])
        return Completion(
            text=text,
            token_ids=output,
            finish_reason=finish_reason,
            stop_reason=stop_reason,
            logprobs=tuple(map(_logprobs, sequence.records)) if sequence.want_logprobs else None,
            forced=forced,
            usage=Usage(
                prompt_tokens=sequence.prompt_length,
                cached_tokens=sequence.cached_tokens,
                completion_tokens=len(output),
                forced_tokens=sum(forced),
            ),
            certificate=_certificate(sequence, valid if request.constraint is not None else None),
            healed=request.healed,
            parsed=parsed,
        )

    def _is_valid(self, sequence: Sequence, text: str) -> bool:
        """Whether the text is a complete match; a stop string may have cut it where it is none."""
        matcher = sequence.matcher
        if matcher is None:
            return True
        if sequence.stop is None or sequence.stop.matched is None:
            return matcher.is_accepting
        matcher.rollback(sequence.output_length)
        if isinstance(matcher, CanonicalMatcher):  # validity is a matter of text
            matcher = matcher.rule
        cut = self._tokenizer.encode(self._request.healed + text)
        return matcher.advance(cut) == len(cut) and matcher.is_accepting


def _certificate(sequence: Sequence, valid: bool | None) -> Certificate:
    if sequence.matcher is not None and sequence.matcher.was_narrowed:
        detail = "a token was refused for which the search for a complete text ended without an answer"
        return Certificate(valid=valid, exact=False, detail=detail)
    return Certificate(valid=valid, exact=True)


def _logprobs(record: LogprobRecord) -> TokenLogprobs:
    raw, masked, mass, top_raw, top_masked = record
    return TokenLogprobs(
        raw_logprob=raw,
        masked_logprob=masked,
        log_mass=mass,
        top_raw=_top(top_raw),
        top_masked=_top(top_masked),
    )


def _top(row: TopRow | None) -> tuple[TopLogprob, ...]:
    if row is None:
        return ()
    return tuple(
        TopLogprob(token_id, logprob) for token_id, logprob in zip(*row, strict=True) if token_id >= 0
    )
