"""Hundreds of jobs at once, through faults of every kind in any order."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random

from fakes.fault_server import ANSWER, WORDS, Exchange, FaultServer, completion, properly, stream
from fakes.short_waits import SHORT

from lmql_backends.openai.transport.client import COMPLETIONS
from lmql_backends.openai.transport.hedging import HedgeSettings

SETTINGS = replace(
    SHORT, retry=replace(SHORT.retry, deadline=60.0, budget=30), hedge=HedgeSettings(least_seconds=0.2)
)


async def test_everything_arrives_once_through_random_faults(connect):
    rng = Random(7)

    async def faulty(exchange: Exchange) -> None:
        match rng.choice(
            ("fine", "fine", "fine", "reset", "finish", "refuse", "unavailable", "html", "cut", "limit")
        ):
            case "reset":
                exchange.reset()
            case "finish":
                exchange.finish()
            case "refuse":
                await exchange.error(429, retry_after_ms="10")
            case "limit":
                await exchange.error(429)
            case "unavailable":
                await exchange.error(rng.choice((500, 502, 503, 529)))
            case "html":
                await exchange.answer(200, b"<html>", kind="text/html")
            case "cut" if exchange.body.get("stream"):
                await stream(exchange, exchange.rest[: rng.randrange(4)], is_whole=False)
                await (exchange.end_stream() if rng.random() < 0.5 else asyncio.sleep(0))
                exchange.reset()
            case "cut":
                message = completion(exchange.body)
                message["choices"] = message["choices"][: rng.randrange(len(message["choices"]))]
                await exchange.answer(200, message)
            case _:
                await properly(exchange)

    async with FaultServer(otherwise=faulty) as server:
        transport = connect(server, SETTINGS)

        async def whole(number: int) -> None:
            body = {"model": "m", "prompt": f"prompt {number}", "max_tokens": 8}
            answer = await transport.complete(COMPLETIONS, body, may_group=number % 2 == 0)
            assert answer.choices[0]["prompt"] == f"prompt {number}"

        async def streamed(number: int) -> None:
            body = {
                "model": "m",
                "prompt": [number + 1000],
                "max_tokens": 8,
                "return_token_ids": number % 2 == 0,
            }
            if number % 2:
                body["prompt"] = f"prompt {number}"
            async with transport.stream(COMPLETIONS, body) as chunks:
                assert [chunk.text async for chunk in chunks if chunk.text] == list(WORDS)
            assert chunks.received.text == ANSWER

        async with asyncio.TaskGroup() as tasks:
            for number in range(150):
                tasks.create_task(whole(number))
                tasks.create_task(streamed(number))
    assert transport.counters.resumes > 20
    assert len(server.exchanges) <= transport.counters.requests <= 3 * 300
