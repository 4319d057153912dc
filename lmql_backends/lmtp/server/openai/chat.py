"""POST /v1/chat/completions"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

import msgspec

from dcmodel.types import Completion
from dctokenizers import Tokenizer
from lmql_backends.lmtp.server.contracts import HttpRequest, HttpResponse, ServedModel
from lmql_backends.lmtp.server.openai.answers import (
    AnswerMessage,
    ChatAnswer,
    ChatChoice,
    UsageBody,
    end_of,
    usage_of_stream,
)
from lmql_backends.lmtp.server.openai.chat_job import make_job
from lmql_backends.lmtp.server.openai.chunks import ChatWriter, Frame
from lmql_backends.lmtp.server.openai.events import stream_texts
from lmql_backends.lmtp.server.openai.fields import ChatBody
from lmql_backends.lmtp.server.openai.jobs import Job
from lmql_backends.lmtp.server.openai.logprobs import TokenNames, chat_logprobs, prompt_places
from lmql_backends.lmtp.server.openai.reading import read
from lmql_backends.lmtp.server.openai.running import PromptResult, run_job
from lmql_backends.lmtp.server.openai.service import Service, about, off_loop


class ChatRoute:
    """Answers in conversations."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        body = await off_loop(len(request.body), partial(read, request.body, ChatBody))
        async with AsyncExitStack() as stack:
            served = await stack.enter_async_context(self._service.models.use(body.model or ""))
            job = await off_loop(len(request.body), partial(make_job, body, served))
            with about(job.constraint_field):
                if body.stream:
                    return await self._stream(body, served, job, stack)
                results = await run_job(served.model, job)
        return self._whole(body, served, results[0])

    def _whole(self, body: ChatBody, served: ServedModel, result: PromptResult) -> HttpResponse:
        tokenizer = served.model.tokenizer
        ids = result.job.prompt_ids
        head = msgspec.structs.asdict(self._service.head("chatcmpl", "chat.completion", served.name))
        answer = ChatAnswer(
            **head,
            choices=[_choice(body, tokenizer, text, index) for index, text in enumerate(result.texts)],
            usage=UsageBody.of([(len(ids), result.texts)]),
        )
        if body.prompt_logprobs is not None:
            places = prompt_places(TokenNames(tokenizer), ids, result.scored, body.prompt_logprobs)
            answer.prompt_logprobs = places
        if body.return_token_ids:
            answer.prompt_token_ids = ids
        return HttpResponse(body=msgspec.json.encode(answer))

    async def _stream(
        self, body: ChatBody, served: ServedModel, job: Job, stack: AsyncExitStack
    ) -> HttpResponse:
        options = body.stream_options
        frame = Frame(
            self._service.head("chatcmpl", "chat.completion.chunk", served.name),
            include_usage=bool(options and options.include_usage),
        )
        writers = [
            (draw, _writer(body, served.model.tokenizer, frame, index))
            for index, draw in enumerate(job.prompts[0].draws)
        ]

        def finale(ended: list[Completion]) -> bytes:
            return frame.final(usage_of_stream([len(writers)], ended))

        return await stream_texts(served.model, writers, finale, stack)


def _choice(body: ChatBody, tokenizer: Tokenizer, text: Completion, index: int) -> ChatChoice:
    choice = ChatChoice(index=index, message=AnswerMessage(content=text.text), **end_of(text))
    if body.logprobs and text.logprobs is not None:
        choice.logprobs = chat_logprobs(
            TokenNames(tokenizer),
            text.token_ids,
            text.logprobs,
            tops=body.top_logprobs or 0,
            masked=body.logprobs_mode == "masked",
        )
    if body.return_token_ids:
        choice.token_ids = text.token_ids
    return choice


def _writer(body: ChatBody, tokenizer: Tokenizer, frame: Frame, index: int) -> ChatWriter:
    return ChatWriter(
        frame,
        index,
        names=TokenNames(tokenizer) if body.logprobs else None,
        tops=body.top_logprobs or 0,
        masked=body.logprobs_mode == "masked",
        with_ids=bool(body.return_token_ids),
    )
