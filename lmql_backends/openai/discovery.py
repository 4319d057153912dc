"""`Discovery`: finds out what an endpoint can do when a request needs it; what was found is kept."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any

from dcmodel.types import GenerateRequest
from dctokenizers import Tokenizer
from lmql_backends.openai.asking import HttpAsker
from lmql_backends.openai.capabilities import EndpointCapabilities, Topic
from lmql_backends.openai.probe import ask_about
from lmql_backends.openai.topics import grammar_topics, topics_of
from lmql_backends.openai.transport.client import Transport

Keep = Callable[[EndpointCapabilities], None]


class Discovery:
    """Asks about each topic once. Tasks that need the same answer wait for one request."""

    def __init__(
        self,
        asker: HttpAsker,
        found: EndpointCapabilities,
        connect: Callable[[], Transport],
        keep: Keep,
        extra_body: Mapping[str, Any],
    ) -> None:
        """`found`: what is known, without what the user says; `keep` writes it down, after each answer.
        `connect` makes a transport that is patient with few requests and closed after them."""
        self._asker = asker
        self._found = found
        self._connect = connect
        self._keep = keep
        self._extra_body = extra_body
        # A lock belongs to one event loop. In two loops the same may be asked twice.
        self._locks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
            weakref.WeakKeyDictionary()
        )

    async def prepare(self, request: GenerateRequest) -> None:
        """Ask what this request needs to know. Raises what keeps an endpoint from answering at all."""
        able = self._asker.capabilities
        if not able.unasked:
            return
        topics = topics_of(request)
        if self._asker.place(request.prompt_ids, request.resumed) is None:
            topics |= {Topic.CONTINUATION}  # a conversation whose last answer was begun
        await self.settle(topics)
        for topic in grammar_topics(request, self._asker.capabilities):
            await self.settle({topic})
            if next(grammar_topics(request, self._asker.capabilities), None) is None:
                return

    async def settle(self, topics: Iterable[Topic]) -> None:
        """Ask about those that are not known yet."""
        wanted = frozenset(topics)
        if not wanted & self._asker.capabilities.unasked:
            return
        async with self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            left = wanted & self._asker.capabilities.unasked
            if left:
                await self._ask(left)

    async def _ask(self, topics: frozenset[Topic]) -> None:
        before = self._asker.capabilities
        transport = self._connect()
        try:
            after = await ask_about(
                transport, self._asker.model, self._tokenizer, before, topics, self._extra_body
            )
        finally:
            await transport.aclose()
        self._found = merged(self._found, before, after)
        self._asker.learn(merged(self._asker.capabilities, before, after))
        self._keep(self._found)

    @property
    def _tokenizer(self) -> Tokenizer:
        return self._asker.tokenizer


def merged(
    known: EndpointCapabilities, before: EndpointCapabilities, after: EndpointCapabilities
) -> EndpointCapabilities:
    """`known` with what changed from `before` to `after`."""
    changes: dict[str, Any] = {
        item.name: getattr(after, item.name)
        for item in fields(after)
        if getattr(after, item.name) != getattr(before, item.name)
    }
    if "grammars" in changes:
        new = {kind: found for kind, found in after.grammars.items() if before.grammars.get(kind) != found}
        changes["grammars"] = MappingProxyType({**known.grammars, **new})
    if "sampling_fields" in changes:
        changes["sampling_fields"] = known.sampling_fields | after.sampling_fields
    changes["unasked"] = known.unasked - (before.unasked - after.unasked)
    return replace(known, **changes)
