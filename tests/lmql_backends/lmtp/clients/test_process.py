"""A model in a child process: its crash is an error, its parent's end is its own, and users share it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
from conformance.requests import PROMPTS, assert_same, request, run, run_one
from fakes.child_models import fake_model

from dcmodel.backend import LoadOptions
from dcmodel.errors import (
    ConnectionLostError,
    InvalidRequestError,
    ModelLoadError,
    ModelNotFoundError,
)
from dcmodel.types import GenerateRequest
from lmql_backends.lmtp.clients.child_spec import ChildSpec
from lmql_backends.lmtp.clients.process import MAX_CRASHES, NO_RETRY, ProcessConnector
from lmql_backends.lmtp.model import LMTPDcModel


def fake(factory: str, **extra) -> ProcessConnector:
    return ProcessConnector(
        ChildSpec(model="fake", factory=f"fakes.child_models:{factory}", options=LoadOptions(extra=extra))
    )


async def opened(connector: ProcessConnector) -> LMTPDcModel:
    return await LMTPDcModel.open(connector, retry=NO_RETRY)


async def test_a_crash_is_an_error_with_the_last_words_and_the_next_request_starts_anew(capfd):
    connector = fake("deadly_model")
    async with await opened(connector) as model:
        beside = model.generate(request(model, PROMPTS[0], max_tokens=400, ignore_eos=True))
        await anext(beside)
        begin = time.monotonic()
        with pytest.raises(ConnectionLostError, match=r"exit code 3.*\n.*my last words"):
            await model.generate(GenerateRequest(prompt_ids=(7, 8))).completion()
        with pytest.raises(ConnectionLostError, match="exit code 3"):
            await beside.completion()
        assert time.monotonic() - begin < 5  # a second on an idle machine
        assert "my last words" in capfd.readouterr().err
        item = request(model, PROMPTS[0])
        async with fake_model(ChildSpec()) as local:
            assert_same(await run_one(model, item), await run_one(local, item), 1e-5)


async def test_sessions_of_a_killed_child_go_on_in_a_new_one():
    connector = fake("fake_model")
    async with await opened(connector) as model, fake_model(ChildSpec()) as local:
        item = request(model, PROMPTS[0], temperature=1.0, seed=3, max_tokens=20, ignore_eos=True)
        session = await model.session(item)
        for _ in range(5):
            await session.step()
        pid = connector.pid
        os.kill(pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)
        while not session.is_finished:
            with suppress(ConnectionLostError):  # of a step that was sent before the end was noticed
                await session.step()
        assert connector.pid != pid
        assert session.token_ids == (await run_one(local, item)).token_ids


async def test_a_child_that_crashes_again_and_again_is_left_alone():
    now = [0.0]
    connector = ProcessConnector(
        ChildSpec(
            model="fake",
            factory="fakes.child_models:deadly_model",
            options=LoadOptions(extra={"max_sequences": 3}),
        ),
        clock=lambda: now[0],
    )
    deadly = GenerateRequest(prompt_ids=(7, 8))
    async with await opened(connector) as model:
        for _ in range(MAX_CRASHES):
            with pytest.raises(ConnectionLostError, match="exit code 3"):
                await model.generate(deadly).completion()
        with pytest.raises(ConnectionLostError, match="not started again yet") as caught:
            await model.generate(deadly).completion()
        assert caught.value.retry_after == 60.0
        now[0] = 61.0
        assert (await run_one(model, request(model, "yes"))).token_ids


async def test_users_share_a_child_which_ends_with_the_last():
    first, second, other = fake("fake_model"), fake("fake_model"), fake("fake_model", max_sequences=2)
    async with await opened(first) as one:
        async with await opened(second) as two, await opened(other) as three:
            assert first.pid == second.pid != other.pid
            items = [request(one, PROMPTS[0]) for _ in range(3)]
            found = [await run(model, items) for model in (one, two, three)]
            assert found[0][0].token_ids == found[1][0].token_ids == found[2][0].token_ids
            pid, other_pid = first.pid, other.pid
        assert not psutil.pid_exists(other_pid)
        assert (await run_one(one, request(one, "yes"))).token_ids
    assert not psutil.pid_exists(pid)


async def test_errors_of_loading_are_the_callers():
    with pytest.raises(ModelLoadError, match=r"weights are gone\. Find them"):
        await opened(fake("no_model"))
    with pytest.raises(ModelLoadError, match="no_such_function"):
        await opened(fake("no_such_function"))
    with pytest.raises(ModelNotFoundError, match="no/such/model"):
        await opened(ProcessConnector(ChildSpec(model="/no/such/model")))
    with pytest.raises(InvalidRequestError, match="JSON"):
        fake("fake_model", function=print)


PARENT = """
import asyncio, sys
from lmql_backends.lmtp.clients.child_spec import ChildSpec
from lmql_backends.lmtp.clients.process import NO_RETRY, ProcessConnector
from lmql_backends.lmtp.model import LMTPDcModel
from dcmodel.loop import run
connector = ProcessConnector(ChildSpec(model="fake", factory="fakes.child_models:fake_model"))
model = run(LMTPDcModel.open(connector, retry=NO_RETRY))
print(connector.pid, flush=True)
sys.stdin.read()
"""


def test_no_child_outlives_its_parent():
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    with parent:
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
        _, alive = psutil.wait_procs([child], timeout=5)
        assert not alive


async def test_from_a_loop_that_is_not_the_clients():
    async with await opened(fake("fake_model")) as model:
        expected = await run_one(model, request(model, PROMPTS[1]))
        found = await asyncio.to_thread(lambda: asyncio.run(run_one(model, request(model, PROMPTS[1]))))
        assert found.token_ids == expected.token_ids
