"""From arguments to an application of Serve's: ``Ingress`` -> ``Engine``."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from lmql_backends.ray_serve.arguments import AppArguments
from lmql_backends.ray_serve.engine import Engine
from lmql_backends.ray_serve.ingress import TOKEN_VARIABLE, Ingress

ROUTER = "lmql_backends.ray_serve.router:ReplicaRouter"
UNBOUNDED = 1_000_000
"""Calls that run on a replica at a time: the balancer and the server have bounds of their own."""
CLOSING_SECONDS = 5.0
"""Beyond `drain_seconds`, to move what still runs and to close."""


def build(arguments: AppArguments) -> Application:
    """Raises `InvalidRequestError` for options that are no JSON values."""
    engine = serve.deployment(Engine, **_scale(arguments)).options(
        max_ongoing_requests=UNBOUNDED,
        ray_actor_options={"num_cpus": arguments.cpus, "num_gpus": arguments.gpus},
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
        logging_config=LoggingConfig(enable_access_log=False),  # a line for each frame
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=arguments.drain_seconds + CLOSING_SECONDS,
    )
    ingress = serve.deployment(serve.ingress()(Ingress)).options(
        name="Ingress",
        num_replicas=arguments.ingress_replicas,
        max_ongoing_requests=UNBOUNDED,
        ray_actor_options={"num_cpus": arguments.ingress_cpus, "runtime_env": _environment()},
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=arguments.drain_seconds,
    )
    spec = arguments.spec().to_bytes().decode()
    told = msgspec.json.encode(arguments.for_ingress()).decode()
    bound: Application = ingress.bind(engine.bind(spec, arguments.revision(), arguments.adapters), told)
    return bound


def _scale(arguments: AppArguments) -> dict[str, Any]:
    """How many replicas of the model there are. Each ingress replica's own connection counts as a request."""
    scale = arguments.scale()
    if scale is None:
        return {"num_replicas": arguments.replicas}
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=scale[0],
            max_replicas=scale[1],
            initial_replicas=scale[0],
            target_ongoing_requests=arguments.streams_per_replica + arguments.ingress_replicas,
            upscale_delay_s=arguments.upscale_seconds,
            downscale_delay_s=arguments.downscale_seconds,
            look_back_period_s=arguments.window_seconds,
        )
    }


def _environment() -> dict[str, Any]:
    """The token of whoever builds the application, for the ingress alone; elsewhere it is the environment's
    of the cluster."""
    token = os.environ.get(TOKEN_VARIABLE)
    return {"env_vars": {TOKEN_VARIABLE: token}} if token else {}
