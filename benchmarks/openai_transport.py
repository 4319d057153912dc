"""What a prompt costs a client in CPU time, 100 at once: the OpenAI adapter's transport and the bare SDK."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import openai
from tqdm import tqdm

from benchmarks.child_server import child_server
from benchmarks.clock import Spread
from benchmarks.tables import Table, write_json
from lmql_backends.openai.transport.client import CHAT_COMPLETIONS, COMPLETIONS, Transport
from lmql_backends.openai.transport.configuration import Configuration, make_client
from lmql_backends.openai.transport.hedging import HedgeSettings
from lmql_backends.openai.transport.settings import TransportSettings

AT_ONCE = 100
TARGET = 0.15
MESSAGES = [{"role": "user", "content": "Say something, please."}]
BODY = {"model": "m", "max_tokens": 16, "temperature": 0.0, "messages": MESSAGES}
PROMPT_BODY = {"model": "m", "max_tokens": 16, "temperature": 0.0, "prompt": "Say something, please."}

Call = Callable[[], Awaitable[object]]
SDK = "SDK gather"
SDK_STREAM = "SDK stream"
OURS = "ours"
OURS_STREAM = "ours, stream"


async def make_calls(url: str, stack: AsyncExitStack) -> dict[str, Call]:
    """One prompt, in each way."""
    sdk = await stack.enter_async_context(openai.AsyncOpenAI(base_url=url, api_key="key"))
    fast_sdk = await stack.enter_async_context(
        openai.AsyncOpenAI(base_url=url, api_key="key", http_client=openai.DefaultAioHttpClient())
    )
    bare = await stack.enter_async_context(aiohttp.ClientSession())
    ours = make_transport(url, stack, TransportSettings())
    plain = make_transport(url, stack, TransportSettings(hedge=HedgeSettings(budget=0.0)))

    async def post() -> object:
        async with bare.post(f"{url}/chat/completions", json=BODY) as response:
            return await response.json()

    async def sdk_stream() -> object:
        return [part async for part in await sdk.chat.completions.create(**BODY, stream=True)]

    async def our_stream() -> object:
        async with ours.stream(CHAT_COMPLETIONS, BODY) as chunks:
            return [part async for part in chunks]

    return {
        SDK: lambda: sdk.chat.completions.create(**BODY),
        "SDK over aiohttp": lambda: fast_sdk.chat.completions.create(**BODY),
        "aiohttp alone": post,
        OURS: lambda: ours.complete(CHAT_COMPLETIONS, BODY),
        "ours, no hedges": lambda: plain.complete(CHAT_COMPLETIONS, BODY),
        "ours, grouped": lambda: ours.complete(COMPLETIONS, PROMPT_BODY, may_group=True),
        SDK_STREAM: sdk_stream,
        OURS_STREAM: our_stream,
    }


def make_transport(url: str, stack: AsyncExitStack, settings: TransportSettings) -> Transport:
    configuration = Configuration(make_client(base_url=url, api_key="key"), owns_client=True)
    transport = Transport(configuration, settings)
    stack.push_async_callback(transport.aclose)
    return transport


async def cpu_per_prompt(call: Call, prompts: int) -> float:
    """Milliseconds of this process."""
    left = iter(range(prompts))

    async def worker() -> None:
        for _ in left:
            await call()

    begin = time.process_time()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return 1e3 * (time.process_time() - begin) / prompts


async def measure(url: str, prompts: int, turns: int) -> dict[str, list[float]]:
    async with AsyncExitStack() as stack:
        calls = await make_calls(url, stack)
        names = list(calls)
        for name in names:
            await cpu_per_prompt(calls[name], 2 * AT_ONCE)
        times: dict[str, list[float]] = {name: [] for name in names}
        for turn in tqdm(range(turns), unit="turn"):
            for step in range(len(names)):
                name = names[(turn + step) % len(names)]
                times[name].append(await cpu_per_prompt(calls[name], prompts))
        return times


def table_of(times: dict[str, list[float]], prompts: int) -> Table:
    table = Table(
        f"{prompts} prompts, {AT_ONCE} at once: CPU time of the client, ms per prompt, median and range",
        ("client", "CPU", "over SDK gather"),
    )
    for name, values in times.items():
        ratios = [own / sdk for own, sdk in zip(values, times[SDK], strict=True)]
        table.add(
            [name, Spread.of(values).text(3), Spread.of(ratios).text(3)],
            client=name,
            cpu=values,
            ratios=ratios,
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 turns of 500 prompts")
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    options = parser.parse_args()
    prompts, turns = (500, 3) if options.quick else (options.prompts, options.turns)
    with child_server("benchmarks.openai_server") as url:
        times = asyncio.run(measure(f"{url}/v1", prompts, turns))
    table = table_of(times, prompts)
    ratio = Spread.of(own / sdk for own, sdk in zip(times[OURS], times[SDK], strict=True)).median
    table.notes.append(
        f"target: ours at most {TARGET} times SDK gather: {'met' if ratio <= TARGET else 'MISSED'}"
    )
    print(table.text())
    if options.json:
        write_json(options.json, [table])
    return 0 if ratio <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
