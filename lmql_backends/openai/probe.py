"""`probe`: the capabilities of a model at an endpoint, from a few requests of a few tokens each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dcmodel.errors import CapabilityError, DcModelError, ModelNotFoundError
from dctokenizers import Tokenizer
from lmql_backends.openai.capabilities import EndpointCapabilities
from lmql_backends.openai.probing.grammars import probe_grammars
from lmql_backends.openai.probing.questions import REFUSALS, Questions
from lmql_backends.openai.probing.texts import (
    check_tokenizer,
    probe_continuation,
    probe_scores,
    probe_seed,
    probe_streams,
)
from lmql_backends.openai.probing.tokens import probe_allowed, probe_bias, probe_ids, probe_shown
from lmql_backends.openai.transport.client import Transport


async def probe(
    transport: Transport,
    model: str,
    tokenizer: Tokenizer,
    *,
    chat: bool | None = None,
    extra_body: Mapping[str, Any] | None = None,
) -> EndpointCapabilities:
    """Everything in `EndpointCapabilities`. `chat`: which route; None: ``/completions`` where there is one.

    Each capability is what the endpoint did, not what it said it would: a field that is accepted and without
    effect counts as not there. Raises what the endpoint raises for a plain request, and `SetupError`
    where the tokenizer is another model's.
    """
    route = await _route(transport, model, chat, tokenizer, dict(extra_body or {}))
    await check_tokenizer(route)
    row = await probe_shown(route)
    await probe_ids(route)
    await probe_bias(route, row)
    await probe_allowed(route, row)
    await probe_scores(route)
    await probe_continuation(route)
    await probe_seed(route)
    await probe_streams(route)
    await probe_grammars(route)
    return route.able


async def _route(
    transport: Transport,
    model: str,
    chat: bool | None,
    tokenizer: Tokenizer,
    extra_body: Mapping[str, Any],
) -> Questions:
    """The first route that answers a plain request, with what it takes of it."""
    failure: DcModelError = CapabilityError("there is no route to ask.")
    for is_chat in (False, True) if chat is None else (chat,):
        able = EndpointCapabilities(is_chat=is_chat)
        for changes in _PLAIN if is_chat else _PLAIN[:1]:
            questions = Questions(transport, model, tokenizer, replace(able, **changes), extra_body)
            try:
                await questions.send(questions.body())
            except (*REFUSALS, ModelNotFoundError) as error:
                failure = error
            else:
                return questions
    raise failure


_PLAIN: tuple[Mapping[str, Any], ...] = (
    {},
    {"limit_field": "max_completion_tokens"},
    {"limit_field": "max_completion_tokens", "temperature": False},
)
