"""The stream of one request that runs on a local scheduler."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from dcmodel.errors import DcModelError
from dcmodel.local.completion import completion_of, token_logprobs
from dcmodel.local.text import TextAssembler
from dcmodel.model import GenerateStream
from dcmodel.scheduling.runner import SequenceRunner
from dcmodel.scheduling.sequence import Sequence, Status
from dcmodel.types import Completion, GenerateRequest, TokenStep
from dctokenizers import Tokenizer


class LocalStream(GenerateStream):
    """Reads a `Sequence` that the scheduler's thread writes; steps are made when they are asked for."""

    def __init__(self, request: GenerateRequest, tokenizer: Tokenizer, runner: SequenceRunner) -> None:
        self._request = request
        self._tokenizer = tokenizer
        self._runner = runner
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._notify: Callable[[], None] = self._news.set
        self._sequence: Sequence | None = None
        self._error: DcModelError | None = None
        self._cancelled = False
        self._is_streaming = False
        self._read = len(request.resumed)
        self._text = TextAssembler(tokenizer, skip=len(request.healed.encode()))
        self._parts: list[str] = []
        self._result: Completion | None = None

    def start(self, sequence: Sequence) -> None:
        """Hand the sequence to the scheduler (in the stream's loop)."""
        if self._cancelled:
            return
        self._sequence = sequence
        for token_id, releasable in zip(self._request.resumed, sequence.releasable_after, strict=False):
            self._parts.append(self._text.push(token_id, releasable))
        if self._read and sequence.ending is not None and self._read == sequence.output_length:
            self._parts.append(self._text.finish(sequence.releasable_bytes))
        sequence.loop = self._loop
        sequence.notify = self._notify
        sequence.is_armed = self._is_streaming
        try:
            self._runner.submit([sequence])
        except DcModelError as error:
            self.fail(error)

    def fail(self, error: DcModelError) -> None:
        """The request never ran."""
        if not self._cancelled:
            self._error = error
            self._notify()

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

    def watch(self, news: Callable[[], None]) -> bool:
        event = self._news

        def notify() -> None:  # knows nothing of the stream, so that a dropped one is cancelled
            event.set()
            news()

        self._notify = notify
        self._is_streaming = True
        if self._sequence is not None:
            self._sequence.notify = notify
            self._sequence.is_armed = True
        if self._is_readable() or self._has_ended():
            news()
        return True

    def ready(self, limit: int | None = None) -> list[TokenStep]:
        steps: list[TokenStep] = []
        while (limit is None or len(steps) < limit) and (step := self._next_step()) is not None:
            steps.append(step)
        return steps

    @property
    def is_exhausted(self) -> bool:
        if not self._has_ended():
            return False
        sequence = self._sequence
        return sequence is None or sequence.prompt_length + self._read >= sequence.visible

    def cancel(self) -> None:
        self._cancelled = True
        if self._sequence is not None:
            self._stop(self._sequence)
        elif self._error is None:
            self._withdraw()
            self._notify()

    def __del__(self) -> None:
        self._cancelled = True
        if self._sequence is not None:
            self._stop(self._sequence)

    def _stop(self, sequence: Sequence) -> None:
        if sequence.status is not Status.FINISHED:
            self._runner.cancel(sequence)

    def _withdraw(self) -> None:
        """It has not begun (its constraint compiles) and never will: the result is what it began with."""
        resumed = self._request.resumed
        sequence = Sequence(
            self._request.prompt_ids,
            sampling=self._request.sampling,
            seed=0,
            limit=sys.maxsize,
            want_logprobs=self._request.logprobs or self._request.top_logprobs > 0,
            resumed=resumed,
        )
        sequence.status = Status.FINISHED
        self._parts.extend(self._text.push(token_id, None) for token_id in resumed)
        self._sequence = sequence

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
        text = self._text.push(token_id, sequence.releasable_after[place])
        ending = sequence.ending
        is_last = ending is not None and sequence.prompt_length + self._read == len(sequence.token_ids)
        if is_last:
            text += self._text.finish(sequence.releasable_bytes)
        self._parts.append(text)
        return TokenStep(
            token_id=token_id,
            text=text,
            forced=sequence.forced[place],
            logprobs=token_logprobs(sequence.records[place]) if sequence.want_logprobs else None,
            finish_reason=ending[0] if ending is not None and is_last else None,
        )

    def _complete(self) -> Completion:
        sequence = self._sequence
        assert sequence is not None
        is_whole = sequence.ending is not None and sequence.ready == len(sequence.token_ids)
        if not is_whole:
            self._parts.append(self._text.finish(sequence.releasable_bytes))
        ending = sequence.ending if is_whole else None
        return completion_of(sequence, self._request, self._tokenizer, "".join(self._parts), ending)
