"""`dcmodel serve --ray`: the same server on the machines of a Ray cluster. The package that does it registers
under the entry points ``dcmodel.serving``."""

from __future__ import annotations

import argparse
from importlib import metadata

from dcmodel.cli.output import Output
from dcmodel.errors import InvalidRequestError, MissingDependencyError
from lmql_backends.lmtp.commands.serving_workers import wants_workers

GROUP = "dcmodel.serving"
REFUSED = ("allow_model", "max_models", "tls_cert", "tls_key", "limits", "faults")
"""Options that mean nothing there."""


def add_ray_arguments(parser: argparse.ArgumentParser) -> None:
    """Where it runs, and how many there are."""
    group = parser.add_argument_group(
        "Ray", 'on one machine or many, by Ray Serve: pip install "dcmodel[ray]"'
    )
    group.add_argument("--ray", action="store_true", help="serve one model as an application of Ray Serve")
    group.add_argument("--ray-address", metavar="A", help="a cluster that runs already: auto, or HOST:PORT")
    group.add_argument("--replicas", metavar="N", type=int, help="of the model (default: 1)")
    group.add_argument("--autoscale", metavar="MIN:MAX", help="as many as the load asks for")
    group.add_argument("--streams-per-replica", metavar="N", type=float, help="what --autoscale aims at (16)")
    group.add_argument("--ingress-replicas", metavar="N", type=int, help="of the server (default: 1)")
    group.add_argument("--gpus", metavar="N", type=float, help="of a replica of the model (default: 0)")
    group.add_argument("--cpus", metavar="N", type=float, help="of a replica of the model (default: 1)")


def wants_ray(arguments: argparse.Namespace) -> bool:
    """Raises `InvalidRequestError` for options that need --ray, or do not go with it."""
    own = ("ray_address", "replicas", "autoscale", "streams_per_replica", "ingress_replicas", "gpus", "cpus")
    given = [name for name in own if getattr(arguments, name) is not None]
    if not arguments.ray and given:
        raise InvalidRequestError(f"{_option(given[0])} is for Ray.", remedy="Give --ray, too.")
    if not arguments.ray:
        return False
    refused = [name for name in REFUSED if getattr(arguments, name, None)]
    if wants_workers(arguments):
        refused.append("workers")
    if refused:
        raise InvalidRequestError(
            f"{_option(refused[0])} does not go with --ray.", remedy="See docs/operations.md, “A cluster”."
        )
    return True


def serve_ray(arguments: argparse.Namespace, output: Output) -> int:
    """Until a signal. Raises `MissingDependencyError` where nothing is registered that could."""
    found = {entry.name: entry for entry in metadata.entry_points(group=GROUP)}
    if "ray" not in found:
        raise MissingDependencyError(
            "this installation of dcmodel registers nothing for --ray.",
            remedy='Run: pip install "dcmodel[ray]"',
        )
    code: int = found["ray"].load().serve(arguments, output)
    return code


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
