"""The deployment ``Ingress``: replicas of our server, each with a balancer over all engine replicas."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from ray.serve.handle import DeploymentHandle

from lmql_backends.lmtp.balancer.connecting import connect_by, probe
from lmql_backends.lmtp.balancer.model import BalancedDcModel
from lmql_backends.lmtp.balancer.pool import Pool
from lmql_backends.lmtp.balancer.routes import describe
from lmql_backends.lmtp.balancer.settings import BalancerSettings
from lmql_backends.lmtp.server.answers import json_answer
from lmql_backends.lmtp.server.app import LMTPApp, create_app
from lmql_backends.lmtp.server.contracts import HttpRequest, HttpResponse
from lmql_backends.lmtp.server.limits import ConnectionLimits
from lmql_backends.lmtp.server.models import StaticModels
from lmql_backends.lmtp.server.settings import ServerSettings
from lmql_backends.ray_serve.arguments import AppArguments
from lmql_backends.ray_serve.connector import ReplicaConnector
from lmql_backends.ray_serve.handles import HandleCalls
from lmql_backends.ray_serve.replicas import Replicas

TOKEN_VARIABLE = "DCMODEL_TOKEN"


class Ingress:
    """What Serve makes a replica of; the application is asked for when it is made."""

    async def __init__(self, engine: DeploymentHandle, arguments: str) -> None:  # type: ignore[misc]
        """`arguments`: `AppArguments` as JSON. Waits for the first engine replica."""
        told = msgspec.json.decode(arguments, type=AppArguments)
        settings = server_settings(told)
        settings.check_exposure(told.host)
        calls = HandleCalls(engine)

        def connector_of(replica: str) -> ReplicaConnector:
            return ReplicaConnector(calls, replica, told.revision())

        self._pool = Pool(connect_by(connector_of), probe, settings=balancer_settings(told))
        self._replicas = Replicas(self._pool)
        await calls.subscribe(self._replicas.subscription)
        model = BalancedDcModel(self._pool, await self._pool.first())
        self._app = create_app(
            StaticModels({told.name or model.info.name: model}),
            settings,
            {("GET", "/workers"): self._show},
            host=told.host,
            is_ready=lambda: any(worker.is_up for worker in self._pool.workers),
        )

    def __serve_build_asgi_app__(self) -> LMTPApp:
        return self._app

    async def __del__(self) -> None:
        if hasattr(self, "_replicas"):
            await self._replicas.aclose()
            await self._pool.aclose()

    async def _show(self, request: HttpRequest) -> HttpResponse:
        """The engine replicas as this ingress replica knows them."""
        return json_answer({"workers": [describe(worker) for worker in self._pool.workers]})


def server_settings(told: AppArguments) -> ServerSettings:
    """The token is this process's, so that no config and no dashboard shows it."""
    return ServerSettings(
        token=os.environ.get(TOKEN_VARIABLE) or None,
        insecure=told.insecure,
        allowed_hosts=tuple(told.allow_hosts),
        allowed_origins=tuple(told.allow_origins),
        limits=ConnectionLimits(
            max_streams=told.max_streams,
            mount_from=tuple(Path(folder).resolve() for folder in told.mount_from),
        ),
    )


def balancer_settings(told: AppArguments) -> BalancerSettings:
    """Patient with calls that go through Ray; Serve itself looks after replicas, too."""
    return BalancerSettings(
        streams_per_worker=told.streams_limit,
        max_waiting=told.max_waiting,
        drain_seconds=told.drain_seconds,
        connect_seconds=30.0,
        probe_deadline=5.0,
    )
