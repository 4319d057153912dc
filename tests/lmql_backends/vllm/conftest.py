"""One engine for all tests of the real library: it takes seconds to start."""

from __future__ import annotations

import pytest
from conformance.vllm_backend import vllm_case


@pytest.fixture(scope="session")
def case():
    pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm")
    with vllm_case() as made:
        yield made


@pytest.fixture
async def model(case):
    async with case.open() as opened:
        yield opened
