"""From a model's name and options to an `OpenAIDcModel`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from dcmodel.checks import check_integer, check_number
from dcmodel.errors import InvalidRequestError
from dcmodel.types import ModelInfo
from lmql_backends.openai.answer_files import AnswerFiles
from lmql_backends.openai.asking import HttpAsker
from lmql_backends.openai.capabilities import EndpointCapabilities, Topic, in_words
from lmql_backends.openai.costs import Prices
from lmql_backends.openai.discovery import Discovery
from lmql_backends.openai.encoding import Found, find_tokenizer
from lmql_backends.openai.model import OpenAIDcModel
from lmql_backends.openai.planner.settings import PlannerSettings
from lmql_backends.openai.probe import probe
from lmql_backends.openai.probe_cache import ProbeCache, cache_folder, overridden
from lmql_backends.openai.prompts import CHAT_TEMPLATE
from lmql_backends.openai.transport.cache import AnswerCache
from lmql_backends.openai.transport.client import Transport
from lmql_backends.openai.transport.configuration import Configuration, make_client
from lmql_backends.openai.transport.settings import TransportSettings

if TYPE_CHECKING:
    import openai

AZURE_OPTIONS = ("azure_endpoint", "azure_deployment", "azure_ad_token", "api_version")
CLIENT_OPTIONS = (
    *("base_url", "api_key", "azure", "organization", "project", "default_headers", "default_query"),
    *AZURE_OPTIONS,
)
"""For the SDK's client."""
TEXT_OPTIONS = ("base_url", "organization", "project", *AZURE_OPTIONS)
PLANNING_OPTIONS = tuple(item.name for item in fields(PlannerSettings))
FLAGS = ("chat", "azure", *(item.name for item in fields(PlannerSettings) if "bool" in str(item.type)))
OWN_OPTIONS = (
    *("tokenizer", "chat", "prices", "cache", "capabilities", "probe", "extra_body"),
    *("seconds", "max_concurrent"),
)
PROBE_BUDGET = 2
"""Failures that one request of a probe bears: some servers answer 500 to what they do not know."""
UNKNOWN_CONTEXT = 1 << 20
"""`ModelInfo.max_positions` where the endpoint does not tell; it then refuses what is too long."""


async def open_model(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    max_context: int | None = None,
    probes: ProbeCache | None = None,
) -> OpenAIDcModel:
    """The model, with its tokenizer found and its endpoint probed. Options: docs/openai.md; None is as good
    as left out.

    Raises `InvalidRequestError` for options that are none, and what the endpoint answers to the first
    requests.
    """
    given = {item: value for item, value in (options or {}).items() if value is not None}
    _check_names(given)
    _check_kinds(given)
    prices = Prices.of(given["prices"]) if "prices" in given else None
    planning = PlannerSettings(**{item: given[item] for item in PLANNING_OPTIONS if item in given})
    settings, answers = _settings(given), _answers(given.get("cache"))
    client = _client(given)
    try:
        # Connections belong to an event loop, and the model may be used in another one.
        asking = Transport(Configuration(client), _for_probes(settings))
        try:
            found = await find_tokenizer(asking, name, given.get("tokenizer"))
            known = await _capabilities(asking, name, given, found, probes or ProbeCache())
        finally:
            await asking.aclose()
        transport = Transport(Configuration(client, owns_client=True), settings, cache=answers)
    except BaseException:
        await client.close()
        raise
    extra = given.get("extra_body")
    asker = HttpAsker(
        transport, name, known.able, found.tokenizer, prices=prices, extra_body=extra, cache=answers
    )
    discovery = None
    if known.able.unasked:
        discovery = Discovery(
            asker,
            known.found,
            lambda: Transport(Configuration(client), _for_probes(settings)),
            known.keep,
            extra or {},
        )
    return OpenAIDcModel(asker, _info(asker, found, max_context), planning, discovery)


async def probe_model(name: str, options: Mapping[str, Any] | None = None) -> Mapping[str, str]:
    """All that the endpoint can do, asked anew and kept for a day, in words."""
    model = await open_model(name, {**(options or {}), "probe": "refresh"})
    try:
        return {**model.info.details, **in_words(model.capabilities)}
    finally:
        await model.aclose()


def _info(asker: HttpAsker, found: Found, max_context: int | None) -> ModelInfo:
    able = asker.capabilities
    return ModelInfo(
        name=asker.model,
        backend="openai",
        vocab_size=found.tokenizer.vocab_size,
        max_positions=max_context or able.max_context or found.max_context or UNKNOWN_CONTEXT,
        device="remote",
        details={
            "endpoint": asker.transport.configuration.base_url,
            "route": asker.path,
            "tokenizer": found.source,
        },
        chat_template=CHAT_TEMPLATE if able.is_chat else "",
    )


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of an endpoint."""

    able: EndpointCapabilities
    """With what the user says."""
    found: EndpointCapabilities
    """Without."""
    keep: Callable[[EndpointCapabilities], None] = lambda able: None
    """Writes down what was found."""


async def _capabilities(
    transport: Transport, name: str, given: dict[str, Any], found: Found, probes: ProbeCache
) -> _Known:
    """What the user says, else what was found out within a day, else a probe."""
    changes = given.get("capabilities", {})
    if isinstance(changes, EndpointCapabilities):
        return _Known(changes, changes)
    chat = given.get("chat")
    mode = given.get("probe", True)
    if mode not in (True, False, "refresh"):
        raise InvalidRequestError(f"probe is {mode!r:.40}.", remedy="It is true, false, or 'refresh'.")
    if mode is False:
        plain = EndpointCapabilities(is_chat=bool(chat))
        return _Known(overridden(plain, changes), plain)
    key = (transport.configuration.base_url, name, str(chat), found.tokenizer.fingerprint)

    def keep(able: EndpointCapabilities) -> None:
        probes.write(able, *key)

    able = None if mode == "refresh" else probes.read(*key)
    if able is None:
        extra = given.get("extra_body")
        topics = tuple(Topic) if mode == "refresh" else ()
        able = await probe(transport, name, found.tokenizer, chat=chat, extra_body=extra, topics=topics)
        keep(able)
    return _Known(overridden(able, changes), able, keep)


def _client(given: Mapping[str, Any]) -> openai.AsyncOpenAI:
    named = {item: given[item] for item in CLIENT_OPTIONS if item in given}
    base_url, api_key = named.pop("base_url", None), named.pop("api_key", None)
    azure = bool(named.pop("azure", False))
    return make_client(base_url=base_url, api_key=api_key, azure=azure, options=named)


def _settings(given: Mapping[str, Any]) -> TransportSettings:
    settings = TransportSettings()
    if "seconds" in given:
        check_number("seconds", given["seconds"], low=0.0, open_low=True)
        settings = replace(settings, retry=replace(settings.retry, deadline=float(given["seconds"])))
    if "max_concurrent" in given:
        check_integer("max_concurrent", given["max_concurrent"], low=1)
        most = float(given["max_concurrent"])
        first = min(settings.control.first_window, most)
        control = replace(settings.control, max_window=most, first_window=first)
        settings = replace(settings, control=control)
    return settings


def _for_probes(settings: TransportSettings) -> TransportSettings:
    """One request at a time, for servers that bear no more, and not many failures."""
    return replace(
        settings,
        retry=replace(settings.retry, budget=PROBE_BUDGET),
        control=replace(settings.control, first_window=1.0, max_window=1.0),
    )


def _answers(cache: Any) -> AnswerCache | None:
    """`cache`: true, how many answers are kept, or ``disk``."""
    if cache is None or cache is False:
        return None
    if cache is True:
        return AnswerCache()
    if cache == "disk":
        return AnswerFiles(cache_folder() / "answers")
    check_integer("cache", cache, low=1)
    return AnswerCache(cache)


def _check_names(given: Mapping[str, Any]) -> None:
    known = (*CLIENT_OPTIONS, *OWN_OPTIONS, *PLANNING_OPTIONS)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            raise InvalidRequestError(
                f"the option {name!r} is not known for an OpenAI-compatible endpoint.",
                remedy=f"Did you mean {near[0]!r}?" if near else f"Options: {', '.join(known)}.",
            )


def _check_kinds(given: Mapping[str, Any]) -> None:
    """Of those that nothing else checks."""
    for name in FLAGS:
        if name in given and not isinstance(given[name], bool):
            raise InvalidRequestError(f"{name} is {given[name]!r:.60}; it must be true or false.")
    for name in TEXT_OPTIONS:
        if name in given and not isinstance(given[name], str):
            raise InvalidRequestError(
                f"{name} is {given[name]!r:.60}; it must be a text.",
                remedy=f"On the command line: --option '{name}=\"...\"'.",
            )
    for name in ("default_headers", "default_query", "extra_body"):
        if name in given and not isinstance(given[name], Mapping):
            raise InvalidRequestError(
                f"{name} is {given[name]!r:.60}; it must be an object: names with values."
            )
    for name, value in given.get("default_headers", {}).items():
        if not isinstance(value, str):
            raise InvalidRequestError(f"default_headers[{name!r}] is {value!r:.60}; it must be a text.")
    for name in AZURE_OPTIONS:
        if name in given and not given.get("azure"):
            raise InvalidRequestError(f"{name} is an option of Azure.", remedy="Give azure=True, too.")
