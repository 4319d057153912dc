"""What has one answer: what stands behind a name, its tokenizer, scores, distributions of next tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dcmodel.errors import RequestCancelledError
from lmql_backends.lmtp.protocol import distributions, requests, tokenizers
from lmql_backends.lmtp.protocol.messages import (
    Describe,
    Distributions,
    GetTokenizer,
    Mount,
    Mounted,
    NextTokens,
    Score,
    ServerMessage,
    Unmount,
    Unmounted,
)
from lmql_backends.lmtp.protocol.results import adapter_of, described_of, scored_of
from lmql_backends.lmtp.server.contracts import ServedModel
from lmql_backends.lmtp.server.conversation import Conversation, Desk
from lmql_backends.lmtp.server.limits import ConnectionLimits

Ask = Describe | GetTokenizer | Score | NextTokens | Mount | Unmount
A = TypeVar("A", Describe, GetTokenizer, Score, NextTokens, Mount, Unmount)
Answerer = Callable[[A, ServedModel, ConnectionLimits], Awaitable[ServerMessage]]


class Question(Conversation):
    """Its answer, or `Failed`."""

    def __init__(self, desk: Desk, message: A, answer: Answerer[A]) -> None:
        super().__init__(desk, message.id)
        self._task = desk.work(self._run(message, answer), self)

    def cancel(self) -> None:
        self.desk.fail(self, RequestCancelledError("the question was cancelled."))
        self._task.cancel()

    def abandon(self) -> None:
        self.desk.end(self)
        self._task.cancel()

    async def _run(self, message: A, answer: Answerer[A]) -> None:
        try:
            async with self.desk.models.use(message.model) as served:
                self.desk.end(self, await answer(message, served, self.desk.limits))
        except Exception as error:
            self.desk.fail(self, error)


async def describe(message: Describe, served: ServedModel, limits: ConnectionLimits) -> ServerMessage:
    model = served.model
    return described_of(
        message.id, model.info, model.tokenizer, can_heal=model.can_heal, adapters=model.adapters
    )


async def tokenizer(message: GetTokenizer, served: ServedModel, limits: ConnectionLimits) -> ServerMessage:
    """Megabytes are made on another thread."""
    return await asyncio.to_thread(tokenizers.to_wire, message.id, served.model.tokenizer)


async def score(message: Score, served: ServedModel, limits: ConnectionLimits) -> ServerMessage:
    limits.check_score(message, served.model.info.max_positions)
    request = requests.score_from_wire(message, served.model.tokenizer)
    return scored_of(message.id, await served.model.score(request))


async def next_tokens(message: NextTokens, served: ServedModel, limits: ConnectionLimits) -> ServerMessage:
    limits.check_next_tokens(message, served.model.info)
    prefixes, masks, k = requests.next_tokens_from_wire(message, served.model.tokenizer)
    found = await served.model.next_tokens(prefixes, masks, k, adapter=message.adapter or None)
    return Distributions(id=message.id, items=list(map(distributions.to_wire, found)))


async def mount(message: Mount, served: ServedModel, limits: ConnectionLimits) -> ServerMessage:
    source = await asyncio.to_thread(limits.mount_source, message.name, message.source)
    info = await served.model.mount_adapter(message.name, source)
    return Mounted(id=message.id, adapter=adapter_of(info))


async def unmount(message: Unmount, served: ServedModel, limits: ConnectionLimits) -> ServerMessage:
    limits.check_mounting()
    await served.model.unmount_adapter(message.name)
    return Unmounted(id=message.id)
