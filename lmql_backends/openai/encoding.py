"""The tokenizer of a model at an endpoint: as the user names it, as our own server sends it, or by name."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from dcmodel.errors import (
    CapabilityError,
    ConnectionLostError,
    DcModelError,
    InvalidRequestError,
    ModelLoadError,
    ModelNotFoundError,
    RetryableError,
    SetupError,
)
from dctokenizers import PortableTokenizer, Tokenizer, TokenizerError, from_tiktoken, load, unpack
from lmql_backends.openai.transport.client import Transport

ENCODINGS = ("o200k_base", "o200k_harmony", "cl100k_base", "p50k_base", "p50k_edit", "r50k_base", "gpt2")
PREFIXES: tuple[tuple[str, str], ...] = (
    (r"gpt-oss", "o200k_harmony"),
    (r"gpt-4o|gpt-4\.[1-9]|chatgpt-4o|o[1-9](-|$)|codex", "o200k_base"),
    (r"gpt-4|gpt-3\.5|gpt-35|davinci-002|babbage-002|text-embedding", "cl100k_base"),
    (r"gpt-([5-9]|[1-9][0-9])", "o200k_base"),
)
"""By the beginning of a model's name, the first that fits. tiktoken knows fewer names, and none of gpt-6."""
CONTEXT_FIELDS = ("max_model_len", "context_length", "context_window", "max_context_length")
"""Where servers tell how many tokens a model takes: ours and vLLM, OpenRouter, Groq, Mistral."""
MAX_NAMES = 8
"""So many models are named by an error."""
_FINE_TUNED = re.compile(r"^ft:")
REMEDY = (
    "Name one: tokenizer= takes a path, a Hub id, an encoding of tiktoken's (o200k_base), or a Tokenizer. "
    "Without network, set TIKTOKEN_CACHE_DIR to a folder that has tiktoken's files."
)


class _Sent(msgspec.Struct):
    form: str
    data: bytes
    fields: dict[str, Any]
    max_model_len: int = 0


class Found(msgspec.Struct, frozen=True):
    """A tokenizer, where it came from, and what else was learnt."""

    tokenizer: Any
    source: str
    max_context: int | None = None


async def find_tokenizer(transport: Transport, model: str, given: Any = None) -> Found:
    """Raises `SetupError` where none can be found, `ModelLoadError` where one cannot be read."""
    cards, failure = await _listed(transport)
    card: Mapping[str, Any] = next((card for card in cards if card.get("id") == model), {})
    context = _context(card, cards)
    is_ours = card.get("owned_by") == "dcmodel"
    if given is not None:
        is_named = not isinstance(given, Tokenizer)
        tokenizer = await asyncio.to_thread(_named, given) if is_named else given
        if context is None and is_ours:  # not loaded yet, which the first request would wait for as well
            context = await _sent_context(transport, model)
        return Found(tokenizer, f"tokenizer={given}" if is_named else "given", context)
    if is_ours:
        sent = await _sent(transport, model)
        if sent is not None:
            tokenizer = await asyncio.to_thread(_unpacked, sent)
            return Found(tokenizer, "the server", sent.max_model_len or context)
    name = encoding_of(model)
    if name is not None:
        return Found(
            await asyncio.to_thread(_named, name), f"tiktoken's {name}, by the model's name", context
        )
    for source in (card.get("root"), model):  # vLLM tells where it has the model from
        if isinstance(source, str) and "/" in source:
            return Found(await asyncio.to_thread(_named, source), f"{source}, as the model is named", context)
    raise _not_known(model, transport.configuration.base_url, cards, failure)


def encoding_of(model: str) -> str | None:
    """Which of tiktoken's encodings a model of this name has; None where the name says nothing."""
    name = _FINE_TUNED.sub("", model).rpartition("/")[2]
    for pattern, encoding in PREFIXES:
        if re.match(pattern, name):
            return encoding
    try:
        import tiktoken

        return tiktoken.encoding_name_for_model(name)
    except (ImportError, KeyError):
        return None


async def _listed(transport: Transport) -> tuple[list[Mapping[str, Any]], DcModelError | None]:
    """What ``GET /models`` says of each model, or why it says nothing: not every endpoint has it."""
    try:
        listed = (await transport.get("/models")).get("data")
    except (CapabilityError, InvalidRequestError, ModelNotFoundError, RetryableError) as error:
        return [], error
    return [card for card in listed if isinstance(card, dict)] if isinstance(listed, list) else [], None


def _context(card: Mapping[str, Any], cards: list[Mapping[str, Any]]) -> int | None:
    """What the listing tells of a model; vLLM's adapters have that of their parent."""
    base = card.get("parent")
    parent = [other for other in cards if base is not None and other.get("id") == base]
    told = [source.get(name) for source in (card, *parent) for name in CONTEXT_FIELDS]
    return next((value for value in told if type(value) is int and value > 0), None)


async def _sent_context(transport: Transport, model: str) -> int | None:
    """From our own server. It is only good to know: what fails here is seen by who needs it."""
    try:
        sent = await _sent(transport, model)
    except DcModelError:
        return None
    return sent.max_model_len or None if sent is not None else None


def _not_known(
    model: str, where: str, cards: list[Mapping[str, Any]], failure: DcModelError | None
) -> DcModelError:
    """A server that is not there, another's address and a wrong name are first seen here."""
    if isinstance(failure, ConnectionLostError):
        return failure
    text = f"the tokenizer of {model!r} is not known"
    if failure is not None:
        return SetupError(f"{text}, and {failure.message}", remedy=f"{failure.remedy} {REMEDY}".strip())
    names = [str(card["id"]) for card in cards if card.get("id")]
    if names and model not in names:
        shown = ", ".join(names[:MAX_NAMES]) + (" …" if len(names) > MAX_NAMES else "")
        return SetupError(
            f"{text}, and {where} has no model of that name; it has {shown}.",
            remedy=f"Check the name. {REMEDY}",
        )
    return SetupError(f"{text}.", remedy=REMEDY)


async def _sent(transport: Transport, model: str) -> _Sent | None:
    """From our own server, unless it is older than this route, or keeps it back."""
    try:
        answer = await transport.get(f"/tokenizers/{model}")
    except (CapabilityError, InvalidRequestError, ModelNotFoundError):
        return None
    try:
        return msgspec.convert(answer, _Sent)
    except msgspec.ValidationError as error:
        raise ModelLoadError(f"the server sent no tokenizer: {error}.", remedy=REMEDY) from error


def _unpacked(sent: _Sent) -> Tokenizer:
    try:
        return unpack(PortableTokenizer(sent.form, sent.data, sent.fields))
    except TokenizerError as error:
        raise ModelLoadError(f"the tokenizer that the server sent: {error}", remedy=REMEDY) from error


def _named(given: Any) -> Tokenizer:
    if not isinstance(given, str | Path):
        raise InvalidRequestError(f"tokenizer is {given!r:.60}.", remedy=REMEDY)
    try:
        if given in ENCODINGS:
            return from_tiktoken(str(given))
        return load(given)
    except TokenizerError as error:
        reason = " ".join(str(error).split())  # some libraries' reasons have several lines
        raise SetupError(f"the tokenizer {str(given)!r} cannot be loaded: {reason}", remedy=REMEDY) from error
