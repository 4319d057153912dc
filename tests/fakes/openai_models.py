"""What tests of the OpenAI backend share: a transport to a server, and what our own server can do."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from fakes.short_waits import SHORT
from lmql_backends.openai.capabilities import EndpointCapabilities, SamplingField
from lmql_backends.openai.transport.client import Transport
from lmql_backends.openai.transport.configuration import Configuration, make_client
from lmql_backends.openai.transport.settings import TransportSettings

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
PATIENT = replace(SHORT, retry=replace(SHORT.retry, request_seconds=20.0, stall_seconds=20.0))
OURS = EndpointCapabilities(
    token_id_prompts=True,
    list_prompts=True,
    continuation=True,
    max_bias_entries=1 << 31,
    raw_logprobs=True,
    shows_logprobs=True,
    max_top_logprobs=1000,
    allowed_token_ids=True,
    echo_scoring=True,
    prompt_logprobs=True,
    returns_token_ids=True,
    tokens_as_ids=True,
    seed=True,
    sampling_fields=frozenset(SamplingField),
    max_stops=64,
)


def transport_to(base_url: str, settings: TransportSettings = PATIENT) -> Transport:
    client = make_client(base_url=base_url, api_key="key")
    return Transport(Configuration(client, owns_client=True), settings, rng=Random(0))
