"""`dcmodel serve`: models behind a port."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from dcmodel.cli.output import Output
from lmql_backends.lmtp.commands.serve_arguments import (
    add_limit_arguments,
    add_model_arguments,
    add_network_arguments,
    check_installed,
    memory_of,
    settings_of,
    sources_of,
    tls_of,
)
from lmql_backends.lmtp.commands.serving_double import add_double_arguments, double_of
from lmql_backends.lmtp.commands.serving_ray import add_ray_arguments, serve_ray, wants_ray
from lmql_backends.lmtp.commands.serving_workers import add_worker_arguments, serve_workers, wants_workers

if TYPE_CHECKING:
    from lmql_backends.lmtp.server.openai.double import Double
    from lmql_backends.lmtp.server.server import LMTPServer

EPILOG = """examples:
  dcmodel serve                                     the embedded model at 127.0.0.1:8080
  dcmodel serve path/to/model --port 9000
  dcmodel serve chat=org/model small=model.gguf     two models, under names of their own
  dcmodel serve --allow-model a=org/a --allow-model b=org/b --max-models 1
                                                    loaded when they are asked for, one at a time
  dcmodel serve --allow-model a=org/a --allow-model b=org/b --memory 16 --warm-up
                                                    as many as fit 16 GB
  dcmodel serve base=path/to/model --adapter base:law=path/to/adapter
                                                    asked for as base:law, or law
  dcmodel serve path/to/model --workers 4           four processes and a balancer before them
  dcmodel serve path/to/model --ray --autoscale 1:4 as an application of Ray Serve
  dcmodel serve --limits openai --faults plan.json  a strict OpenAI that fails as planned
  dcmodel serve --host 0.0.0.0 --token-file token.txt --tls-cert cert.pem --tls-key key.pem

clients:
  LLM("lmtp://127.0.0.1:8080"), any OpenAI client with the base URL http://127.0.0.1:8080/v1, and
  LMQL's own client (endpoint "127.0.0.1:8080").

The token is read from --token-file or from DCMODEL_TOKEN. SIGTERM and Ctrl-C let what runs come to its end
(--drain-seconds); a second one ends the server at once."""


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve",
        aliases=["start"],
        help="Serve models: LMTP, OpenAI-compatible routes, metrics.",
        description="Serve models: LMTP, OpenAI-compatible routes, metrics.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print where it serves as one JSON object")
    add_model_arguments(parser)
    add_network_arguments(parser)
    add_limit_arguments(parser)
    add_worker_arguments(parser)
    add_ray_arguments(parser)
    add_double_arguments(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace, output: Output) -> int:
    check_installed()
    import asyncio

    from lmql_backends.lmtp.server.logs import log_no_more, log_to

    settings_of(arguments).check_exposure(arguments.host)
    if wants_ray(arguments):
        return serve_ray(arguments, output)
    double = double_of(arguments)
    if wants_workers(arguments):
        return serve_workers(arguments, output)
    level = logging.WARNING if arguments.quiet else logging.INFO
    handler = log_to(output.err, arguments.log_format, level)
    try:
        return asyncio.run(_serve(arguments, output, double))
    finally:
        log_no_more(handler)


async def _serve(arguments: argparse.Namespace, output: Output, double: Double | None) -> int:
    from lmql_backends.lmtp.server.on_demand import OnDemandModels
    from lmql_backends.lmtp.server.run import Ending, run_server
    from lmql_backends.lmtp.server.server import LMTPServer

    sources = sources_of(arguments)
    models = OnDemandModels(
        sources,
        max_models=arguments.max_models or len(sources),
        max_bytes=memory_of(arguments),
        warm_up=arguments.warm_up,
    )
    server = LMTPServer(
        models,
        host=arguments.host,
        port=arguments.port,
        settings=settings_of(arguments),
        tls=tls_of(arguments),
        is_ready=lambda: models.is_ready,
        double=double,
    )
    ending = await run_server(
        server,
        load=models.load_pinned,
        announce=lambda: _announce(server, arguments, output),
        drain_seconds=arguments.drain_seconds,
        parent_pipe=sys.stdin.fileno() if arguments.until_stdin_closes else None,
    )
    if ending is Ending.UNLOADED:
        # A thread is in the middle of loading, which nothing can interrupt and nobody needs.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    await models.aclose()
    return 0


def _announce(server: LMTPServer, arguments: argparse.Namespace, output: Output) -> None:
    names = list(server.models.names())
    if arguments.json:
        output.json({"url": server.url, "http_url": server.http_url, "port": server.port, "models": names})
        return
    output.line(f"Serving {', '.join(names)} at {server.http_url} (Ctrl-C ends it).")
    token = ' -H "authorization: Bearer $DCMODEL_TOKEN"' if server.settings.token is not None else ""
    output.line(f'Try: dcmodel generate --model {server.url} "3 + 4 =" --max-tokens 5')
    output.line(
        f" or: curl {server.http_url}/v1/completions{token} -H 'content-type: application/json'"
        f' -d \'{{"model": "{names[0]}", "prompt": "3 + 4 =", "max_tokens": 5}}\''
    )
