"""Adapters over LMTP: each request names its own, and what may be mounted is the server's decision."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from conformance.requests import assert_same, mixed_requests, request, run
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import MaskFunction, Regex
from dcmodel.errors import AdapterLoadError, AdapterNotFoundError, CapabilityError, InvalidRequestError
from dcmodel.local import LocalDcModel
from dcmodel.types import ScoreRequest
from lmql_backends.lmtp.clients.in_process import InProcessConnector
from lmql_backends.lmtp.model import LMTPDcModel
from lmql_backends.lmtp.server.limits import ConnectionLimits
from lmql_backends.lmtp.server.models import StaticModels
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.lmtp.server.settings import ServerSettings

NAMES = (None, "a", "b")


@pytest.fixture
async def adapted(local) -> LocalDcModel:
    """The model behind the server, with two adapters."""
    await local.mount_adapter("a", "seed:7")
    await local.mount_adapter("b", "seed:8")
    return local


@pytest.fixture
async def remote(adapted, server, connect) -> LMTPDcModel:
    return await connect(server.port)


def with_adapters(items):
    return [dataclasses.replace(item, adapter=NAMES[place % 3]) for place, item in enumerate(items)]


async def test_what_is_mounted_is_described(adapted, remote):
    assert remote.adapters == adapted.adapters
    assert [info.name for info in remote.adapters] == ["a", "b"]


async def test_each_stream_has_its_own_adapter(adapted, remote):
    items = with_adapters(mixed_requests(adapted, 12, temperature=1.0, seed=3))
    for left, right in zip(await run(remote, items), await run(adapted, items), strict=True):
        assert_same(left, right, 1e-6)
    texts = await run(adapted, [request(adapted, "yes", adapter=name) for name in NAMES])
    assert len({text.token_ids for text in texts}) == 3


async def test_scores_and_distributions_have_their_adapter(adapted, remote):
    ids = request(adapted, "The quick").prompt_ids
    found = []
    for name in NAMES:
        ask = ScoreRequest(prompt_ids=ids, continuations=((5, 6), (7,)), adapter=name, prompt_logprobs=1)
        left, right = await remote.score(ask), await adapted.score(ask)
        assert (left.continuations, left.prompt) == (right.continuations, right.prompt)
        left, right = [
            (await model.next_tokens([ids], None, 4, adapter=name))[0] for model in (remote, adapted)
        ]
        assert left.token_ids.tolist() == right.token_ids.tolist()
        assert left.raw_logprobs.tolist() == right.raw_logprobs.tolist()
        found.append(tuple(left.raw_logprobs.tolist()))
    assert len(set(found)) == 3


async def test_sessions_and_their_forks_have_their_adapter(adapted, remote):
    async def walk(model, name):
        root = await model.session(request(model, "The quick", seed=3, temperature=1.0, adapter=name))
        for _ in range(3):
            await root.step()
        fork = root.fork()
        await fork.step()
        return root.token_ids, fork.token_ids, fork.token_logprobs

    found = [await walk(remote, name) for name in NAMES]
    assert found == [await walk(adapted, name) for name in NAMES]
    assert len({item[0] for item in found}) == 3


async def test_a_callers_own_function_goes_with_an_adapter(adapted, remote):
    def only_low(prefix):
        return list(range(3, 60))

    items = [
        request(adapted, "yes", constraint=MaskFunction(only_low), seed=1, temperature=1.0, adapter=name)
        for name in NAMES
    ]
    found = await run(remote, items)
    for left, right in zip(found, await run(adapted, items), strict=True):
        assert_same(left, right, 1e-6)
    assert len({item.token_ids for item in found}) == 3


async def test_a_resumed_stream_goes_on_with_its_adapter(adapted, remote):
    item = request(adapted, "yes", constraint=Regex("[a-z ]{20,30}"), max_tokens=40, adapter="a")
    (whole,) = await run(adapted, [item])
    resumed = dataclasses.replace(item, resumed=whole.token_ids[:4])
    (found,) = await run(remote, [resumed])
    assert found.token_ids == whole.token_ids
    assert found.text == whole.text


async def test_the_server_knows_what_is_mounted_now(adapted, remote):
    await adapted.mount_adapter("late", "seed:9")
    (found,) = await run(remote, [request(adapted, "yes", adapter="late")])
    (expected,) = await run(adapted, [request(adapted, "yes", adapter="late")])
    assert found.token_ids == expected.token_ids
    assert (await remote.session(request(adapted, "yes", adapter="late"))).text == ""
    await adapted.unmount_adapter("a")
    with pytest.raises(AdapterNotFoundError):
        await remote.session(request(adapted, "yes", adapter="none"))
    for name in ("a", "none"):
        with pytest.raises(AdapterNotFoundError, match=name):
            await run(remote, [request(adapted, "yes", adapter=name)])
        with pytest.raises(AdapterNotFoundError, match=name):
            await (await remote.session(request(adapted, "yes", adapter=name))).step()
        with pytest.raises(AdapterNotFoundError, match=name):
            await remote.next_tokens([(3, 4)], adapter=name)


async def test_a_name_in_the_route_is_an_adapter(adapted, server, connect):
    plain = await connect(server.port, name="fake")
    for name in ("fake:a", "a"):
        routed = await connect(server.port, name=name)
        (found,) = await run(routed, [request(adapted, "yes")])
        (expected,) = await run(plain, [request(adapted, "yes", adapter="a")])
        assert found.token_ids == expected.token_ids
        with pytest.raises(InvalidRequestError, match="'b'"):
            await run(routed, [request(adapted, "yes", adapter="b")])


async def test_a_server_mounts_nothing_for_clients_unless_it_is_told_to(remote):
    with pytest.raises(CapabilityError, match="mounts and unmounts no adapters") as caught:
        await remote.mount_adapter("c", "seed:9")
    assert "--allow-mounting" in caught.value.remedy
    with pytest.raises(CapabilityError):
        await remote.unmount_adapter("a")


async def test_a_server_mounts_from_its_folders_only(local, connect, tmp_path, monkeypatch):
    allowed, elsewhere = tmp_path / "allowed", tmp_path / "elsewhere"
    for folder in (allowed / "good", elsewhere / "secret"):
        folder.mkdir(parents=True)
    (allowed / "link").symlink_to(elsewhere / "secret")
    read = []
    engine_read = local._adapters._engine.read_adapter

    def read_adapter(source):
        read.append(source)
        return engine_read("seed:9")

    monkeypatch.setattr(local._adapters._engine, "read_adapter", read_adapter)
    settings = ServerSettings(limits=ConnectionLimits(mount_from=(allowed,)))
    async with LMTPServer({"fake": local}, settings=settings) as server:
        remote = await connect(server.port)
        for source in (
            "../elsewhere/secret",
            str(elsewhere / "secret"),
            "link",
            "none",
            "",
            ".",
            "\0",
            "a" * 5000,
        ):
            with pytest.raises(AdapterLoadError, match="none of the folders"):
                await remote.mount_adapter("c", source)
        with pytest.raises(InvalidRequestError, match="name"):
            await remote.mount_adapter("no name", "good")
        assert not read
        info = await remote.mount_adapter("c", "good")
        assert (info.name, remote.adapters) == ("c", (info,))
        assert read == [str((allowed / "good").resolve())]
        await run(remote, [request(local, "yes", adapter="c")])
        with pytest.raises(InvalidRequestError, match="'c'"):
            await remote.mount_adapter("c", str(allowed / "good"))
        await remote.unmount_adapter("c")
        assert remote.adapters == ()
        assert local.adapters == ()


async def test_in_process_a_client_mounts_what_it_likes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    async with LocalDcModel(loaded_fake(small_tokenizer())) as local:
        connector = InProcessConnector(StaticModels({"fake": local}))
        async with await LMTPDcModel.open(connector, loop=asyncio.get_running_loop()) as model:
            await model.mount_adapter("c", "seed:9")
            (found,) = await run(model, [request(local, "yes", adapter="c")])
            (expected,) = await run(local, [request(local, "yes", adapter="c")])
            assert found.token_ids == expected.token_ids
            with pytest.raises(AdapterLoadError, match="is no adapter"):
                await model.mount_adapter("d", "nonsense")
