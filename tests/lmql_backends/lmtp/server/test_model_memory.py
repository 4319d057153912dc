"""Models within an amount of memory: by their files at first, by what was measured later."""

from __future__ import annotations

import asyncio
import threading

import httpx
import pytest
from fakes.raw_client import DEADLINE, fake_model

from dcmodel.errors import AdapterLoadError, ModelLoadError, OverloadedError
from dcmodel.llm import LLM
from dcmodel.types import GenerateRequest
from lmql_backends.lmtp.server.app import create_app
from lmql_backends.lmtp.server.contracts import ModelState
from lmql_backends.lmtp.server.model_sizes import GIB, file_bytes, used_bytes
from lmql_backends.lmtp.server.on_demand import OnDemandModels, Source
from lmql_backends.lmtp.server.routed import routed


class Shelf:
    """Loads fake models that take as much memory as they are said to."""

    def __init__(self, **takes: float) -> None:
        self.takes = takes
        self.used = 0.0
        self.made = []
        self.loads = []
        self.gate = threading.Event()
        self.gate.set()

    def measure(self) -> int:
        return int(self.used * GIB)

    def source(self, name: str, said: float = 0.0, **options) -> Source:
        class Registry:
            def load(_, model, load_options, **more):
                return self.load(name)

        return Source(open=lambda: LLM(name, registry=Registry()), size=lambda: int(said * GIB), **options)

    def load(self, name: str):
        assert self.gate.wait(DEADLINE)
        self.loads.append(name)
        self.used += self.takes.get(name, 0.0)
        model = fake_model()
        closed = model.aclose

        async def aclose():
            self.used -= self.takes.get(name, 0.0)
            await closed()

        model.aclose = aclose
        self.made.append(model)
        return model

    def models(self, memory: float | None, sources, **options) -> OnDemandModels:
        limit = None if memory is None else int(memory * GIB)
        found = {name: source for name, source in sources.items()}
        return OnDemandModels(found, max_models=len(found), max_bytes=limit, measure=self.measure, **options)


async def touch(models, *names):
    for name in names:
        async with models.use(name):
            pass


async def test_the_least_recently_used_goes_when_the_sum_would_be_too_much():
    shelf = Shelf(a=3, b=3, c=3)
    models = shelf.models(7, {name: shelf.source(name, 3) for name in "abc"})
    await touch(models, "a", "b", "a", "c")
    assert models.loaded() == ["a", "c"]
    assert shelf.used == 6
    await models.aclose()
    assert shelf.used == 0


async def test_a_large_one_takes_the_place_of_several():
    shelf = Shelf()
    models = shelf.models(
        8, {"a": shelf.source("a", 3), "b": shelf.source("b", 3), "c": shelf.source("c", 7)}
    )
    await touch(models, "a", "b", "c")
    assert models.loaded() == ["c"]
    await models.aclose()


async def test_what_is_in_use_is_never_unloaded():
    shelf = Shelf()
    models = shelf.models(5, {name: shelf.source(name, 3) for name in "ab"})
    async with models.use("a") as served:
        with pytest.raises(OverloadedError, match=r"'b' takes 3\.00 GB.*3\.00 of 5\.00 GB") as caught:
            await touch(models, "b")
        assert caught.value.retry_after
        await served.model.generate(GenerateRequest(prompt_ids=(3,), max_tokens=2)).completion()
    await touch(models, "b")
    assert models.loaded() == ["b"]
    await models.aclose()


async def test_one_that_can_never_fit_is_an_error_with_the_figures_and_is_not_loaded():
    shelf = Shelf()
    sources = {
        "a": shelf.source("a", 2, is_pinned=True),
        "b": shelf.source("b", 5),
        "c": shelf.source("c", 9),
    }
    models = shelf.models(6, sources)
    await models.load_pinned()
    with pytest.raises(ModelLoadError, match=r"'c' takes 9\.00 GB.*6\.00 GB, of which 2\.00 GB stay"):
        await touch(models, "c")
    with pytest.raises(ModelLoadError, match=r"'b' takes 5\.00 GB"):
        await touch(models, "b")
    assert shelf.loads == ["a"]
    assert models.loaded() == ["a"]
    await models.aclose()


async def test_what_was_measured_counts_where_it_is_more():
    shelf = Shelf(a=1, b=4, c=9)
    models = shelf.models(4.5, {name: shelf.source(name, 1) for name in "abc"})
    await touch(models, "a", "b")  # b turned out to be too much beside a
    assert models.loaded() == ["b"]
    await touch(models, "a")  # and now that is known
    assert models.loaded() == ["a"]
    with pytest.raises(ModelLoadError, match=r"'c' takes 9\.00 GB"):
        await touch(models, "c")
    assert "c" not in models.loaded()
    with pytest.raises(ModelLoadError, match=r"'c' takes 9\.00 GB"):
        await touch(models, "c")
    assert shelf.loads.count("c") == 1
    assert shelf.used <= 4.5
    await models.aclose()


async def test_a_model_that_is_warmed_up_has_generated_before_it_counts_as_loaded():
    shelf = Shelf()
    for warm_up in (False, True):
        models = shelf.models(None, {"a": shelf.source("a")}, warm_up=warm_up)
        async with models.use("a") as served:
            assert bool(served.model._adapters._engine.batches) is warm_up
        await models.aclose()


async def test_readiness_is_that_of_each_model():
    shelf = Shelf()
    sources = {"a": shelf.source("a", is_pinned=True), "b": shelf.source("b")}
    models = shelf.models(None, sources)
    app = create_app(models, is_ready=lambda: models.is_ready)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:

        async def state(name):
            answer = await http.get("/ready", params={"model": name})
            return answer.status_code, answer.json()["status"]

        assert await state("a") == (503, "loading")  # the server itself is not ready
        await models.load_pinned()
        assert [await state(name) for name in "ab"] == [(200, "ready"), (503, "unloaded")]
        shelf.gate.clear()
        loading = asyncio.create_task(touch(models, "b"))
        await asyncio.sleep(0)  # the task begins
        assert models.state("b") is ModelState.LOADING
        assert await state("b") == (503, "loading")
        listed = (await http.get("/v1/models")).json()["data"]
        assert {item["id"]: item["state"] for item in listed} == {"a": "ready", "b": "loading"}
        shelf.gate.set()
        await loading
        assert await state("b") == (200, "ready")
    await models.aclose()


async def test_adapters_come_with_their_model_and_again_after_it_was_unloaded():
    shelf = Shelf()
    sources = {"a": shelf.source("a", adapters={"law": "seed:7"}), "b": shelf.source("b")}
    models = OnDemandModels(sources, max_models=1)
    found = routed(models)
    assert found.adapters("a") == ["law"]
    assert found.split("law") == ("a", "law")
    async with found.use("law") as served:
        assert [info.name for info in served.model.adapters] == ["law"]
        await served.model.mount_adapter("more", "seed:8")
    await touch(models, "b")
    assert models.loaded() == ["b"]
    assert models.adapters("a") == ["law", "more"]
    async with found.use("a:more") as served:
        assert [info.name for info in served.model.adapters] == ["law", "more"]
        await served.model.unmount_adapter("law")
    await touch(models, "b")
    assert models.adapters("a") == ["more"]
    await models.aclose()


async def test_a_model_whose_adapter_is_broken_is_not_loaded_but_one_of_a_clients_may_be_gone(monkeypatch):
    shelf = Shelf(a=1)
    models = shelf.models(None, {"a": shelf.source("a", adapters={"law": "nonsense"})})
    with pytest.raises(AdapterLoadError):
        await touch(models, "a")
    assert (models.loaded(), shelf.used) == ([], 0)
    await models.aclose()
    models = OnDemandModels({"a": shelf.source("a"), "b": shelf.source("b")}, max_models=1)
    await touch(models, "a")
    models._entries["a"].adapters = {}
    async with models.use("a") as served:
        await served.model.mount_adapter("more", "seed:8")
    await touch(models, "b")
    models._entries["a"].adapters["more"] = "nonsense"  # its files were deleted
    await touch(models, "a")
    assert models.adapters("a") == []
    await models.aclose()


def test_sizes_are_those_of_the_weights(tmp_path, monkeypatch):
    for name, size in (("a.safetensors", 10), ("b.safetensors", 20), ("a.bin", 99), ("config.json", 7)):
        (tmp_path / name).write_bytes(b"\0" * size)
    assert file_bytes(str(tmp_path)) == 30
    assert file_bytes(str(tmp_path / "a.bin")) == 99
    assert file_bytes("embedded") > 1_000_000
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert file_bytes("org/name") == 0
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.gguf").write_bytes(b"\0" * 5)
    assert file_bytes("org/name") == 5
    assert used_bytes() > 1_000_000
