"""A small cluster of Ray on this machine, with Serve on a free port. Its processes end with the tests."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from dcmodel.model import DcModel
from lmql_backends.lmtp.clients.address import Address
from lmql_backends.lmtp.clients.websocket import WebSocketConnector
from lmql_backends.lmtp.model import LMTPDcModel

ROOT = Path(__file__).parents[3]
OBJECT_STORE_BYTES = 80 << 20
APPLICATION = "dcmodel"
PACED = {"factory": "fakes.ray_models:paced_model", "model": "fake", "host": "127.0.0.1", "cpus": 0.5}
"""The args of an application with the fake model."""


@dataclass(frozen=True)
class Cluster:
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def deploy(self, **args: object) -> None:
        """Run the application, or update it; returns when all is there."""
        from ray import serve

        from lmql_backends.ray_serve import app

        serve.run(app({**PACED, "drain_seconds": 20.0, **args}), name=APPLICATION, route_prefix="/")

    def kill(self, replica: str) -> None:
        """End its process at once."""
        import ray

        actor = ray.get_actor(f"SERVE_REPLICA::{APPLICATION}#Engine#{replica}", namespace="serve")
        ray.kill(actor)

    async def connect(self) -> DcModel:
        """A client of ours, by websocket."""
        return await LMTPDcModel.open(WebSocketConnector(Address.parse(f"lmtp://127.0.0.1:{self.port}")))

    async def workers(self, http: httpx.AsyncClient) -> list[dict]:
        """The replicas of the model, as the ingress knows them."""
        answer = await http.get(f"{self.url}/workers")
        answer.raise_for_status()
        return answer.json()["workers"]

    async def ready(self, http: httpx.AsyncClient, count: int, without: str = "") -> list[dict]:
        """Wait until so many take requests, and that one is not there any more."""
        while True:
            workers = await self.workers(http)
            names = {worker["address"] for worker in workers if worker["state"] == "ready"}
            if len(workers) == len(names) == count and without not in names:
                return workers
            await asyncio.sleep(0.05)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    pytest.importorskip("ray", reason="Ray is not installed: make test-ray")
    environment = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's own modules
        import ray
        from ray import serve

    try:
        ray.init(
            num_cpus=4, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, log_to_driver=False
        )
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield Cluster(port)
    finally:
        started = psutil.Process().children(recursive=True)
        try:
            serve.shutdown()
            ray.shutdown()
        finally:
            end_all(started)
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


def end_all(processes: list[psutil.Process]) -> None:
    """Nothing stays behind, however the tests ended."""
    _, alive = psutil.wait_procs(processes, timeout=20.0)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=5.0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
