"""Models by name: one load for all first users, room for a few, and none that is in use goes."""

from __future__ import annotations

import asyncio
import threading

import pytest
from fakes.raw_client import DEADLINE, fake_model

from dcmodel.errors import (
    InvalidRequestError,
    ModelClosedError,
    ModelLoadError,
    ModelNotFoundError,
    OverloadedError,
)
from dcmodel.llm import LLM
from lmql_backends.lmtp.server.models import StaticModels
from lmql_backends.lmtp.server.on_demand import OnDemandModels, Source


class Shelf:
    """Loads fake models, counts that, and can be held."""

    def __init__(self) -> None:
        self.loads = []
        self.fails = False
        self.open_ = threading.Event()
        self.open_.set()
        self.models = []

    def source(self, name: str, **options) -> Source:
        return Source(open=lambda: self.llm(name), **options)

    def llm(self, name: str) -> LLM:
        class Registry:
            def load(_, model, options, **more):
                return self.load(name)

        return LLM(name, registry=Registry())

    def load(self, name: str):
        self.loads.append(name)
        assert self.open_.wait(DEADLINE)
        if self.fails:
            raise ModelLoadError(f"{name} is broken.")
        model = fake_model()
        self.models.append(model)
        return model


@pytest.fixture
async def shelf():
    made = Shelf()
    yield made
    for model in made.models:
        await model.aclose()


def on_demand(shelf, names="abc", *, max_models=2, pinned="") -> OnDemandModels:
    sources = {name: shelf.source(name, is_pinned=name in pinned) for name in names}
    return OnDemandModels(sources, max_models=max_models)


async def test_given_models_have_their_own_name_or_the_callers():
    model = fake_model()
    assert StaticModels(model).names() == ["fake"]
    models = StaticModels({"small": model, "other": model})
    async with models.use("") as served:
        assert (served.name, served.model) == ("small", model)
    async with models.use("other") as served:
        assert served.llm.model is model
    with pytest.raises(ModelNotFoundError, match=r"'fake' is not served here.*small, other"):
        models.use("fake")
    with pytest.raises(InvalidRequestError):
        StaticModels({})
    await model.aclose()


async def test_a_given_llm_is_loaded_once_by_whoever_asks_first(shelf):
    models = StaticModels({"a": shelf.llm("a")})

    async def user():
        async with models.use("a") as served:
            return served.model

    assert len(set(await asyncio.gather(*(user() for _ in range(10))))) == 1
    assert shelf.loads == ["a"]


async def test_first_users_share_one_load(shelf):
    models = on_demand(shelf)
    shelf.open_.clear()

    async def user():
        async with models.use("b") as served:
            return served.model

    users = [asyncio.create_task(user()) for _ in range(10)]
    await asyncio.sleep(0)
    users[0].cancel()  # takes it from nobody else
    shelf.open_.set()
    results = await asyncio.gather(*users, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert len(set(results[1:])) == 1
    assert shelf.loads == ["b"]
    assert models.loaded() == ["b"]
    await models.aclose()


async def test_what_a_model_takes_is_known_while_it_is_loaded(shelf):
    models = on_demand(shelf, "ab", max_models=1)
    assert models.context("a") is None
    async with models.use("a") as served:
        assert models.context("a") == served.model.info.max_positions
    async with models.use("b"):
        assert models.context("a") is None
    assert shelf.loads == ["a", "b"]


async def test_the_one_that_was_not_used_for_longest_goes(shelf):
    models = on_demand(shelf)
    for name in ("a", "b", "a", "c"):
        async with models.use(name):
            pass
    assert sorted(models.loaded()) == ["a", "c"]
    assert shelf.loads == ["a", "b", "c"]
    async with models.use("b") as served:  # and comes back
        assert served.name == "b"
    assert sorted(models.loaded()) == ["b", "c"]
    await models.aclose()


async def test_what_is_in_use_stays(shelf):
    models = on_demand(shelf)
    async with models.use("a") as first, models.use("b"):
        with pytest.raises(OverloadedError, match="2 models are loaded and in use") as raised:
            async with models.use("c"):
                pass
        assert raised.value.retry_after is not None
        async with models.use("a") as second:
            assert second.model is first.model
    async with models.use("c"):
        assert "c" in models.loaded()
    await models.aclose()


async def test_pinned_models_stay(shelf):
    models = on_demand(shelf, pinned="a")
    assert not models.is_ready
    await models.load_pinned()
    assert models.is_ready
    assert models.loaded() == ["a"]
    for name in ("b", "c", "b"):
        async with models.use(name):
            pass
    assert sorted(models.loaded()) == ["a", "b"]
    await models.aclose()


@pytest.mark.parametrize(("max_models", "pinned"), [(0, ""), (1, "ab")])
async def test_too_little_room_is_an_error_at_once(shelf, max_models, pinned):
    with pytest.raises(InvalidRequestError, match="max_models"):
        on_demand(shelf, max_models=max_models, pinned=pinned)


async def test_a_failed_load_is_everybodys_error_and_is_tried_again(shelf):
    models = on_demand(shelf)
    shelf.fails = True

    async def user():
        async with models.use("a"):
            pass

    results = await asyncio.gather(*(user() for _ in range(5)), return_exceptions=True)
    assert {type(result) for result in results} == {ModelLoadError}
    assert shelf.loads == ["a"]
    shelf.fails = False
    await user()
    assert shelf.loads == ["a", "a"]
    await models.aclose()


@pytest.mark.parametrize("name", ["d", "../a", "https://evil.example/x", "a/b", "A", " a", "a" * 100_000])
async def test_only_listed_names_are_looked_at(shelf, name):
    models = on_demand(shelf)
    with pytest.raises(ModelNotFoundError, match="is not served here") as raised:
        models.use(name)
    assert len(str(raised.value)) < 500
    assert shelf.loads == []


async def test_closing_closes_the_models_and_ends_their_use(shelf):
    models = on_demand(shelf)
    async with models.use("a") as served:
        llm = served.llm
    await models.aclose()
    assert models.loaded() == []
    with pytest.raises(ModelClosedError):
        _ = llm.model
    with pytest.raises(ModelClosedError):
        async with models.use("a"):
            pass
