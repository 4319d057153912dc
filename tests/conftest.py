"""Options and fixtures for the whole suite."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes on a busy machine says nothing of what is tested.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption(
        "--backend", default=None, help="run the conformance suite on this registered backend only"
    )
    group.addoption("--model", default=None, help="the model for --backend; default: the embedded one")
    group.addoption("--record", default=None, metavar="FILE", help="write down what the suite found, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    is_worker = hasattr(config, "workerinput")
    if is_worker:
        # Each of these processes has a core to itself; their children, too, are to start no more threads.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if config.getoption("--record"):
        if is_worker or config.getoption("numprocesses", None):
            raise pytest.UsageError("--record needs all tests in one process: leave out -n")
        from conformance.recording import Recorder

        config.pluginmanager.register(Recorder(Path(config.getoption("--record"))))


@pytest.fixture(scope="session", autouse=True)
def _interrupts_arrive() -> Iterator[None]:
    """A shell that starts the tests in the background lets them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
