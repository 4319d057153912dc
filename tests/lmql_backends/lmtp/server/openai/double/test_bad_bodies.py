"""Whatever a client sends, it gets an answer that is not the server's failure."""

from __future__ import annotations

import json

import pytest

from lmql_backends.lmtp.server.openai.double import Double, limits_from
from lmql_backends.lmtp.server.openai.double.admission import CHAT_FIELDS, KNOBS, TEXT_FIELDS
from lmql_backends.lmtp.server.openai.double.forms import FORM_FIELDS

httpx = pytest.importorskip("httpx")

STRICT = {"name": "x", "strict": True}
VALUES = [
    *(None, True, False, 0, 1, -1, 2.5, 1e300, "", "x", [], [1], ["x"], [None], [[1]], [{}], {}, {"x": 1}),
    *({"type": "json_schema"}, {"type": "json_schema", "json_schema": 1}, {"type": "json_object"}),
    {"type": "json_schema", "json_schema": {**STRICT, "schema": {"type": "object", "properties": [1]}}},
    {"type": "json_schema", "json_schema": {**STRICT, "schema": {"anyOf": 3, "$defs": 1, "enum": 4}}},
    {"type": "json_schema", "json_schema": {**STRICT, "schema": [1]}},
    {"type": "json_schema", "json_schema": {**STRICT, "schema": {"type": "object", "required": 4}}},
    [{"type": "custom", "custom": {"name": 4, "format": {"type": "grammar", "grammar": {"syntax": 1}}}}],
    [{"type": "custom", "custom": {"name": "a", "format": {"type": "grammar", "grammar": 5}}}],
    [{"role": "assistant", "content": [{"type": "text", "text": "a"}]}],
    [{"role": "assistant"}],
    {"1": None},
    {"1": True},
    {"9" * 5_000: 1},
    {"²": 1},
]
BODIES = {
    "completions": {"model": "fake", "prompt": "a", "max_tokens": 1},
    "chat/completions": {
        "model": "fake",
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 1,
        "tool_choice": "required",
    },
}


@pytest.mark.parametrize("preset", ["openai", "vllm"])
@pytest.mark.parametrize("route", BODIES)
async def test_no_value_of_any_field_is_a_failure_of_the_server(serve, preset, route):
    fields = sorted(
        (CHAT_FIELDS if "chat" in route else TEXT_FIELDS) | FORM_FIELDS | set(KNOBS) | {"nonsense"}
    )
    async with serve(Double(limits_from({"preset": preset}))) as client, httpx.AsyncClient() as plain:
        for field in fields:
            for value in VALUES:
                body = {**BODIES[route], field: value}
                response = await plain.post(f"{client.base_url}{route}", json=body, timeout=60)
                assert response.status_code in (200, 400, 404, 422), (field, value, response.text)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000, b'{"model": "fake"}'])
async def test_what_is_no_body_is_a_400(serve, data):
    async with serve(Double()) as client, httpx.AsyncClient() as plain:
        for route in BODIES:
            response = await plain.post(f"{client.base_url}{route}", content=data)
            assert response.status_code == 400
            assert json.loads(response.text)["error"]["type"] == "invalid_request_error"
