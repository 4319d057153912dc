"""Streams, cancellation, accounts and the cache of the transport."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from fakes.fault_server import ANSWER, WORDS, Exchange, FaultServer, Hold, chunk, completion, stream
from fakes.short_waits import SHORT

from dcmodel.errors import ConnectionLostError, InvalidRequestError, ModelClosedError, OverloadedError
from lmql_backends.openai.transport.cache import AnswerCache
from lmql_backends.openai.transport.client import CHAT_COMPLETIONS, COMPLETIONS
from lmql_backends.openai.transport.continuation import ChatContinuation, ChatStyle, CompletionContinuation
from lmql_backends.openai.transport.hedging import HedgeSettings

BODY = {"model": "m", "prompt": "Say:", "max_tokens": 8, "temperature": 1}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Say"}], "max_tokens": 8, "temperature": 1}


async def read(chunks) -> str:
    async with chunks:
        return "".join([part.text async for part in chunks])


async def three_words(exchange: Exchange) -> None:
    await stream(exchange, exchange.rest[:3], is_whole=False)
    exchange.reset()


async def test_a_connection_serves_one_request_after_the_other(connect):
    async with FaultServer() as server:
        transport = connect(server)
        for _ in range(3):
            await transport.complete(CHAT_COMPLETIONS, CHAT)
            await transport.complete(COMPLETIONS, BODY, may_group=True)
    assert server.connections == 1


async def test_a_get(connect):
    async with FaultServer([lambda exchange: exchange.error(503)]) as server:
        assert await connect(server).get("/models") == {"data": [{"id": "m"}]}
    assert [exchange.path for exchange in server.exchanges] == ["/v1/models"] * 2


async def test_pings_empty_choices_and_cut_characters_are_no_fault(connect):
    async def odd(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.event({"choices": [], "prompt_filter_results": []})
        data = b"".join(f'data: {{"choices":[{{"text":"{word}"}}]}}\r\n\r\n'.encode() for word in WORDS)
        for place in range(0, len(data), 7):
            await exchange.piece(data[place : place + 7])
        await exchange.piece(b": ping\n\n")
        await exchange.event(chunk(exchange.body, "", finish_reason="stop"))
        await exchange.event({"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 8}})
        await exchange.piece(b"data: [DONE]")
        await exchange.end_stream()

    async with FaultServer([odd]) as server:
        chunks = (transport := connect(server)).stream(COMPLETIONS, BODY)
        assert await read(chunks) == ANSWER
    assert chunks.result.usage == {"prompt_tokens": 4, "completion_tokens": 8}
    assert not chunks.result.is_usage_estimated
    assert transport.counters.completion_tokens == 8
    assert len(server.exchanges) == 1


async def test_an_account_that_comes_with_each_chunk_is_counted_once(connect):
    async def counting(exchange: Exchange) -> None:
        await exchange.begin_stream()
        for number, word in enumerate(WORDS, start=1):
            await exchange.event({**chunk(exchange.body, word), "usage": {"completion_tokens": number}})
        await exchange.event(chunk(exchange.body, "", finish_reason="stop"))
        await exchange.end_stream()

    async with FaultServer([counting]) as server:
        chunks = connect(server).stream(COMPLETIONS, BODY)
        await read(chunks)
    assert chunks.result.usage == {"completion_tokens": 8}


async def test_an_ended_account_of_a_resumed_stream_is_marked_as_an_estimate(connect):
    async with FaultServer([three_words]) as server:
        chunks = connect(server).stream(COMPLETIONS, {**BODY, "stream_options": {"include_usage": True}})
        assert await read(chunks) == ANSWER
    assert chunks.result.usage == {"completion_tokens": 5}
    assert chunks.result.is_usage_estimated


async def test_ids_are_sent_back_as_ids_and_text_as_text(connect):
    async with FaultServer([three_words, three_words]) as server:
        transport = connect(server)
        ids = {**BODY, "prompt": [1, 2], "return_token_ids": True}
        assert await read(transport.stream(COMPLETIONS, ids)) == ANSWER
    assert [exchange.body["prompt"] for exchange in server.exchanges] == [
        [1, 2],
        [1, 2, 100, 101, 102],
        [1, 2, *range(100, 106)],
    ]


async def test_a_prompt_of_ids_goes_on_with_encoded_text_where_no_ids_come(connect):
    def encode(text: str) -> list[int]:
        return [100 + WORDS.index(f" {word}") for word in text.split()]

    async with FaultServer([three_words]) as server:
        chunks = connect(server).stream(
            COMPLETIONS, {**BODY, "prompt": [1]}, continuation=CompletionContinuation(encode)
        )
        assert await read(chunks) == ANSWER
    assert server.exchanges[1].body["prompt"] == [1, 100, 101, 102]


@pytest.mark.parametrize("style", ChatStyle)
async def test_a_chat_goes_on_from_the_beginning_of_the_answer(connect, style):
    async with FaultServer([three_words, three_words]) as server:
        chunks = connect(server).stream(CHAT_COMPLETIONS, CHAT, continuation=ChatContinuation(style))
        assert await read(chunks) == ANSWER
    last = server.exchanges[-1].body
    assert [message["role"] for message in last["messages"]] == ["user", "assistant"]
    assert last["messages"][-1]["content"] == "".join(WORDS[:6])
    assert last.get("continue_final_message", False) is (style is ChatStyle.FINAL_MESSAGE)


async def test_a_deterministic_chat_is_asked_again_and_not_doubled(connect):
    async with FaultServer([three_words]) as server:
        chunks = connect(server).stream(CHAT_COMPLETIONS, {**CHAT, "temperature": 0})
        assert await read(chunks) == ANSWER
    assert server.exchanges[1].body["messages"] == CHAT["messages"]


async def test_another_answer_the_second_time_is_an_error(connect):
    async def other(exchange: Exchange) -> None:
        await stream(exchange, WORDS[4:])

    async with FaultServer([three_words, other]) as server:
        chunks = connect(server).stream(CHAT_COMPLETIONS, {**CHAT, "temperature": 0})
        with pytest.raises(ConnectionLostError, match="another text"):
            await read(chunks)
    assert chunks.received.text == "".join(WORDS[:3])


async def test_a_sampled_chat_that_cannot_go_on_says_so(connect):
    async with FaultServer([three_words]) as server:
        chunks = connect(server).stream(CHAT_COMPLETIONS, CHAT)
        with pytest.raises(ConnectionLostError, match="cannot go on"):
            await read(chunks)
    assert chunks.received.text == "".join(WORDS[:3])
    assert len(server.exchanges) == 1


async def test_arguments_of_a_tool_are_passed_on_and_never_doubled(connect):
    async def tool(exchange: Exchange) -> None:
        await exchange.begin_stream()
        for part in ('{"a"', ": 1}"):
            call = {"index": 0, "function": {"arguments": part}}
            await exchange.event({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})
        exchange.finish()

    async with FaultServer([tool]) as server:
        chunks = connect(server).stream(CHAT_COMPLETIONS, {**CHAT, "temperature": 0})
        parts = [(await anext(chunks)).choice["delta"]["tool_calls"][0] for _ in range(2)]
        assert [part["function"]["arguments"] for part in parts] == ['{"a"', ": 1}"]
        with pytest.raises(ConnectionLostError, match="cannot go on"):
            await anext(chunks)


@pytest.mark.parametrize("change", [{"n": 2}, {"echo": True}])
async def test_a_stream_is_one_completion(connect, change):
    async with FaultServer() as server:
        with pytest.raises(InvalidRequestError, match="n and echo"):
            connect(server).stream(COMPLETIONS, {**BODY, **change})


async def test_a_stop_string_across_the_seam_is_found(connect):
    async with FaultServer([three_words]) as server:
        chunks = connect(server).stream(COMPLETIONS, {**BODY, "stop": [f"2é{WORDS[3][:2]}"]})
        text = await read(chunks)
    assert text[: -chunks.result.overrun] == "".join(WORDS[:3])[:-2]
    assert chunks.result.finish_reason == "stop"


async def test_cancelling_a_call_closes_the_response(connect):
    async with FaultServer([hold := Hold()]) as server:
        transport = connect(server)
        task = asyncio.create_task(transport.complete(COMPLETIONS, BODY))
        exchange = await hold.arrived
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await exchange.went_away.wait()
        assert transport.counters.requests == 1


async def test_leaving_a_stream_closes_the_response_and_frees_its_place(connect):
    arrived: asyncio.Future[Exchange] = asyncio.get_running_loop().create_future()

    async def endless(exchange: Exchange) -> None:
        arrived.set_result(exchange)
        await stream(exchange, WORDS[:3], is_whole=False)
        await exchange.hang()

    settings = replace(SHORT, control=replace(SHORT.control, first_window=1.0, max_window=1.0))
    async with FaultServer([endless]) as server:
        transport = connect(server, settings)
        async with transport.stream(COMPLETIONS, BODY) as chunks:
            assert (await anext(chunks)).text == WORDS[0]
            waiting = asyncio.create_task(transport.complete(COMPLETIONS, BODY))
        await (await arrived).went_away.wait()
        assert (await waiting).choices[0]["text"] == ANSWER
    assert chunks.result.is_usage_estimated


async def test_closing_the_transport_cancels_what_waits(connect):
    async with FaultServer([hold := Hold()]) as server:
        transport = connect(server)
        task = asyncio.create_task(transport.complete(COMPLETIONS, BODY, may_group=True))
        exchange = await hold.arrived
        await transport.aclose()
        await exchange.went_away.wait()
        with pytest.raises(ModelClosedError):
            await task


@pytest.mark.parametrize("may_group", [True, False])
async def test_closing_the_transport_ends_what_waits_at_the_gate(connect, may_group):
    async with FaultServer(otherwise=lambda exchange: exchange.error(429, retry_after="15")) as server:
        transport = connect(server)
        with pytest.raises(OverloadedError):
            await transport.complete(COMPLETIONS, BODY, seconds=1.0)
        task = asyncio.create_task(transport.complete(COMPLETIONS, BODY, may_group=may_group))
        for _ in range(5):
            await asyncio.sleep(0)
        await transport.aclose()
        with pytest.raises(ModelClosedError):
            await task
    assert len(server.exchanges) == 1


async def test_a_stream_whose_end_comes_late_leaves_its_connection_usable(connect):
    async def late(exchange: Exchange) -> None:
        await exchange.begin_stream()
        for word in WORDS:
            await exchange.event(chunk(exchange.body, word, "stop" if word == WORDS[-1] else None))
        await exchange.piece(b"data: [DONE]\n\n")
        await end.wait()
        await exchange.end_stream()

    end = asyncio.Event()
    async with FaultServer([late]) as server:
        transport = connect(server)
        assert await read(transport.stream(COMPLETIONS, BODY)) == ANSWER
        drains = [task for task in asyncio.all_tasks() if task.get_coro().__name__ == "_drain"]
        end.set()
        await asyncio.gather(*drains)
        await transport.complete(COMPLETIONS, BODY)
    assert len(drains) == server.connections == 1


async def test_a_slow_first_token_is_asked_for_twice(connect):
    async def slow(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.hang()

    hedge = HedgeSettings(budget=0.2, least_seconds=0.1, least_known=3)
    settings = replace(SHORT, hedge=hedge, retry=replace(SHORT.retry, request_seconds=10.0))
    async with FaultServer([*[whole] * 3, slow]) as server:
        transport = connect(server, settings)
        for _ in range(3):
            await read(transport.stream(COMPLETIONS, BODY))
        chunks = transport.stream(COMPLETIONS, BODY)
        assert await read(chunks) == ANSWER
        await server.exchanges[3].went_away.wait()
    assert chunks.spent.hedges == 1 == transport.counters.hedges
    assert len(server.exchanges) == 5


async def whole(exchange: Exchange) -> None:
    await stream(exchange, WORDS)


async def test_the_cache_answers_only_what_would_be_the_same(connect):
    greedy = {**BODY, "temperature": 0}
    async with FaultServer() as server:
        transport = connect(server, cache=AnswerCache())
        first = await transport.complete(COMPLETIONS, greedy)
        again = await transport.complete(COMPLETIONS, {**greedy, "user": "u"})
        assert again.choices == first.choices
        assert (again.is_cached, again.spent.requests) == (True, 0)
        assert not (await transport.complete(COMPLETIONS, {**greedy, "prompt": "Other:"})).is_cached
        assert not (await transport.complete(CHAT_COMPLETIONS, {**CHAT, "temperature": 0})).is_cached
        for _ in range(2):
            assert not (await transport.complete(COMPLETIONS, BODY)).is_cached
        assert not (await transport.complete(COMPLETIONS, BODY, sample_index=0)).is_cached
        assert not (await transport.complete(COMPLETIONS, BODY, sample_index=1)).is_cached
        assert (await transport.complete(COMPLETIONS, BODY, sample_index=1)).is_cached
    assert transport.counters.cache_hits == 2


async def test_the_cache_forgets_what_was_used_longest_ago(connect):
    async with FaultServer() as server:
        transport = connect(server, cache=AnswerCache(most=2))
        for prompt in "abac":
            await transport.complete(COMPLETIONS, {**BODY, "prompt": prompt, "temperature": 0})
        assert (await transport.complete(COMPLETIONS, {**BODY, "prompt": "a", "temperature": 0})).is_cached
        assert not (
            await transport.complete(COMPLETIONS, {**BODY, "prompt": "b", "temperature": 0})
        ).is_cached


async def test_tokens_are_counted_as_they_are_billed(connect):
    details = {"prompt_tokens_details": {"cached_tokens": 2}}
    details["completion_tokens_details"] = {"reasoning_tokens": 5, "rejected_prediction_tokens": None}

    async def billed(exchange: Exchange) -> None:
        message = completion(exchange.body)
        message["usage"].update(details)
        await exchange.answer(200, message)

    async with FaultServer([billed]) as server:
        transport = connect(server)
        await transport.complete(COMPLETIONS, BODY)
    counters = transport.counters
    assert (counters.prompt_tokens, counters.cached_tokens) == (3, 2)
    assert (counters.completion_tokens, counters.reasoning_tokens) == (8, 5)


def test_several_event_loops_one_after_the_other():
    from lmql_backends.openai.transport.client import Transport
    from lmql_backends.openai.transport.configuration import Configuration, make_client

    async def one(transport: Transport | None) -> Transport:
        async with FaultServer() as server:
            if transport is None:
                client = make_client(base_url=server.base_url, api_key="key")
                transport = Transport(Configuration(client, owns_client=True), SHORT)
                assert await read(transport.stream(COMPLETIONS, BODY)) == ANSWER
            else:
                with pytest.raises(ConnectionLostError):
                    await transport.complete(COMPLETIONS, BODY)
            await transport.aclose()
            return transport

    asyncio.run(one(asyncio.run(one(None))))
