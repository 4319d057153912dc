"""The embedded model as LMQL sees it: over a server of ours, and in process."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcmodel import LLM


@pytest.fixture(scope="session")
def llm() -> Iterator[LLM]:
    with LLM(dtype="float32", device="cpu") as llm:
        yield llm


@pytest.fixture(scope="session")
def lmql(tmp_path_factory):
    """LMQL, whose pickled tokenizers and masks lie in a folder of these tests."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        lmql = pytest.importorskip("lmql", reason="LMQL is not installed")
        from lmql.runtime import caching

        patch.setattr(caching, "CACHE_DIR", Path.home() / ".cache" / "lmql")
        yield lmql


@pytest.fixture(scope="session")
def endpoint(llm) -> Iterator[str]:
    from fakes.legacy_server import legacy_server
    from fakes.served import ServedModels

    with legacy_server(ServedModels({"tiny": llm.model})) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def served(lmql, endpoint):
    """Over the websocket, by LMQL's own client."""
    from lmql_backends.tiny import MODEL_DIR

    return lmql.model("tiny", endpoint=endpoint, tokenizer=str(MODEL_DIR))


@pytest.fixture(scope="session")
def inside(lmql, llm):
    """In process, by the plug-in."""
    from lmql_backends.lmql import as_lmql

    return as_lmql(llm)


@pytest.fixture(params=["served", "inside"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def run(lmql, model):
    """The variables of a query's result, or of each where there are several."""

    async def run(query: str, **options):
        found = await lmql.run(query, model=model, **options)
        if isinstance(found, list):
            return [getattr(item, "variables", item) for item in found]
        return getattr(found, "variables", found)

    return run
