"""`dcmodel serve --ray`: run the application until a signal, on this machine or on a cluster."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from importlib import metadata
from typing import Any

from dcmodel.cli.arguments import backend_option
from dcmodel.cli.output import Output
from dcmodel.errors import InvalidRequestError, MissingDependencyError, SetupError
from lmql_backends.lmtp.commands.serve_arguments import TOKEN_VARIABLE, settings_of, sources_of
from lmql_backends.ray_serve.arguments import AppArguments

APPLICATION = "dcmodel"
OBJECT_STORE_BYTES = 256 << 20
"""Tokens are small: Ray's own default is a third of the memory."""


def serve(arguments: argparse.Namespace, output: Output) -> int:
    """Raises `MissingDependencyError` without Ray, and `SetupError` where nothing comes up."""
    _check_ray()
    told = arguments_of(arguments)
    if (token := settings_of(arguments).token) is not None:
        os.environ[TOKEN_VARIABLE] = token  # the builder hands it to the ingress
    # Read when Ray is imported; nothing is reported unless the environment says so.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    port = arguments.port or _free_port(arguments.host)
    output.note("starting Ray ..." if arguments.ray_address is None else "connecting to the cluster ...")
    stop = threading.Event()
    try:
        _start(arguments, port)
        name = _run(told)
        # Not before: Ray sets handlers of its own.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        if arguments.until_stdin_closes:
            threading.Thread(target=_wait_for_end, args=(stop,), name="dcmodel-parent", daemon=True).start()
        _announce(arguments, port, name, output)
        stop.wait()
    finally:
        _end(is_ours=arguments.ray_address is None)
    return 0


def arguments_of(arguments: argparse.Namespace) -> AppArguments:
    """What the command line says, as the application is told it. Raises `InvalidRequestError`."""
    sources = sources_of(arguments)
    names = list(sources)
    if len(names) != 1:
        raise InvalidRequestError(
            "an application of Ray Serve has one model.",
            remedy="Start one for each model: a Serve config has several applications (docs/operations.md).",
        )
    given = arguments.models[0] if arguments.models else names[0]
    told: dict[str, Any] = {
        "model": given.removeprefix(f"{names[0]}=") or given,
        "name": names[0],
        "adapters": dict(sources[names[0]].adapters),
        "mount_from": arguments.allow_mounting,
        "options": dict(map(backend_option, arguments.option)),
        "host": arguments.host,
        "insecure": arguments.insecure,
        "allow_hosts": arguments.allow_host,
        "allow_origins": arguments.allow_origin,
        "max_streams": arguments.max_streams,
        "streams_limit": arguments.streams_per_worker,
        "max_waiting": arguments.max_waiting,
        "drain_seconds": arguments.drain_seconds,
    }
    for name in ("backend", "device", "dtype", "max_context", "replicas", "autoscale", "gpus", "cpus"):
        told[name] = getattr(arguments, name)
    for name in ("streams_per_replica", "ingress_replicas"):
        told[name] = getattr(arguments, name)
    return AppArguments.of({name: value for name, value in told.items() if value is not None})


def _check_ray() -> None:
    try:
        metadata.version("ray")
    except metadata.PackageNotFoundError as error:
        raise MissingDependencyError(
            "--ray needs ray, which is not installed.", remedy='Run: pip install "dcmodel[ray]"'
        ) from error


def _start(arguments: argparse.Namespace, port: int) -> None:
    import ray
    from ray import serve

    if arguments.ray_address is not None:
        try:
            ray.init(address=arguments.ray_address, log_to_driver=not arguments.quiet)
        except (ConnectionError, ValueError) as error:
            raise SetupError(
                f"there is no Ray cluster at {arguments.ray_address!r}: {error}.",
                remedy="Start one with `ray start --head`, or leave --ray-address out.",
            ) from error
    else:
        ray.init(
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=not arguments.quiet,
        )
    # In force unless Serve runs on the cluster already, with options of its own.
    serve.start(http_options={"host": arguments.host, "port": port})


def _run(told: AppArguments) -> str:
    """Returns the model's name once it serves."""
    from ray import serve

    from lmql_backends.ray_serve.application import build

    try:
        serve.run(build(told), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:  # Serve says so with the replica's own traceback
        raise SetupError(f"the application does not come up: {error}") from error
    return told.name


def _announce(arguments: argparse.Namespace, port: int, name: str, output: Output) -> None:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(arguments.host, arguments.host)
    http_url, url = f"http://{host}:{port}", f"lmtp://{host}:{port}"
    if arguments.json:
        output.json({"url": url, "http_url": http_url, "port": port, "models": [name]})
        return
    output.line(f"Serving {name} by Ray Serve at {http_url} (Ctrl-C ends it).")
    output.line(f'Try: dcmodel generate --model {url} "3 + 4 =" --max-tokens 5')
    output.line(f" or: curl {http_url}/workers")


def _end(*, is_ours: bool) -> None:
    """Let what runs come to its end, and take away what was started here."""
    import ray
    from ray import serve

    if not ray.is_initialized():
        return
    if is_ours:
        serve.shutdown()
    else:
        serve.delete(APPLICATION)
    ray.shutdown()


def _wait_for_end(stop: threading.Event) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    stop.set()


def _free_port(host: str) -> int:
    """Serve cannot choose one itself."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
