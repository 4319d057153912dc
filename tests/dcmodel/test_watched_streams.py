"""A stream that is watched instead of iterated, as servers do it."""

from __future__ import annotations

import asyncio
import threading

import pytest
from conformance.requests import Gate, request, run_one
from fakes.fake_engine import loaded_fake
from fakes.scripted_model import ScriptedModel
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import ConstraintCache, Regex
from dcmodel.errors import InvalidConstraintError
from dcmodel.local import LocalDcModel
from dcmodel.types import FinishReason


@pytest.fixture
async def model():
    model = LocalDcModel(loaded_fake(small_tokenizer()))
    yield model
    await model.aclose()


async def watched(stream, limit=None):
    """All steps, taken as a server takes them."""
    news = asyncio.Event()
    assert stream.watch(news.set)
    steps = []
    while not stream.is_exhausted:
        steps += (taken := stream.ready(limit))
        assert limit is None or len(taken) <= limit
        if not taken and not stream.is_exhausted:
            await news.wait()
        news.clear()
    return steps


@pytest.mark.parametrize("limit", [None, 1, 3])
async def test_watching_gives_the_steps_of_iterating(model, limit):
    for options in ({}, {"stop": ("e",)}, {"constraint": Regex("The quick (brown|lazy) fox[.]")}):
        wanted = request(model, "city", max_tokens=40, **options)
        stream = model.generate(wanted)
        steps = [step async for step in stream]
        again = model.generate(wanted)
        assert await watched(again, limit) == steps
        assert (await again.completion()).token_ids == (await stream.completion()).token_ids


async def test_news_of_what_came_before_come_at_once(model):
    stream = model.generate(request(model, "city", max_tokens=8, ignore_eos=True))
    await stream.completion()
    called = []
    stream.watch(lambda: called.append(1))
    assert called


async def test_an_error_comes_after_the_tokens_before_it(model):
    stream = model.generate(request(model, "city", constraint=Regex("(")))
    assert await watched(stream) == []
    with pytest.raises(InvalidConstraintError):
        await stream.completion()


async def test_a_stream_that_cannot_be_watched_says_so():
    model = ScriptedModel()
    stream = model.generate(request(model, "city"))
    assert not stream.watch(lambda: None)
    assert stream.ready() == []
    assert not stream.is_exhausted


async def test_nothing_is_missed_between_a_token_and_the_watching(model):
    gate = Gate(after=3)
    stream = model.generate(
        request(model, "city", constraint=gate.constraint(), max_tokens=20, ignore_eos=False)
    )
    await anext(stream)
    stream.watch(lambda: None)
    gate.open()
    assert len(await watched(stream)) == 19


class HeldCache(ConstraintCache):
    def __init__(self):
        super().__init__()
        self.may_go = threading.Event()

    def get(self, constraint, tokenizer):
        assert self.may_go.wait(60)
        return super().get(constraint, tokenizer)


@pytest.mark.parametrize("resumed", ["", "yes"])
async def test_what_is_cancelled_while_its_constraint_compiles_has_ended_at_once(resumed):
    cache = HeldCache()
    model = LocalDcModel(loaded_fake(small_tokenizer()), constraints=cache)
    ids = tuple(model.tokenizer.encode(resumed)) if resumed else ()
    stream = model.generate(request(model, "city", constraint=Regex("[a-z]+"), resumed=ids))
    stream.cancel()
    completion = await stream.completion()
    assert completion.finish_reason is FinishReason.CANCELLED
    assert completion.token_ids == ids
    assert completion.text == resumed
    assert completion.certificate.valid is False
    assert [step async for step in stream] == []
    cache.may_go.set()
    assert (await run_one(model, request(model, "city", constraint=Regex("[a-z]{3}")))).text
    assert await stream.completion() is completion
    await model.aclose()
