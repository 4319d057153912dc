"""Adapters behind a balancer: mounted on all workers, on those that come later, or on none."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from conformance.requests import mixed_requests, request, run

from dcmodel.errors import AdapterLoadError, AdapterNotFoundError, InvalidRequestError
from dcmodel.types import ScoreRequest
from lmql_backends.lmtp.balancer.prefixes import block_hashes

from .test_over_lmtp import (  # noqa: F401  # fixtures
    _cache,
    alone,
    balanced,
    client,
    plain,
    sites,
)


def names(model):
    return [info.name for info in model.adapters]


async def test_an_adapter_is_on_all_workers_and_requests_name_it(alone, balanced, sites):  # noqa: F811
    for model in (alone, balanced):
        await model.mount_adapter("a", "seed:7")
    assert names(balanced) == ["a"]
    assert all(names(site.model) == ["a"] for site in sites.values())
    items = mixed_requests(alone, 24, temperature=1.0, seed=3)
    items = [dataclasses.replace(item, adapter=(None, "a")[place % 2]) for place, item in enumerate(items)]
    found, expected = await run(balanced, items), await run(alone, items)
    assert [plain(item) for item in found] == [plain(item) for item in expected]
    ask = ScoreRequest(prompt_ids=items[0].prompt_ids, continuations=((5, 6),), adapter="a")
    assert (await balanced.score(ask)).continuations == (await alone.score(ask)).continuations
    left, right = [(await m.next_tokens([(3, 4)], None, 4, adapter="a"))[0] for m in (balanced, alone)]
    assert left.token_ids.tolist() == right.token_ids.tolist()


async def test_a_stream_goes_on_elsewhere_with_its_adapter(alone, balanced, sites):  # noqa: F811
    for model in (alone, balanced):
        await model.mount_adapter("a", "seed:7")
    item = request(alone, "yes", max_tokens=40, ignore_eos=True, adapter="a")
    stream = balanced.generate(item)
    for _ in range(3):
        await anext(stream)
        sites[stream._flight.worker.address].cut()
    assert plain(await stream.completion()) == plain(await alone.generate(item).completion())


async def test_a_worker_that_comes_back_gets_what_is_mounted(balanced, sites):  # noqa: F811
    workers = {worker.address: worker for worker in balanced.pool.workers}
    sites["a:1"].is_down = True
    sites["a:1"].cut()
    await balanced.pool.wait(lambda: workers["a:1"].model is None)
    await balanced.mount_adapter("a", "seed:7")
    await balanced.mount_adapter("b", "seed:8")
    assert names(sites["a:1"].model) == []
    # Meanwhile somebody has given it another adapter under that name.
    await sites["a:1"].model.mount_adapter("b", "seed:9")
    sites["a:1"].is_down = False
    await balanced.pool.wait(lambda: workers["a:1"].model is not None)
    assert {(info.name, info.source) for info in sites["a:1"].model.adapters} == {
        ("a", "seed:7"),
        ("b", "seed:8"),
    }


async def test_what_cannot_be_mounted_everywhere_is_mounted_nowhere(balanced, sites, monkeypatch):  # noqa: F811
    async def fail(name, source):
        raise AdapterLoadError("it is not on this machine.")

    monkeypatch.setattr(sites["b:1"].model, "mount_adapter", fail)
    with pytest.raises(AdapterLoadError, match="not on this machine"):
        await balanced.mount_adapter("a", "seed:7")
    assert names(balanced) == []
    assert all(names(site.model) == [] for site in sites.values())
    assert all(worker.model is not None for worker in balanced.pool.workers)


async def test_unmounted_is_unmounted_everywhere(alone, balanced, sites):  # noqa: F811
    await balanced.mount_adapter("a", "seed:7")
    with pytest.raises(InvalidRequestError, match="mounted already"):
        await balanced.mount_adapter("a", "seed:8")
    await balanced.unmount_adapter("a")
    assert all(names(site.model) == [] for site in sites.values())
    item = request(alone, "yes", adapter="a")
    with pytest.raises(AdapterNotFoundError):
        balanced.generate(item)
    with pytest.raises(AdapterNotFoundError):
        await balanced.session(item)
    with pytest.raises(AdapterNotFoundError):
        await balanced.unmount_adapter("a")


async def test_two_mountings_at_once_come_one_after_the_other(balanced, sites):  # noqa: F811
    results = await asyncio.gather(
        *(balanced.mount_adapter("a", f"seed:{seed}") for seed in (7, 8)), return_exceptions=True
    )
    assert sum(isinstance(item, InvalidRequestError) for item in results) == 1
    assert {info.source for site in sites.values() for info in site.model.adapters} == {
        balanced.adapters[0].source
    }


async def test_a_client_of_the_balancers_server_sees_it(alone, client):  # noqa: F811
    await client.mount_adapter("a", "seed:7")
    await alone.mount_adapter("a", "seed:7")
    item = request(alone, "The quick", adapter="a", seed=3, temperature=1.0)
    left, right = await client.session(item), await alone.session(item)
    for _ in range(3):
        assert (await left.step()).token_id == (await right.step()).token_id


def test_what_one_adapter_cached_is_of_no_use_to_another():
    prompt = list(range(64))
    hashes = [block_hashes(prompt, 16, adapter) for adapter in (None, "a", "b")]
    assert len({item for each in hashes for item in each}) == 12
    assert hashes[1] == block_hashes(prompt, 16, "a")
