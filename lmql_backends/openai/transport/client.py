"""`Transport`: bodies in, answers out; everything between is this package's affair."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from random import Random
from typing import Any

import msgspec

from dcmodel.errors import InvalidRequestError
from lmql_backends.openai.transport.answers import Answer, choices_of, in_order, parse
from lmql_backends.openai.transport.cache import AnswerCache
from lmql_backends.openai.transport.configuration import Configuration
from lmql_backends.openai.transport.continuation import (
    CompletionContinuation,
    Continuation,
    NoContinuation,
    is_deterministic,
    token_limit,
)
from lmql_backends.openai.transport.counters import Counters, Spent
from lmql_backends.openai.transport.endpoint import Endpoint
from lmql_backends.openai.transport.failures import AttemptFailed, to_error
from lmql_backends.openai.transport.gate import Slot
from lmql_backends.openai.transport.http import AiohttpHttp, Http
from lmql_backends.openai.transport.job import Job
from lmql_backends.openai.transport.settings import TransportSettings
from lmql_backends.openai.transport.streaming import CompletionStream

COMPLETIONS = "/completions"
CHAT_COMPLETIONS = "/chat/completions"
CHARACTERS_PER_TOKEN = 4


class Transport:
    """The road to one endpoint, for any number of models. May be used from several event loops; each has
    connections, gates and groups of its own, and closes them itself."""

    def __init__(
        self,
        configuration: Configuration,
        settings: TransportSettings | None = None,
        *,
        make_http: Callable[[], Http] = AiohttpHttp,
        cache: AnswerCache | None = None,
        rng: Random | None = None,
        wall_time: Callable[[], float] = time.time,
    ) -> None:
        """`cache` answers what was asked before, where it is sure to be the same."""
        self.counters = Counters()
        self.configuration = configuration
        self._settings = settings or TransportSettings()
        self._make_http = make_http
        self._cache = cache
        self._rng = rng or Random()
        self._wall_time = wall_time
        self._orders = count()
        self._endpoints: dict[asyncio.AbstractEventLoop, Endpoint] = {}

    async def complete(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        may_group: bool = False,
        seconds: float | None = None,
        sample_index: int | None = None,
    ) -> Answer:
        """The answer to one prompt or chat.

        `may_group`: the endpoint takes a list of prompts, so that other callers' prompts may go along.
        `seconds` is the deadline, instead of the policy's. `sample_index` tells apart several draws of the
        same question for the cache.

        Raises dcmodel's errors, after one request where another could not help.
        """
        if self._cache is None:
            return await self._answer(path, body, may_group=may_group, seconds=seconds)
        key = self._cache.key(self.configuration.base_url, path, body, sample_index)
        known = None if key is None else self._cache.get(key)
        if known is not None:
            self.counters.cache_hits += 1
            return replace(known, is_cached=True, spent=Spent())
        answer = await self._answer(path, body, may_group=may_group, seconds=seconds)
        if key is not None:
            self._cache.put(key, answer)
        return answer

    def stream(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        continuation: Continuation | None = None,
        seconds: float | None = None,
    ) -> CompletionStream:
        """One completion as it comes, which survives cuts.

        `continuation` says how the endpoint takes what was received; by default text and ids at
        `/completions`, and no way at `/chat/completions`.
        """
        if continuation is None:
            continuation = CompletionContinuation() if path == COMPLETIONS else NoContinuation()
        if (body.get("n") or 1) != 1 or body.get("echo"):
            raise InvalidRequestError(
                "a stream is one completion, without its prompt.", remedy="Leave n and echo out."
            )
        endpoint = self._endpoint()
        model = body.get("model", "")
        return CompletionStream(
            endpoint.runner(model),
            self._job(path, body, seconds, is_stream=True),
            lambda part: endpoint.opening(path, model, part),
            body,
            continuation,
            self.counters,
            self._where,
        )

    async def get(self, path: str, *, seconds: float | None = None) -> dict[str, Any]:
        """A GET, such as ``/models``."""
        job = self._job(path, {}, seconds)
        endpoint = self._endpoint()

        async def attempt(_: Slot, limit: float) -> dict[str, Any]:
            return parse(await endpoint.request("GET", path, "", None, limit))

        try:
            return await endpoint.runner("").run(job, attempt)
        except AttemptFailed as failure:
            raise to_error(failure, self._where) from failure

    async def post(
        self, path: str, body: Mapping[str, Any], *, seconds: float | None = None
    ) -> tuple[dict[str, Any], Spent]:
        """What another route than those of completions answers, as it is, and what it took."""
        job = self._job(path, body, seconds)
        endpoint, model = self._endpoint(), body.get("model", "")
        encoded = msgspec.json.encode(body)

        async def attempt(_: Slot, limit: float) -> dict[str, Any]:
            return parse(await endpoint.request("POST", path, model, encoded, limit))

        try:
            return await endpoint.runner(model).run(job, attempt), job.spent
        except AttemptFailed as failure:
            raise to_error(failure, self._where) from failure

    async def aclose(self) -> None:
        """Cancel and close what belongs to this event loop."""
        endpoint = self._endpoints.pop(asyncio.get_running_loop(), None)
        if endpoint is not None:
            await endpoint.aclose()
        await self.configuration.aclose()

    # -- inside ------------------------------------------------------------------------------------

    @property
    def _where(self) -> str:
        return self.configuration.base_url

    def _endpoint(self) -> Endpoint:
        loop = asyncio.get_running_loop()
        endpoint = self._endpoints.get(loop)
        if endpoint is None:
            for other in [other for other in self._endpoints if other.is_closed()]:
                del self._endpoints[other]
            endpoint = self._endpoints[loop] = Endpoint(
                self.configuration,
                self._make_http(),
                self._settings,
                self.counters,
                self._rng,
                self._wall_time,
            )
        return endpoint

    async def _answer(
        self, path: str, body: Mapping[str, Any], *, may_group: bool, seconds: float | None
    ) -> Answer:
        job = self._job(path, body, seconds)
        model = body.get("model", "")
        if may_group and path == COMPLETIONS and _is_one_prompt(body.get("prompt")):
            return await self._endpoint().grouper(path, model).complete(body, job)
        return await self._complete_alone(path, model, body, job)

    async def _complete_alone(self, path: str, model: str, body: Mapping[str, Any], job: Job) -> Answer:
        endpoint = self._endpoint()
        encoded = msgspec.json.encode(body)

        async def attempt(_: Slot, seconds: float) -> dict[str, Any]:
            message = parse(await endpoint.request("POST", path, model, encoded, seconds))
            choices_of(message)
            return message

        try:
            message = await endpoint.runner(model).run(job, attempt)
        except AttemptFailed as failure:
            raise to_error(failure, self._where) from failure
        self.counters.add_usage(message.get("usage"))
        return Answer(
            choices=in_order(message["choices"]),
            usage=message.get("usage"),
            system_fingerprint=message.get("system_fingerprint") or "",
            spent=job.spent,
        )

    def _job(
        self, path: str, body: Mapping[str, Any], seconds: float | None, *, is_stream: bool = False
    ) -> Job:
        self.counters.jobs += 1
        limit = token_limit(body) or 0
        own = self._settings.retry.deadline if seconds is None else seconds
        return Job(
            order=next(self._orders),
            deadline=asyncio.get_running_loop().time() + own,
            tokens=_prompt_tokens(body) + limit * (body.get("n") or 1),
            kind=(path, is_stream, limit.bit_length()),
            # The first byte of a stream comes as soon for a short text as for a long one.
            is_sampled=not is_stream and not is_deterministic(body),
        )


def _is_one_prompt(prompt: Any) -> bool:
    is_ids = isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], int)
    return isinstance(prompt, str) or is_ids


def _prompt_tokens(body: Mapping[str, Any]) -> int:
    """About how many: the limits of endpoints are counted no more exactly."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return len(prompt) // CHARACTERS_PER_TOKEN
    if isinstance(prompt, list):
        return sum(len(item) if isinstance(item, list | str) else 1 for item in prompt)
    return sum(len(str(message.get("content", ""))) for message in body.get("messages", ())) // 4
