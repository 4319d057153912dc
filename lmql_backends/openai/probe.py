"""`probe`: the capabilities of a model at an endpoint, from a few requests of a few tokens each.

What every text needs is asked at once, in as few requests as hold it; each `Topic` when a request needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from dcmodel.errors import CapabilityError, DcModelError, ModelNotFoundError
from dcmodel.types import TopLogprob
from dctokenizers import Tokenizer
from lmql_backends.openai.capabilities import (
    FIELD_TOPICS,
    TOPIC_OF,
    EndpointCapabilities,
    Topic,
)
from lmql_backends.openai.probing.decisions import probe_decisions
from lmql_backends.openai.probing.fields import probe_field
from lmql_backends.openai.probing.grammars import probe_grammar
from lmql_backends.openai.probing.questions import REFUSALS, Questions
from lmql_backends.openai.probing.texts import (
    probe_continuation,
    probe_scores,
    probe_seed,
    probe_streams,
)
from lmql_backends.openai.probing.tokens import probe_allowed, probe_inputs, probe_shown
from lmql_backends.openai.transport.client import Transport


async def probe(
    transport: Transport,
    model: str,
    tokenizer: Tokenizer,
    *,
    chat: bool | None = None,
    extra_body: Mapping[str, Any] | None = None,
    topics: Iterable[Topic] = tuple(Topic),
) -> EndpointCapabilities:
    """What every text needs to know, and `topics`. `chat`: which route; None: ``/completions`` where there is
    one.

    Each capability is what the endpoint did, not what it said it would: a field that is accepted and without
    effect counts as not there. Raises what the endpoint raises for a plain request, and `SetupError`
    where the tokenizer is another model's.
    """
    extra = dict(extra_body or {})
    ask, row, count = await _route(transport, model, chat, tokenizer, extra)
    await probe_inputs(ask, row)
    await probe_streams(ask, count)
    # At /completions a text always goes on where its prompt ends; a chat shows no scores.
    settled = Topic.SCORES if ask.able.is_chat else Topic.CONTINUATION
    able = replace(ask.able, continuation=not ask.able.is_chat, unasked=frozenset(Topic) - {settled})
    return await ask_about(transport, model, tokenizer, able, topics, extra)


async def ask_about(
    transport: Transport,
    model: str,
    tokenizer: Tokenizer,
    able: EndpointCapabilities,
    topics: Iterable[Topic],
    extra_body: Mapping[str, Any],
) -> EndpointCapabilities:
    """`able` with what is found out about `topics`, as far as they are unasked."""
    wanted = set(topics)
    if Topic.LARK in wanted:  # who takes EBNF in the same field must not be sent Lark
        wanted.add(Topic.EBNF)
    ask = Questions(transport, model, tokenizer, able, extra_body, has_answered=True)
    for topic in Topic:
        if topic in wanted & able.unasked:
            await _ask(ask, topic)
    return replace(ask.able, unasked=able.unasked - wanted)


async def _ask(ask: Questions, topic: Topic) -> None:
    for field, its_topic in FIELD_TOPICS.items():
        if topic is its_topic:
            await probe_field(ask, field)
    for kind, its_topic in TOPIC_OF.items():
        if topic is its_topic:
            await probe_grammar(ask, kind)
    other = _OTHERS.get(topic)
    if other is not None:
        await other(ask)


_OTHERS = {
    Topic.SCORES: probe_scores,
    Topic.SEED: probe_seed,
    Topic.ALLOWED: probe_allowed,
    Topic.CONTINUATION: probe_continuation,
    Topic.DECISIONS: probe_decisions,
}


async def _route(
    transport: Transport,
    model: str,
    chat: bool | None,
    tokenizer: Tokenizer,
    extra_body: Mapping[str, Any],
) -> tuple[Questions, tuple[TopLogprob, ...], int | None]:
    """The first route that answers, with what it shows; see `probe_shown`."""
    failure: DcModelError = CapabilityError("there is no route to ask.")
    for is_chat in (False, True) if chat is None else (chat,):
        able = EndpointCapabilities(is_chat=is_chat)
        for changes in _PLAIN if is_chat else _PLAIN[:1]:
            ask = Questions(transport, model, tokenizer, replace(able, **changes), extra_body)
            try:
                row, count = await probe_shown(ask)
            except (*REFUSALS, ModelNotFoundError) as error:
                failure = error
            else:
                return ask, row, count
    raise failure


_PLAIN: tuple[Mapping[str, Any], ...] = (
    {},
    {"limit_field": "max_completion_tokens"},
    {"limit_field": "max_completion_tokens", "temperature": False},
)
