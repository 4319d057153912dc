"""`dcmodel serve --workers N` and `--layout GxD`: so many processes of the same command, and a balancer."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from pathlib import Path

from dcmodel.cli.output import Output
from dcmodel.errors import InvalidRequestError
from lmql_backends.lmtp.commands.balance import add_balancer_arguments, balancer_settings, run
from lmql_backends.lmtp.commands.serve_arguments import settings_of, sources_of, tls_of

AS_WORKER = ("--host", "127.0.0.1", "--port", "0", "--json", "--quiet", "--until-stdin-closes")
PASSED_ON = ("backend", "device", "dtype", "max_context", "drain_seconds", "log_format")


def add_worker_arguments(parser: argparse.ArgumentParser) -> None:
    """`--workers`, `--layout`, and how requests are spread."""
    group = parser.add_argument_group("workers", "processes of the same model behind one port")
    group.add_argument("--workers", metavar="N", type=int, help="so many processes, which share the cores")
    group.add_argument("--layout", metavar="GxD", help="G processes with D devices each: 4x1, 2x2")
    add_balancer_arguments(parser)


def wants_workers(arguments: argparse.Namespace) -> bool:
    return arguments.workers is not None or arguments.layout is not None


def serve_workers(arguments: argparse.Namespace, output: Output) -> int:
    """Start the workers, a balancer before them, and serve until a signal."""
    from lmql_backends.lmtp.balancer.layout import Layout, device_variable
    from lmql_backends.lmtp.balancer.serving import BalancerSetup
    from lmql_backends.lmtp.balancer.workers import WorkerCommand

    if arguments.workers is not None and arguments.layout is not None:
        raise InvalidRequestError("both --workers and --layout are given.", remedy="Leave one of them out.")
    names = list(sources_of(arguments))
    if len(names) != 1 or arguments.allow_model:
        raise InvalidRequestError(
            "workers serve one model, which is loaded at once.",
            remedy="Start a server for each model, or leave --workers out.",
        )
    layout = Layout.parse(arguments.layout) if arguments.layout else Layout.of(arguments.workers)
    variable = device_variable(os.environ, has_rocm=_has_rocm())
    token = secrets.token_urlsafe(32)
    command = (sys.executable, "-m", "dcmodel", "serve", *worker_arguments(arguments))
    setup = BalancerSetup(
        host=arguments.host,
        port=arguments.port,
        server=settings_of(arguments),
        balancer=balancer_settings(arguments),
        worker_token=token,
        commands=tuple(
            WorkerCommand(command, {**os.environ, **own, "DCMODEL_TOKEN": token})
            for own in layout.environments(os.environ, cores=os.cpu_count() or 1, variable=variable)
        ),
        served_name=names[0],
        tls=tls_of(arguments),
        drain_seconds=arguments.drain_seconds,
    )
    output.note(f"starting {layout.workers} workers ...")
    return run(setup, arguments, output)


def worker_arguments(arguments: argparse.Namespace) -> list[str]:
    """The model and its options, as a worker is given them."""
    found = list(arguments.models)
    for name in PASSED_ON:
        if (value := getattr(arguments, name)) is not None:
            found += [f"--{name.replace('_', '-')}", str(value)]
    for option in arguments.option:
        found += ["--option", option]
    for adapter in arguments.adapter:
        found += ["--adapter", adapter]
    for folder in arguments.allow_mounting:
        found += ["--allow-mounting", folder]
    if arguments.warm_up:
        found.append("--warm-up")
    return [*found, *AS_WORKER]


def _has_rocm() -> bool:
    return Path("/dev/kfd").exists() and not Path("/dev/nvidiactl").exists()
