"""Options and fixtures for the whole suite."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption(
        "--backend", default=None, help="run the conformance suite on this registered backend only"
    )
    group.addoption("--model", default=None, help="the model for --backend; default: the embedded one")
    group.addoption("--record", default=None, metavar="FILE", help="write down what the suite found, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--record"):
        from conformance.recording import Recorder

        config.pluginmanager.register(Recorder(Path(config.getoption("--record"))))


@pytest.fixture(scope="session", autouse=True)
def _interrupts_arrive() -> Iterator[None]:
    """A shell that starts the tests in the background lets them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
