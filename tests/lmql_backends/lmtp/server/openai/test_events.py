"""The body of a stream by itself: what is ready leaves together, and a slow reader bounds what waits."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
from conformance.requests import Gate
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import Choice
from dcmodel.errors import InvalidConstraintError
from dcmodel.local import LocalDcModel
from dcmodel.types import Completion, GenerateRequest, TokenStep
from lmql_backends.lmtp.server.openai import events
from lmql_backends.lmtp.server.openai.events import EventBody


class Plain:
    """Writes tokens as they are."""

    def __init__(self) -> None:
        self.steps = 0

    def begin(self) -> bytes:
        return b"<"

    def step(self, step: TokenStep) -> bytes:
        self.steps += 1
        return step.text.encode()

    def end(self, completion: Completion) -> bytes:
        return b">"


@pytest.fixture
async def model():
    async with LocalDcModel(loaded_fake(small_tokenizer())) as made:
        yield made


def request(text: str) -> GenerateRequest:
    return GenerateRequest(prompt_ids=(40, 41), constraint=Choice([text]), max_tokens=400)


def finale(ended: list[Completion]) -> bytes:
    return b"%d" % len(ended)


async def test_tokens_that_are_ready_together_leave_together(model):
    text = "these tokens are all forced, so that they come at once"
    writer = Plain()
    body = EventBody([(model.generate(request(text)), writer)], finale, AsyncExitStack())
    parts = [part async for part in body]
    assert b"".join(parts) == f"<{text}>1".encode()
    assert writer.steps > 10
    assert len(parts) <= 3


async def test_what_waits_for_a_slow_reader_is_bounded(model, monkeypatch):
    monkeypatch.setattr(events, "MAX_WAITING", 4)
    text = "these tokens are all forced, so that they come at once"
    writer = Plain()
    body = EventBody([(model.generate(request(text)), writer)], finale, AsyncExitStack())
    await body.begun()
    assert writer.steps <= 4
    assert b"".join([part async for part in body]) == f"<{text}>1".encode()


async def test_an_end_before_the_first_part_releases_everything(model):
    closed = []
    resources = AsyncExitStack()
    resources.callback(closed.append, True)
    stream = model.generate(request("abc"))
    body = EventBody([(stream, Plain())], finale, resources)
    await body.aclose()
    await body.aclose()
    assert closed == [True]
    assert [part async for part in body] == []


async def test_an_error_before_the_first_token_is_raised(model):
    closed = []
    resources = AsyncExitStack()
    resources.callback(closed.append, True)
    bad = GenerateRequest(prompt_ids=(40,), constraint=Choice(["x"]) & Choice(["y"]), max_tokens=5)
    gate = Gate(after=0)  # the other text has no token before the error is there
    held = GenerateRequest(prompt_ids=(40, 41), constraint=gate.constraint(), max_tokens=2)
    body = EventBody([(model.generate(bad), Plain()), (model.generate(held), Plain())], finale, resources)
    try:
        with pytest.raises(InvalidConstraintError):
            await body.begun()
    finally:
        gate.open()
    assert closed == [True]
