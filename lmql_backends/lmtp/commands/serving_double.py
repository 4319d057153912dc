"""`dcmodel serve --limits NAME --faults FILE`: the server as the double of another endpoint."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from dcmodel.errors import InvalidRequestError

if TYPE_CHECKING:
    from lmql_backends.lmtp.server.openai.double import Double


def add_double_arguments(parser: argparse.ArgumentParser) -> None:
    """Limits, rates and faults of the OpenAI-compatible routes."""
    group = parser.add_argument_group(
        "double",
        "the OpenAI-compatible routes with another server's limits and faults, to test programs with",
    )
    group.add_argument(
        "--limits", metavar="NAME|FILE", help="openai, vllm, sglang, llamacpp, open, or a file of JSON"
    )
    group.add_argument("--rpm", metavar="N", type=int, help="requests per minute, of each model")
    group.add_argument("--tpm", metavar="N", type=int, help="tokens per minute, of each model")
    group.add_argument("--faults", metavar="FILE", help="a plan of faults, as JSON")


def wants_double(arguments: argparse.Namespace) -> bool:
    return any(getattr(arguments, name) is not None for name in ("limits", "rpm", "tpm", "faults"))


def double_of(arguments: argparse.Namespace) -> Double | None:
    """None where none is asked for. Raises `InvalidRequestError` for what is no limit or plan."""
    if not wants_double(arguments):
        return None
    if arguments.workers is not None or arguments.layout is not None:
        raise InvalidRequestError(
            "limits and faults do not go with workers.", remedy="Leave --workers and --layout out."
        )
    from lmql_backends.lmtp.server.openai.double.reading import double_from

    return double_from(
        arguments.limits,
        arguments.faults,
        requests_per_minute=arguments.rpm,
        tokens_per_minute=arguments.tpm,
    )
