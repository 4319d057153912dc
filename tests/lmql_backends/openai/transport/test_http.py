"""Connections that nobody closed."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys

from fakes.fault_server import FaultServer

from lmql_backends.openai.transport.http import AiohttpHttp, Target

ASK = """
import sys
from dcmodel.loop import run
from lmql_backends.openai.transport.http import AiohttpHttp, Target

async def ask(url):
    http = AiohttpHttp()
    await http.request("GET", Target(url, {}), None, 10.0)
    return http

kept = run(ask(sys.argv[1]))
"""
"""A program that ends with a connection open, as one with an `LLM` that it never closes."""


async def test_a_program_that_closes_nothing_ends_without_a_word():
    async with FaultServer() as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", ASK, f"{server.base_url}/models"), stderr=subprocess.PIPE
        )
        _, errors = await process.communicate()
    assert process.returncode == 0
    assert errors.decode() == ""


async def test_connections_that_are_collected_are_closed(caplog):
    async with FaultServer() as server:
        http = AiohttpHttp()
        await http.request("GET", Target(f"{server.base_url}/models", {}), None, 10.0)
        connector = http._session.connector
        del http
        gc.collect()
        assert connector.closed
        await asyncio.sleep(0)
    assert not caplog.records


def test_connections_of_a_loop_that_ended_leave_no_message(caplog, recwarn):
    async def ask() -> AiohttpHttp:
        async with FaultServer() as server:
            http = AiohttpHttp()
            await http.request("GET", Target(f"{server.base_url}/models", {}), None, 10.0)
            return http

    kept = [asyncio.run(ask())]
    kept.clear()
    gc.collect()
    assert not caplog.records
    assert not [item for item in recwarn if "client session" in str(item.message)]
