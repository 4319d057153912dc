"""A model on Replicate is the model that its predictor serves."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from conformance.requests import request, run, run_one
from fakes.replicate_server import ReplicateServer

from dcmodel.constraints import MaskFunction, Regex
from dcmodel.errors import GenerationError
from dcmodel.model import DcModel
from dcmodel.types import FinishReason, ScoreRequest


def asked(server: ReplicateServer) -> list[list[str]]:
    """Kinds of the messages of each prediction, without the greeting."""
    return [
        [message["type"] for message in msgspec.json.decode(body["input"]["lmtp_frame"])][1:]
        for body in server.created
    ]


async def test_what_it_generates_is_what_the_model_generates(open_model, local: DcModel):
    model = await open_model()
    for options in ({}, {"temperature": 1.0, "seed": 7}, {"constraint": Regex("[a-z]{3,9}")}):
        item = request(local, "The quick brown fox", top_logprobs=2, **options)
        found, expected = await run_one(model, item), await run_one(local, item)
        assert found.token_ids == expected.token_ids
        assert found.text == expected.text
        assert found.logprobs == expected.logprobs
        assert found.certificate == expected.certificate


async def test_requests_of_one_turn_share_a_prediction(open_model, server, local):
    model = await open_model()
    items = [request(local, f"number {number}") for number in range(5)]
    found = await run(model, items)
    assert [item.token_ids for item in found] == [item.token_ids for item in await run(local, items)]
    assert asked(server) == [["generate"] * 5]


async def test_tokens_arrive_as_they_are_drawn(open_model, server, local):
    """The stream's first token is there while the prediction is still held at a later one."""
    gate = asyncio.Event()
    predict = server._predict

    async def held(fields):
        async for piece in predict(fields):
            yield piece
            if '"tokens"' in piece:
                await gate.wait()

    server._predict = held
    model = await open_model()
    stream = model.generate(request(local, "yes", max_tokens=8))
    first = await anext(stream)
    gate.set()
    completion = await stream.completion()
    assert completion.token_ids[0] == first.token_id
    assert completion.token_ids == (await run_one(local, request(local, "yes", max_tokens=8))).token_ids


async def test_scores_are_the_models_own(open_model, server, local):
    model = await open_model()
    ids = tuple(local.tokenizer.encode_prompt("The lazy dog"))
    item = ScoreRequest(prompt_ids=ids, continuations=((40, 41, 42), (50,)), prompt_logprobs=1)
    assert (await model.score(item)).continuations == (await local.score(item)).continuations
    assert asked(server) == [["score"]]


async def test_a_callers_function_costs_a_prediction_per_token(open_model, server, local):
    model = await open_model()
    item = request(local, "city", max_tokens=3, constraint=MaskFunction(lambda ids: range(40, 90)))
    found = await run_one(model, item)
    assert found.token_ids == (await run_one(local, item)).token_ids
    assert asked(server) == [
        ["open", "step"],
        ["open", "append", "step"],
        ["open", "append", "step"],
    ]


async def test_a_session_steps_forks_and_rolls_back(open_model, local):
    model = await open_model()
    item = request(local, "no maybe", temperature=1.0, seed=3, max_tokens=8)
    theirs, ours = await model.session(item), await local.session(item)
    for session in (theirs, ours):
        await session.step()
        await session.step()
        session.rollback(1)
        session.append([41])
    fork, own_fork = theirs.fork(), ours.fork()
    assert (await fork.step()).token_id == (await own_fork.step()).token_id
    assert (await theirs.step()).token_id == (await ours.step()).token_id
    left, right = await theirs.logprobs(k=5), await ours.logprobs(k=5)
    assert left.token_ids.tolist() == right.token_ids.tolist()
    assert left.raw_logprobs.tolist() == right.raw_logprobs.tolist()


async def test_steps_of_one_turn_share_a_prediction(open_model, server, local):
    model = await open_model()
    sessions = [await model.session(request(local, text)) for text in ("yes", "no", "city")]
    await asyncio.gather(*(session.step() for session in sessions))
    assert asked(server) == [["open", "step"] * 3]


async def test_a_stream_longer_than_its_window_needs_no_credit(open_model, local):
    from lmql_backends.lmtp import stream

    model = await open_model()
    item = request(local, "yes", max_tokens=stream.WINDOW + 10)
    found = await run_one(model, item)
    assert found.token_ids == (await run_one(local, item)).token_ids


async def test_an_error_of_one_request_is_its_own(open_model, local):
    model = await open_model()

    def broken(ids):
        raise ValueError("the caller's own mistake")

    bad = request(local, "yes", constraint=MaskFunction(broken))
    good = request(local, "no")
    results = await asyncio.gather(run_one(model, bad), run_one(model, good), return_exceptions=True)
    assert isinstance(results[0], GenerationError)
    assert results[1].finish_reason in FinishReason


async def test_a_request_too_large_for_one_prediction_is_refused_and_its_neighbours_are_not(
    open_model, server, local
):
    model = await open_model(max_frame_bytes=2048)
    large = request(local, "yes", stop=("x" * 4000,))
    small = [request(local, f"number {number}") for number in range(12)]
    results = await asyncio.gather(
        *(run_one(model, item) for item in (large, *small)), return_exceptions=True
    )
    assert "4" in str(results[0])
    assert "max_frame_bytes" in str(results[0])
    assert [item.token_ids for item in results[1:]] == [item.token_ids for item in await run(local, small)]
    assert len(server.created) > 1
    assert all(len(body["input"]["lmtp_frame"]) <= 2048 for body in server.created)


@pytest.mark.parametrize("trims", [False, True])
async def test_output_whose_newlines_are_trimmed_is_read(open_model, server, local, trims):
    server.faults.trims = trims
    model = await open_model()
    item = request(local, "yes")
    assert (await run_one(model, item)).token_ids == (await run_one(local, item)).token_ids
