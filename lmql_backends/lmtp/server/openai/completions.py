"""POST /v1/completions"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

import msgspec

from dcmodel.types import Completion
from dctokenizers import Tokenizer
from lmql_backends.lmtp.server.contracts import HttpRequest, HttpResponse, ServedModel
from lmql_backends.lmtp.server.openai.answers import (
    TextAnswer,
    TextChoice,
    UsageBody,
    end_of,
    ended_at_once,
    usage_of_stream,
)
from lmql_backends.lmtp.server.openai.chunks import Frame, TextWriter
from lmql_backends.lmtp.server.openai.completion_job import make_job
from lmql_backends.lmtp.server.openai.events import stream_texts
from lmql_backends.lmtp.server.openai.fields import CompletionBody
from lmql_backends.lmtp.server.openai.jobs import Job
from lmql_backends.lmtp.server.openai.logprobs import LegacyLogprobs, LegacyWriter, TokenNames, prompt_places
from lmql_backends.lmtp.server.openai.reading import read
from lmql_backends.lmtp.server.openai.running import PromptResult, best, run_job, without_draws
from lmql_backends.lmtp.server.openai.service import Service, about, off_loop

KIND = "text_completion"


class CompletionRoute:
    """Texts, or their scores, for prompts."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        body = await off_loop(len(request.body), partial(read, request.body, CompletionBody))
        async with AsyncExitStack() as stack:
            served = await stack.enter_async_context(self._service.models.use(body.model or ""))
            job = await off_loop(len(request.body), partial(make_job, body, served))
            with about(job.constraint_field):
                if body.stream:
                    return await self._stream(body, served, job, stack)
                results = await run_job(served.model, job)
        return self._whole(body, served, results)

    def _whole(self, body: CompletionBody, served: ServedModel, results: list[PromptResult]) -> HttpResponse:
        choices: list[TextChoice] = []
        for result in results:
            for text in best(result.texts, body.n or 1) if result.texts else [None] * (body.n or 1):
                choices.append(_choice(body, served.model.tokenizer, result, text, len(choices)))
        usage = UsageBody.of((len(result.job.prompt_ids), result.texts) for result in results)
        head = msgspec.structs.asdict(self._service.head("cmpl", KIND, served.name))
        return HttpResponse(body=msgspec.json.encode(TextAnswer(**head, choices=choices, usage=usage)))

    async def _stream(
        self, body: CompletionBody, served: ServedModel, job: Job, stack: AsyncExitStack
    ) -> HttpResponse:
        options = body.stream_options
        frame = Frame(
            self._service.head("cmpl", KIND, served.name),
            include_usage=bool(options and options.include_usage),
        )
        # An echoed prompt with its log-probabilities is the first thing that is shown.
        prompts = await run_job(served.model, without_draws(job))
        texts = [
            (draw, result) for item, result in zip(job.prompts, prompts, strict=True) for draw in item.draws
        ]
        tokenizer = served.model.tokenizer
        writers = [
            (draw, _writer(body, tokenizer, frame, result, draw.healed, index))
            for index, (draw, result) in enumerate(texts)
        ]
        counts = [len(item.draws) for item in job.prompts]

        def finale(ended: list[Completion]) -> bytes:
            return frame.final(usage_of_stream(counts, ended))

        return await stream_texts(served.model, writers, finale, stack)


def _choice(
    body: CompletionBody, tokenizer: Tokenizer, result: PromptResult, text: Completion | None, index: int
) -> TextChoice:
    """One text of a prompt; None where no token was wanted."""
    choice = TextChoice(index=index, text="", **(ended_at_once() if text is None else end_of(text)))
    choice.text = result.job.text + (text.text if text else "")
    if body.logprobs is not None:
        choice.logprobs = _logprobs(body, tokenizer, result, text)
    if body.prompt_logprobs is not None:
        names = TokenNames(tokenizer)
        choice.prompt_logprobs = prompt_places(
            names, result.job.prompt_ids, result.scored, body.prompt_logprobs
        )
    if body.return_token_ids:
        choice.prompt_token_ids = result.job.prompt_ids
        choice.token_ids = text.token_ids if text else ()
    return choice


def _logprobs(
    body: CompletionBody, tokenizer: Tokenizer, result: PromptResult, text: Completion | None
) -> LegacyLogprobs:
    writer = _legacy_writer(body, tokenizer, len(text.healed) if text else 0)
    made = LegacyLogprobs([], [], [] if body.logprobs else None, [])
    if body.echo:
        made = writer.prompt(result.job.prompt_ids, result.scored, result.job.text)
    if text is not None and text.logprobs is not None:
        writer.output(text.token_ids, text.logprobs, into=made)
    return made


def _legacy_writer(body: CompletionBody, tokenizer: Tokenizer, skipped: int) -> LegacyWriter:
    return LegacyWriter(
        tokenizer,
        tops=body.logprobs or 0,
        masked=body.logprobs_mode == "masked",
        as_ids=bool(body.return_tokens_as_token_ids),
        skipped=skipped,
    )


def _writer(
    body: CompletionBody, tokenizer: Tokenizer, frame: Frame, result: PromptResult, healed: str, index: int
) -> TextWriter:
    """What makes the events of one text of a prompt."""
    legacy = _legacy_writer(body, tokenizer, len(healed)) if body.logprobs is not None else None
    echo = b""
    if body.echo:
        job = result.job
        known = legacy.prompt(job.prompt_ids, result.scored, job.text) if legacy else None
        echo = TextWriter.echoed(index, job.text, known, job.prompt_ids if body.return_token_ids else None)
    return TextWriter(frame, index, logprobs=legacy, echo=echo, with_ids=bool(body.return_token_ids))
