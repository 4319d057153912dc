"""Who may come in, and the settings that say so."""

from __future__ import annotations

import asyncio

import pytest

from dcmodel.errors import InvalidRequestError
from lmql_backends.lmtp.server.app import LMTPApp
from lmql_backends.lmtp.server.gate import OPEN_PATHS, Gate
from lmql_backends.lmtp.server.metrics import Metrics
from lmql_backends.lmtp.server.on_demand import OnDemandModels, Source
from lmql_backends.lmtp.server.openai import openai_routes
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.lmtp.server.settings import ServerSettings

TOKEN = "a-long-enough-token"


def no_models() -> OnDemandModels:
    return OnDemandModels({"none": Source(open=lambda: pytest.fail("nobody asked for it"))}, max_models=1)


@pytest.mark.parametrize("token", ["", "short", "with blanks in it", "with\nnewline", "ünïcodé-token"])
def test_a_token_that_headers_cannot_carry_is_refused(token):
    with pytest.raises(InvalidRequestError, match="the token must have"):
        ServerSettings(token=token)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "server.example", ""])
def test_other_machines_need_a_token_or_a_word_that_they_do_not(host):
    with pytest.raises(InvalidRequestError, match="lets other machines use the server"):
        LMTPServer(no_models(), host=host)
    LMTPServer(no_models(), host=host, settings=ServerSettings(token=TOKEN))
    LMTPServer(no_models(), host=host, settings=ServerSettings(insecure=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_this_machine_needs_no_token(host):
    LMTPServer(no_models(), host=host)


async def test_every_route_but_health_needs_the_token():
    models = no_models()
    app = LMTPApp(models, ServerSettings(token=TOKEN), openai_routes(models), Metrics())
    routes = app.routes
    assert len(routes) >= 9
    assert {"/health"} == OPEN_PATHS
    for method, path in routes:
        sent = []

        events = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive(events=events):
            return next(events, None) or await asyncio.Event().wait()

        async def send(event, sent=sent):
            sent.append(event)

        scope = {
            "type": "http",
            "method": method,
            "path": path.replace("/*", "/x"),
            "headers": [(b"host", b"localhost")],
            "query_string": b"",
        }
        await app(scope, receive, send)
        if path in OPEN_PATHS:
            assert sent[0]["status"] == 200
        else:
            assert sent[0]["status"] == 401, path
            assert b"www-authenticate" in dict(sent[0]["headers"])


@pytest.mark.parametrize(
    ("settings", "is_public", "headers", "is_let_in"),
    [
        ({}, False, {"host": "localhost:1"}, True),
        ({}, False, {"host": "localhost."}, True),
        ({}, False, {}, False),
        ({}, False, {"host": "a.example"}, False),
        ({"allowed_hosts": ("A.example",)}, False, {"host": "a.example:8080"}, True),
        ({"allowed_hosts": ("*",)}, False, {"host": "b.example"}, True),
        ({"token": TOKEN}, True, {"host": "b.example", "authorization": f"Bearer {TOKEN}"}, True),
        ({"token": TOKEN}, False, {"host": "b.example", "authorization": f"Bearer {TOKEN}"}, False),
        (
            {"token": TOKEN, "allowed_hosts": ("a.example",)},
            True,
            {"host": "b.example", "authorization": f"Bearer {TOKEN}"},
            False,
        ),
        ({"insecure": True}, True, {"host": "b.example"}, False),
        ({}, False, {"host": "localhost:1", "origin": "http://localhost:1"}, True),
        ({}, False, {"host": "localhost:1", "origin": "http://localhost:2"}, False),
        ({}, False, {"host": "localhost:1", "origin": "null"}, False),
        ({}, False, {"host": "localhost:1", "origin": "file://"}, False),
        ({"allowed_origins": ("https://a.example/",)}, False, {"host": "::1", "origin": "x"}, False),
        (
            {"allowed_origins": ("https://a.example/",)},
            False,
            {"host": "[::1]", "origin": "https://A.example"},
            True,
        ),
        ({"allowed_origins": ("*",)}, False, {"host": "[::1]", "origin": "https://b.example"}, True),
    ],
)
def test_names_and_pages(settings, is_public, headers, is_let_in):
    gate = Gate(ServerSettings(**settings), is_public=is_public)
    assert (gate.refusal("/v1/models", headers) is None) == is_let_in
