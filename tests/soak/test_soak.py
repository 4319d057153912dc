"""Many streams over real sockets with faults of every kind: nothing lost, doubled or left behind.

SOAK_REQUESTS=10000 SOAK_STREAMS=1000 SOAK_CONNECTIONS=50 pytest tests/soak     # `make soak`
"""

from __future__ import annotations

import asyncio
import gc
import logging

import psutil
import pytest
from soak.conftest import Size
from soak.expectations import expectations, open_model
from soak.fault_proxy import FaultProxy
from soak.load import Load

from dcmodel.llm import LLM
from lmql_backends.lmtp.clients.address import Address
from lmql_backends.lmtp.clients.websocket import WebSocketConnector
from lmql_backends.lmtp.model import LMTPDcModel
from lmql_backends.lmtp.retry import RetryPolicy
from lmql_backends.lmtp.server.server import LMTPServer

pytest.importorskip("websockets")
FLAT_BYTES = 48 << 20
"""How much more memory a second half of the load may leave behind."""


async def open_models(port: int, count: int) -> list[LMTPDcModel]:
    connector = [WebSocketConnector(Address(host="127.0.0.1", port=port, model="")) for _ in range(count)]
    loop = asyncio.get_running_loop()
    patient = RetryPolicy(seconds=60.0, max_losses=1_000)
    return list(
        await asyncio.gather(*(LMTPDcModel.open(item, loop=loop, retry=patient) for item in connector))
    )


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("cut_after", [None, (20_000, 200_000)], ids=["whole", "cut"])
async def test_nothing_is_lost_doubled_or_left_behind(size: Size, cut_after, caplog):
    # The engine's crashes and cut connections are what this is about; their log lines are not.
    for name in (None, "dcmodel", "lmql_backends"):
        caplog.set_level(logging.CRITICAL, logger=name)
    expected = await expectations()
    process = psutil.Process()
    model = open_model()
    tasks_before = asyncio.all_tasks()
    descriptors_before = process.num_fds()
    async with (
        LMTPServer(LLM.from_model(model)) as server,
        FaultProxy(server.port, seed=1, cut_after=cut_after) as proxy,
    ):
        models = await open_models(proxy.port, size.connections)
        memory = []
        for half in range(2):
            load = Load(models, expected, size.requests // 2, size.streams, seed=half)
            await asyncio.wait_for(load.run(), 900)
            assert not load.wrong, f"{len(load.wrong)} of {load.total}: {load.wrong[:5]}"
            assert sum(load.outcomes.values()) == load.total
            gc.collect()
            memory.append(process.memory_info().rss)
        if cut_after is not None:
            assert proxy.cuts > 0, "nothing was cut"
        proxy.heal()
        await asyncio.gather(*(item.aclose() for item in models))
    assert memory[1] - memory[0] < FLAT_BYTES
    idle = await model.session(expected[0].request)
    await idle.step()  # when this is through, so is everything that was cancelled before it
    await model.aclose()
    gc.collect()
    left = asyncio.all_tasks() - tasks_before
    assert not left, left
    assert process.num_fds() <= descriptors_before + 2
