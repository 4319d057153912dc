"""What the platform does to a prediction changes nothing of its result, or is an error that says so."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from conformance.requests import request, run, run_one
from fakes.replicate_server import VERSION

from dcmodel.errors import (
    ConnectionLostError,
    EngineError,
    ModelClosedError,
    ModelNotFoundError,
    OverloadedError,
    RequestCancelledError,
    SetupError,
    UnauthorizedError,
)
from dcmodel.types import FinishReason, ScoreRequest


def long(local, **options):
    return request(local, "The quick brown fox", temperature=1.0, seed=5, max_tokens=30, **options)


async def same(model, local, item) -> bool:
    found, expected = await run_one(model, item), await run_one(local, item)
    return (found.token_ids, found.text) == (expected.token_ids, expected.text)


RATE = {"detail": "Request was throttled. Your rate limit resets in ~0.02s."}


@pytest.mark.parametrize(
    "refusals",
    [
        [(429, {"Retry-After": "0.02"}, {})],
        [(429, {}, RATE)],
        [(500, {}, {}), (502, {}, {}), (503, {"Retry-After": "0"}, {})],
        [(429, {}, RATE)] * 20,
    ],
)
async def test_a_refused_creation_is_tried_again(open_model, server, local, refusals):
    model = await open_model()
    server.faults.creates.extend(refusals)
    assert await same(model, local, long(local))
    assert len(server.created) == len(refusals) + 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, UnauthorizedError), (402, SetupError), (403, UnauthorizedError), (404, ModelNotFoundError)],
)
async def test_what_never_helps_is_not_tried_again(open_model, server, local, status, kind):
    model = await open_model()
    server.faults.creates.append((status, {}, {"title": "No", "detail": "because of that"}))
    with pytest.raises(kind, match="because of that"):
        await run_one(model, long(local))
    assert len(server.created) == 1


async def test_a_refused_input_is_an_error_with_its_text(open_model, server, local):
    model = await open_model()
    server.faults.creates.append((422, {}, {"title": "Input validation failed", "detail": "lmtp_frame"}))
    with pytest.raises(ValueError, match="Input validation failed: lmtp_frame"):
        await run_one(model, long(local))
    assert len(server.created) == 1


async def test_the_budget_of_a_job_has_an_end(open_model, server, local):
    model = await open_model(retries=3)
    server.faults.creates.extend([(503, {}, {"detail": "down"})] * 9)
    with pytest.raises(OverloadedError, match="down"):
        await run_one(model, long(local))
    assert len(server.created) == 4


async def test_a_wait_beyond_the_deadline_is_not_begun(open_model, server, local):
    model = await open_model(deadline=5.0)
    server.faults.creates.append((429, {"Retry-After": "60"}, {}))
    with pytest.raises(OverloadedError) as caught:
        await run_one(model, long(local))
    assert caught.value.retry_after == 60


async def test_a_lost_answer_to_a_creation_is_asked_for_again(open_model, server, local):
    model = await open_model()
    server.faults.torn_creates = 1
    assert await same(model, local, long(local))


async def test_a_server_that_never_answers_is_an_error(open_model, server, local):
    model = await open_model(retries=1)
    server.faults.torn_creates = 9
    with pytest.raises(ConnectionLostError):
        await run_one(model, long(local))


@pytest.mark.parametrize("replay", ["rest", "all", "new"])
async def test_a_broken_stream_is_read_on(open_model, server, local, replay):
    """Whether the platform sends the rest, everything, or only what is new: nothing is lost or doubled."""
    model = await open_model()
    server.faults.replay = replay
    server.faults.cuts.extend([3, 2, 4])
    server.cutting.clear()
    stream = model.generate(long(local))
    await anext(stream)
    server.cutting.set()
    found, expected = await stream.completion(), await run_one(local, long(local))
    assert (found.token_ids, found.text) == (expected.token_ids, expected.text)
    assert found.logprobs == expected.logprobs
    assert len(server.created) == 1
    assert len(server.streams) >= 2
    assert server.streams[1]


@pytest.mark.parametrize("status", [500, 503, 404, 410])
async def test_a_stream_that_cannot_be_had_is_replaced(open_model, server, local, status):
    model = await open_model()
    server.faults.streams.append(status)
    assert await same(model, local, long(local))
    assert len(server.created) == 1


async def test_a_prediction_without_a_stream_is_looked_at(open_model, server, local):
    model = await open_model()
    server.faults.has_streams = False
    server.faults.looks.extend([500, 429])
    assert await same(model, local, long(local))
    assert server.streams == []


async def test_a_silent_stream_during_a_cold_boot_is_no_failure(open_model, server, local):
    """The prediction is looked at, and waited for on."""
    model = await open_model(stall_seconds=0.05, retries=50)
    server.booted.clear()
    running = asyncio.create_task(run_one(model, long(local)))
    await server.until(lambda: len(server.streams) >= 3)
    server.booted.set()
    assert (await running).token_ids == (await run_one(local, long(local))).token_ids
    assert len(server.created) == 1


@pytest.mark.parametrize("pieces", [0, 3])
async def test_a_failed_prediction_is_an_error_with_its_text(open_model, server, local, pieces):
    model = await open_model()
    server.faults.ends.append((pieces, "failed", "CUDA out of memory"))
    with pytest.raises(EngineError, match="CUDA out of memory"):
        await run_one(model, long(local))
    assert len(server.created) == 1


async def test_of_a_failed_prediction_only_the_guilty_fail(open_model, server, local):
    """Each is asked by itself; the one that fails again is the one that cannot be had."""
    model = await open_model()
    predict = server._predict

    async def fragile(fields):
        if '"max_tokens":13' in fields["lmtp_frame"]:
            raise RuntimeError("this one kills me")
        async for piece in predict(fields):
            yield piece

    server._predict = fragile
    good = [request(local, f"number {number}") for number in range(3)]
    bad = request(local, "yes", max_tokens=13)
    results = await asyncio.gather(*(run_one(model, item) for item in (*good, bad)), return_exceptions=True)
    assert [item.token_ids for item in results[:3]] == [item.token_ids for item in await run(local, good)]
    assert isinstance(results[3], EngineError)
    assert "this one kills me" in str(results[3])


@pytest.mark.parametrize(
    "end",
    [(3, "failed", "Prediction interrupted; please retry (code: PA)"), (0, "aborted", "")],
)
async def test_an_interrupted_prediction_goes_on_in_another_one(open_model, server, local, end):
    model = await open_model()
    server.faults.ends.append(end)
    assert await same(model, local, long(local))
    first, second = (msgspec.json.decode(body["input"]["lmtp_frame"])[1] for body in server.created)
    assert "received" not in first
    assert bool(second.get("received")) == (end[0] > 0)


async def test_an_aborted_prediction_is_not_waited_for(open_model, server, local):
    model = await open_model(retries=2)
    server.faults.ends.extend([(0, "aborted", "")] * 3)
    with pytest.raises(OverloadedError, match="aborted before it could start"):
        await run_one(model, long(local))
    assert len(server.created) == 3


async def test_a_prediction_that_somebody_else_cancelled_says_so(open_model, server, local):
    model = await open_model()
    server.faults.ends.append((2, "canceled", ""))
    with pytest.raises(RequestCancelledError, match="canceled"):
        await run_one(model, long(local))


async def test_a_prediction_that_says_nothing_is_an_error(open_model, server, local):
    async def nothing(fields):
        yield ""

    model = await open_model()
    server._predict = nothing
    with pytest.raises(EngineError, match="without an answer"):
        await run_one(model, long(local))


async def test_a_cancelled_stream_cancels_its_prediction(open_model, server, local):
    model = await open_model()
    server.booted.clear()
    stream = model.generate(long(local))
    await server.until(lambda: server.streams)
    stream.cancel()
    completion = await stream.completion()
    assert completion.finish_reason is FinishReason.CANCELLED
    await server.until(lambda: server.cancelled)
    assert len(server.cancelled) == 1


async def test_a_cancelled_question_cancels_its_prediction(open_model, server, local):
    model = await open_model()
    server.booted.clear()
    ids = tuple(local.tokenizer.encode_prompt("yes"))
    task = asyncio.create_task(model.score(ScoreRequest(prompt_ids=ids, continuations=((40,),))))
    await server.until(lambda: server.streams)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.until(lambda: server.cancelled)


async def test_neighbours_of_a_cancelled_stream_go_on(open_model, server, local):
    model = await open_model()
    server.booted.clear()
    streams = [model.generate(long(local)), model.generate(request(local, "yes"))]
    await server.until(lambda: server.streams)
    streams[0].cancel()
    assert (await streams[0].completion()).finish_reason is FinishReason.CANCELLED
    assert server.cancelled == []
    server.booted.set()
    assert (await streams[1].completion()).token_ids == (
        await run_one(local, request(local, "yes"))
    ).token_ids


async def test_a_closed_model_leaves_no_prediction_running(open_model, server, local):
    model = await open_model()
    server.booted.clear()
    waiting = asyncio.create_task(model.generate(long(local)).completion())
    await server.until(lambda: server.streams)
    await model.aclose()
    with pytest.raises(ModelClosedError):
        await waiting
    assert server.cancelled == list(server.records)[-1:]


async def test_a_prediction_that_is_created_while_the_model_closes_is_cancelled(open_model, server, local):
    """Its answer comes when nobody waits for it any more."""
    model = await open_model()
    server.booted.clear()
    server.answering.clear()
    stream = model.generate(long(local))
    waiting = asyncio.create_task(stream.completion())
    await server.until(lambda: server.created and server.records)
    closing = asyncio.create_task(model.aclose())
    with pytest.raises(ModelClosedError):
        await waiting
    server.answering.set()
    await closing
    assert server.cancelled == list(server.records)[-1:]


async def test_every_creation_has_a_deadline_and_a_version(open_model, server, local):
    model = await open_model(deadline=90.0)
    await run_one(model, long(local))
    assert server.created[-1]["version"] == VERSION
    assert server.created[-1]["stream"] is True
    seconds = server.heads[-1]["Cancel-After"]
    assert seconds.endswith("s")
    assert 5 <= int(seconds[:-1]) <= 90
