"""A model over a connection in this process is the model itself, from any loop and thread."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from conformance.requests import PROMPTS, assert_same, mixed_requests, request, run, run_one
from fakes.fake_engine import loaded_fake
from fakes.served import ServedModels
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import Choice, MaskFunction, Regex
from dcmodel.local import LocalDcModel
from lmql_backends.lmtp.clients.in_process import InProcessConnector
from lmql_backends.lmtp.model import LMTPDcModel
from lmql_backends.lmtp.tokenizer_cache import TokenizerCache


@pytest.fixture
async def local():
    async with LocalDcModel(loaded_fake(small_tokenizer())) as model:
        yield model


@pytest.fixture
async def remote(local, tmp_path):
    connector = InProcessConnector(ServedModels({"fake": local}))
    async with await LMTPDcModel.open(connector, cache=TokenizerCache(tmp_path)) as model:
        yield model


async def test_streams_are_those_of_the_model(local, remote):
    requests = mixed_requests(local, 20, temperature=1.0, seed=3, top_logprobs=2)
    for left, right in zip(await run(remote, requests), await run(local, requests), strict=True):
        assert left.token_ids == right.token_ids
        assert left.logprobs == right.logprobs
        assert (left.text, left.certificate, left.stop_reason) == (
            right.text,
            right.certificate,
            right.stop_reason,
        )


async def test_a_resumed_stream_that_is_cancelled_at_once_has_the_text_that_it_began_with(local, remote):
    item = request(local, PROMPTS[0], max_tokens=200, ignore_eos=True)
    begun = await run_one(local, replace(item, max_tokens=5))
    stream = remote.generate(replace(item, resumed=begun.token_ids))
    stream.cancel()
    completion = await stream.completion()
    assert completion.token_ids[:5] == begun.token_ids
    assert completion.text.startswith(begun.text)


async def test_a_callers_function_is_run_on_this_side(local, remote):
    item = request(
        local, PROMPTS[0], constraint=MaskFunction(lambda ids: range(40, 90)), temperature=1.0, seed=4
    )
    assert_same(await run_one(remote, item), await run_one(local, item), 1e-6)


async def test_sessions_draw_what_the_model_draws(local, remote):
    item = request(
        local, PROMPTS[0], constraint=Regex("(yes|no|maybe)( and (yes|no))?"), temperature=1.0, seed=4
    )
    found = []
    for model in (local, remote):
        session = await model.session(item)
        while not session.is_finished:
            await session.step()
        found.append(session.completion())
    assert_same(*found, 1e-6)


async def test_from_another_loop(local, remote):
    item = request(local, PROMPTS[0], constraint=Choice(["yes", "no"]))
    expected = await run_one(local, item)
    found = await asyncio.to_thread(lambda: asyncio.run(run_one(remote, item)))
    assert found.token_ids == expected.token_ids
