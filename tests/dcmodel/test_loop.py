from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dcmodel.errors import InvalidRequestError
from dcmodel.loop import background_loop, run


async def plus_one(value):
    await asyncio.sleep(0)
    return value + 1


def test_a_coroutine_runs_and_its_result_or_error_comes_back():
    assert run(plus_one(1)) == 2
    with pytest.raises(TypeError):
        run(plus_one("x"))


def test_a_coroutine_that_exits_does_not_end_the_loop():
    async def leave():
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        run(leave())
    assert run(plus_one(1)) == 2


def test_it_works_from_many_threads_at_once():
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda value: run(plus_one(value)), range(100))) == list(range(1, 101))


async def test_it_works_inside_another_running_loop():
    assert run(plus_one(1)) == 2


def test_waiting_in_the_loops_own_thread_is_refused():
    async def nested():
        return run(plus_one(1))

    with pytest.raises(InvalidRequestError, match="asynchronous form"):
        run(nested())


def test_an_interrupt_cancels_the_coroutine_and_lets_it_clean_up():
    cleaned = threading.Event()

    async def forever():
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.set()

    main = threading.main_thread().ident
    threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(forever())
    assert cleaned.wait(1)
    assert time.monotonic() - began < 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_loop_of_its_own():
    parents = background_loop()
    child = os.fork()
    if child == 0:
        is_right = background_loop() is not parents and run(plus_one(1)) == 2
        os._exit(0 if is_right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
