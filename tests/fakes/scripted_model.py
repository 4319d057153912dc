"""A `DcModel` that says what a function tells it to: for tests of what stands above the model."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from dcmodel.errors import EngineError, ModelClosedError
from dcmodel.model import DcModel, GenerateStream
from dcmodel.types import (
    Certificate,
    Completion,
    FinishReason,
    GenerateRequest,
    ModelInfo,
    ScoredContinuation,
    ScoreRequest,
    ScoreResult,
    TokenLogprobs,
    TokenStep,
    Usage,
)
from fakes.small_tokenizer import small_tokenizer

LOGPROB = TokenLogprobs(raw_logprob=-0.5, masked_logprob=-0.25, log_mass=-0.25)


class ScriptedModel(DcModel):
    """Answers with ``reply(prompt)``, a token per turn of the loop; "fail" in a prompt makes it fail.

    A token's log-probability is minus the length of its bytes.
    """

    def __init__(self, reply: Callable[[str], str] = str.upper, *, delay: float = 0.0) -> None:
        self.tokenizer = small_tokenizer()
        self.info = ModelInfo(
            name="scripted", backend="fake", vocab_size=self.tokenizer.vocab_size, max_positions=512
        )
        self.reply = reply
        self.delay = delay
        self.requests: list[GenerateRequest] = []
        self.scored: list[ScoreRequest] = []
        self.streams: list[ScriptedStream] = []
        self.closed = False

    def generate(self, request: GenerateRequest) -> ScriptedStream:
        if self.closed:
            raise ModelClosedError("closed.")
        prompt = self.tokenizer.decode(request.prompt_ids)
        self.requests.append(request)
        stream = ScriptedStream(self, request, "fail" in prompt, self.reply(prompt))
        self.streams.append(stream)
        return stream

    async def score(self, request: ScoreRequest) -> ScoreResult:
        self.scored.append(request)
        await asyncio.sleep(self.delay)
        items = tuple(
            ScoredContinuation(
                token_ids=ids,
                logprobs=tuple(-float(len(self.tokenizer.token_bytes(item))) for item in ids),
                ranks=(0,) * len(ids),
            )
            for ids in request.continuations
        )
        usage = Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=1, forced_tokens=0)
        return ScoreResult(continuations=items, usage=usage)

    async def aclose(self) -> None:
        self.closed = True


class ScriptedStream(GenerateStream):
    def __init__(self, model: ScriptedModel, request: GenerateRequest, fails: bool, text: str) -> None:
        self.model = model
        self.request = request
        self.fails = fails
        self.token_ids = model.tokenizer.encode(text)[: request.max_tokens]
        self.sent = 0
        self.cancelled = False

    async def __anext__(self) -> TokenStep:
        await asyncio.sleep(self.model.delay)
        if self.fails and self.sent == 1:
            raise EngineError("it failed.")
        if self.cancelled or self.sent == len(self.token_ids):
            raise StopAsyncIteration
        token_id = self.token_ids[self.sent]
        self.sent += 1
        return TokenStep(token_id=token_id, text=self.model.tokenizer.decode([token_id]), logprobs=LOGPROB)

    async def completion(self) -> Completion:
        async for _ in self:
            pass
        ids = tuple(self.token_ids[: self.sent])
        return Completion(
            text=self.model.tokenizer.decode(ids),
            token_ids=ids,
            finish_reason=FinishReason.CANCELLED if self.cancelled else FinishReason.STOP,
            stop_reason="cancelled" if self.cancelled else "eos",
            logprobs=tuple(itertools.repeat(LOGPROB, len(ids))) if self.request.logprobs else None,
            forced=(False,) * len(ids),
            usage=Usage(
                prompt_tokens=len(self.request.prompt_ids),
                cached_tokens=0,
                completion_tokens=len(ids),
                forced_tokens=0,
            ),
            certificate=Certificate(valid=None, exact=True),
        )

    def cancel(self) -> None:
        if self.sent < len(self.token_ids):
            self.cancelled = True
