"""Options and fixtures for the whole suite."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption(
        "--backend", default=None, help="run the conformance suite on this registered backend only"
    )
    group.addoption("--model", default=None, help="the model for --backend; default: the embedded one")
