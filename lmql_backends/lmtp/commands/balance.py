"""`dcmodel balance`: one server before many that serve the same model."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcmodel.cli.arguments import new_command
from dcmodel.cli.output import Output
from dcmodel.errors import InvalidRequestError
from lmql_backends.lmtp.commands.serve_arguments import (
    add_limit_arguments,
    add_network_arguments,
    check_installed,
    settings_of,
    tls_of,
)

if TYPE_CHECKING:
    from lmql_backends.lmtp.balancer.model import BalancedDcModel
    from lmql_backends.lmtp.balancer.serving import BalancerSetup
    from lmql_backends.lmtp.balancer.settings import BalancerSettings
    from lmql_backends.lmtp.server.server import LMTPServer

EPILOG = """examples:
  dcmodel balance 10.0.0.5:8080 10.0.0.6:8080 --port 8090
  dcmodel balance 10.0.0.5:8080 --host 0.0.0.0 --token-file token.txt --worker-token-file workers.txt

workers at run time:
  curl localhost:8090/workers
  curl localhost:8090/workers -d '{"address": "10.0.0.7:8080"}'     join
  curl -X DELETE localhost:8090/workers/10.0.0.5:8080               drain and leave
"""


def add_parser(commands: Any) -> None:
    parser = new_command(
        commands,
        "balance",
        execute,
        summary="Serve one model through many workers: streams go on elsewhere when one is lost.",
        epilog=EPILOG,
    )
    parser.add_argument("workers", metavar="HOST:PORT", nargs="+", help="a server of the model")
    parser.add_argument("--model", metavar="NAME", default="", help="what workers and clients call the model")
    parser.add_argument("--worker-token-file", metavar="FILE", help="what workers want (default: the same)")
    add_balancer_arguments(parser)
    add_network_arguments(parser)
    add_limit_arguments(parser)


def add_balancer_arguments(parser: argparse.ArgumentParser) -> None:
    """How requests are spread; also for `dcmodel serve --workers`."""
    group = parser.add_argument_group("balancer")
    group.add_argument("--streams-per-worker", metavar="N", type=int, default=256, help="requests at a time")
    group.add_argument("--max-waiting", metavar="N", type=int, default=1024, help="requests that may wait")


def execute(arguments: argparse.Namespace, output: Output) -> int:
    check_installed()
    from lmql_backends.lmtp.balancer.routes import checked_address
    from lmql_backends.lmtp.balancer.serving import BalancerSetup

    server = settings_of(arguments)
    setup = BalancerSetup(
        host=arguments.host,
        port=arguments.port,
        server=server,
        balancer=balancer_settings(arguments),
        worker_token=_worker_token(arguments.worker_token_file) or server.token,
        worker_model=arguments.model,
        addresses=tuple(dict.fromkeys(map(checked_address, arguments.workers))),
        served_name=arguments.model,
        tls=tls_of(arguments),
        drain_seconds=arguments.drain_seconds,
    )
    output.note(f"waiting for the first of {len(setup.addresses)} workers ...")
    return run(setup, arguments, output)


def run(setup: BalancerSetup, arguments: argparse.Namespace, output: Output) -> int:
    """Serve until a signal."""
    import asyncio

    from lmql_backends.lmtp.balancer.serving import serve_balanced
    from lmql_backends.lmtp.server.logs import log_no_more, log_to

    def announce(server: LMTPServer, model: BalancedDcModel) -> None:
        names = list(server.models.names())
        if arguments.json:
            output.json(
                {"url": server.url, "http_url": server.http_url, "port": server.port, "models": names}
            )
            return
        output.line(f"Serving {names[0]} through a balancer at {server.http_url} (Ctrl-C ends it).")
        output.line(f'Try: dcmodel generate --model {server.url} "3 + 4 =" --max-tokens 5')
        output.line(f" or: curl {server.http_url}/workers")

    level = logging.WARNING if arguments.quiet else logging.INFO
    handler = log_to(output.err, arguments.log_format, level)
    try:
        asyncio.run(serve_balanced(setup, announce))
    finally:
        log_no_more(handler)
    return 0


def balancer_settings(arguments: argparse.Namespace) -> BalancerSettings:
    from lmql_backends.lmtp.balancer.settings import BalancerSettings

    return BalancerSettings(
        streams_per_worker=arguments.streams_per_worker,
        max_waiting=arguments.max_waiting,
        drain_seconds=arguments.drain_seconds,
    )


def _worker_token(path: str | None) -> str | None:
    """The first line of a file."""
    if path is None:
        return None
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(
            f"--worker-token-file {path!r} cannot be read: {error}.", remedy="Check the path."
        ) from error
    return lines[0].strip() if lines else None
