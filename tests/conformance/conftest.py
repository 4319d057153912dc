"""Which backends the suite runs on, and what each test gets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest
import pytest_asyncio
from conformance.backends import Case, fake_case, random_case, random_gguf_case, registered_case
from conformance.limits import CHECKS
from conformance.remote_backends import in_process_case, lmtp_case, openai_case, process_case
from conformance.replicate_backend import replicate_case
from conformance.vllm_backend import vllm_case

from dcmodel.model import DcModel

# The fake engine's distribution is a closed form; `random` and `random-gguf` are a random model.
DEFAULT_BACKENDS = (
    *("fake", "lmtp", "process", "openai"),
    *("random", "transformers", "random-gguf", "llama_cpp"),
)
# The fake engine, at the other end of a connection; and what is open until the end.
REMOTE_CASES = {
    "in-process": in_process_case,
    "lmtp": lmtp_case,
    "openai": openai_case,
    "process": process_case,
    "replicate": replicate_case,
    "vllm": vllm_case,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--backend")
        names = [chosen] if chosen else DEFAULT_BACKENDS
        metafunc.parametrize("case", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def context() -> Iterator[ExitStack]:
    """What the cases hold open until the end."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, context: ExitStack
) -> Case:
    name = request.param
    if name == "fake":
        return fake_case()
    if name == "random":
        return random_case(tmp_path_factory.mktemp("random-llama"))
    if name in REMOTE_CASES:
        return context.enter_context(REMOTE_CASES[name]())
    if name in ("random-gguf", "llama_cpp"):
        pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    if name == "random-gguf":
        return random_gguf_case(tmp_path_factory.mktemp("random-gguf"))
    return registered_case(name, request.config.getoption("--model"))


@pytest.fixture(autouse=True)
def _within_limits(request: pytest.FixtureRequest) -> None:
    """Skips what needs something that the backend has not: `limits.py`."""
    needs = {name for mark in request.node.iter_markers("needs") for name in mark.args}
    assert needs <= set(CHECKS), f"no such need: {needs - set(CHECKS)}"
    if not needs or "case" not in request.fixturenames:
        return
    case = request.getfixturevalue("case")
    for name in sorted(needs & set(case.limits)):
        pytest.skip(f"{case.name}: {case.limits[name]}")


@pytest_asyncio.fixture
async def open_model(case: Case) -> AsyncIterator[Callable[..., DcModel]]:
    """Opens models with options and closes them after the test."""
    opened: list[DcModel] = []

    def open_one(**options: int) -> DcModel:
        missing = set(options) - case.options
        if missing:
            pytest.skip(f"{case.name} has no option {sorted(missing)}")
        opened.append(case.open(**options))
        return opened[-1]

    yield open_one
    for model in opened:
        await model.aclose()


@pytest.fixture
def model(open_model: Callable[..., DcModel]) -> DcModel:
    return open_model()
