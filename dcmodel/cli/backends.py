"""`dcmodel backends`: what is installed, what each can do, and which one would be used."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from dcmodel.cli.arguments import backend_option, new_command
from dcmodel.cli.output import Output

if TYPE_CHECKING:
    from dcmodel.choice import BackendStatus, Decision
    from dcmodel.env import Settings
    from dcmodel.registry import Registry


def add_parser(commands: Any) -> None:
    parser = new_command(
        commands, "backends", execute, summary="Backends, what they guarantee, and which one is used."
    )
    parser.add_argument(
        "name", metavar="MODEL", nargs="?", help="choose for this model (default: DCMODEL_MODEL, or embedded)"
    )
    parser.add_argument("--model", metavar="M", help="the same")
    parser.add_argument("--backend", metavar="B", help="as if this one were asked for")
    parser.add_argument(
        "--probe", metavar="M", help="find out what this model's endpoint can do: openai:NAME"
    )
    parser.add_argument(
        "--option", metavar="K=V", action="append", default=[], help="for --probe: base_url=... (repeat it)"
    )


def execute(arguments: argparse.Namespace, output: Output) -> int:
    from dcmodel.env import Settings
    from dcmodel.registry import EMBEDDED, Registry

    settings = Settings.from_environ()
    registry = Registry()
    if arguments.probe is not None:
        return _probe(arguments.probe, arguments, registry, settings, output)
    statuses = [registry.status(name) for name in registry.names()]
    model = arguments.name or arguments.model or settings.model or EMBEDDED
    decision = registry.choose(model, explicit=arguments.backend, settings=settings)
    if arguments.json:
        output.json(
            {
                "backends": [_encoded(status) for status in statuses],
                "model": model,
                "chosen": decision.backend,
                "reasons": [reason.text for reason in decision.reasons],
                "next": [reason.next_command for reason in decision.reasons if reason.next_command],
            }
        )
        return 0
    output.table(("backend", "state", "runs"), [_row(status) for status in statuses])
    for status in statuses:
        _describe(status, output)
    output.line()
    _show(model, decision, output)
    return 0


def _show(model: str, decision: Decision, output: Output) -> None:
    output.line(f"{model} would run on {decision.backend}:")
    for reason in decision.reasons:
        output.line(f"  {reason.text}")
        if reason.next_command:
            output.line(f"    next: {reason.next_command}")


def _probe(
    model: str, arguments: argparse.Namespace, registry: Registry, settings: Settings, output: Output
) -> int:
    from dcmodel.backend import LoadOptions

    backend = registry.backend(registry.choose(model, settings=settings).backend)
    options = LoadOptions(extra=dict(map(backend_option, arguments.option)))
    found = backend.probe(model, options)
    if arguments.json:
        output.json({"model": model, "backend": backend.name, "capabilities": dict(found)})
    else:
        output.table(("capability", model), list(found.items()))
    return 0


def state(status: BackendStatus) -> str:
    if status.backend is None:
        return "broken"
    return "ready" if status.is_ready else "not installed"


def _row(status: BackendStatus) -> tuple[str, str, str]:
    return status.name, state(status), status.backend.summary if status.backend else ""


def _describe(status: BackendStatus, output: Output) -> None:
    output.line()
    output.line(f"{status.name} (from {status.source})")
    if status.backend is None:
        output.line(f"  {status.error}")
        output.line("    next: dcmodel doctor")
        return
    for guarantee, value in status.backend.guarantees.items():
        output.line(f"  {guarantee}: {value}")
    if status.missing:
        output.line(f"  missing: {', '.join(status.missing)}")
        output.line(f"    next: {status.install}")


def _encoded(status: BackendStatus) -> dict[str, Any]:
    from dcmodel.choice import pip_line

    backend = status.backend
    return {
        "name": status.name,
        "state": state(status),
        "source": status.source,
        "summary": backend.summary if backend else "",
        "guarantees": dict(backend.guarantees) if backend else {},
        "missing": list(status.missing),
        "install": pip_line(backend) if backend else "",
        "error": status.error,
    }
