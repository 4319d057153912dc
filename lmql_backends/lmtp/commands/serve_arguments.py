"""What `dcmodel serve` can be told, and what that means."""

from __future__ import annotations

import argparse
import os
import ssl
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from dcmodel.errors import InvalidRequestError, MissingDependencyError, SetupError

if TYPE_CHECKING:
    from dcmodel.llm import LLM
    from lmql_backends.lmtp.server.on_demand import Source
    from lmql_backends.lmtp.server.settings import ServerSettings

PORT = 8080
"""Where LMQL's clients look for a server."""
DISTRIBUTIONS = ("uvicorn", "websockets", "h11", "prometheus-client")
TOKEN_VARIABLE = "DCMODEL_TOKEN"
MIB, GIB = 1 << 20, 1 << 30


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which models, and how they are loaded."""
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        help="path, Hub id or file, loaded at once; NAME=MODEL: served as NAME (default: the embedded one)",
    )
    group = parser.add_argument_group("models", "how to load them holds for all of them")
    group.add_argument(
        "--allow-model",
        metavar="M",
        action="append",
        default=[],
        help="loaded when it is asked for (repeat it)",
    )
    group.add_argument("--max-models", metavar="N", type=int, help="loaded at a time (default: all)")
    group.add_argument("--memory", metavar="GB", type=float, help="of all loaded models (default: no limit)")
    group.add_argument(
        "--warm-up", action="store_true", help="generate a few tokens before a model counts as ready"
    )
    group.add_argument(
        "--adapter",
        metavar="MODEL:NAME=PATH",
        action="append",
        default=[],
        help="LoRA adapter, mounted when its model is loaded; without MODEL: on the first one (repeat it)",
    )
    group.add_argument("--backend", metavar="B", help="see `dcmodel backends`")
    group.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps")
    group.add_argument("--dtype", metavar="T", help="float32, bfloat16, float16")
    group.add_argument("--max-context", metavar="N", type=int, help="longest sequence in tokens")
    group.add_argument(
        "--option", metavar="K=V", action="append", default=[], help="of the backend (repeat it)"
    )


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Where it listens, and to whom."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "--host", metavar="H", default="127.0.0.1", help="default: 127.0.0.1, this machine alone"
    )
    group.add_argument(
        "--port", metavar="P", type=int, default=PORT, help=f"default: {PORT}; 0: any free one"
    )
    group.add_argument("--token-file", metavar="FILE", help="clients must send the token in its first line")
    group.add_argument("--insecure", action="store_true", help="let other machines in without a token")
    group.add_argument("--tls-cert", metavar="FILE", help="certificate chain (PEM)")
    group.add_argument("--tls-key", metavar="FILE", help="its key, if that is in another file")
    group.add_argument(
        "--allow-host", metavar="NAME", action="append", default=[], help="a name of this server"
    )
    group.add_argument(
        "--allow-origin", metavar="URL", action="append", default=[], help="pages that may use it; *: all"
    )

    group.add_argument(
        "--allow-mounting",
        metavar="FOLDER",
        action="append",
        default=[],
        help="clients may mount adapters from this folder, and unmount any (repeat it)",
    )


def add_limit_arguments(parser: argparse.ArgumentParser) -> None:
    """How much, how long, and what is said about it."""
    group = parser.add_argument_group("limits and logs")
    group.add_argument("--max-connections", metavar="N", type=int, default=1024)
    group.add_argument("--max-streams", metavar="N", type=int, default=1024, help="open ones on a connection")
    group.add_argument("--max-requests", metavar="N", type=int, default=1024, help="over HTTP, at a time")
    group.add_argument("--max-body", metavar="MIB", type=int, default=16, help="of an HTTP request")
    group.add_argument("--max-frame", metavar="MIB", type=int, default=4, help="of a websocket")
    group.add_argument(
        "--drain-seconds", metavar="S", type=float, default=30.0, help="for what runs at the end"
    )
    group.add_argument("--log-format", choices=("text", "json"), default="text")
    group.add_argument("--quiet", action="store_true", help="no line for each request")
    group.add_argument(
        "--until-stdin-closes", action="store_true", help="end when standard input does, as a child process"
    )


def check_installed() -> None:
    """Raises `MissingDependencyError` where a package for serving is missing."""
    missing = [name for name in DISTRIBUTIONS if not _is_installed(name)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise MissingDependencyError(
            f"serving needs {' and '.join(missing)}, which {verb} not installed.",
            remedy='Run: pip install "dcmodel[serve]"',
        )


def settings_of(arguments: argparse.Namespace) -> ServerSettings:
    """Raises `InvalidRequestError` for a bad value."""
    from lmql_backends.lmtp.server.limits import ConnectionLimits
    from lmql_backends.lmtp.server.settings import ServerSettings

    for name in ("max_connections", "max_streams", "max_requests", "max_body", "max_frame"):
        if getattr(arguments, name) < 1:
            option = name.replace("_", "-")
            raise InvalidRequestError(f"--{option} is {getattr(arguments, name)}.", remedy="Give at least 1.")
    return ServerSettings(
        token=_token(arguments),
        insecure=arguments.insecure,
        allowed_hosts=tuple(arguments.allow_host),
        allowed_origins=tuple(arguments.allow_origin),
        max_connections=arguments.max_connections,
        max_requests=arguments.max_requests,
        max_body_bytes=arguments.max_body * MIB,
        limits=ConnectionLimits(
            max_streams=arguments.max_streams,
            max_frame_bytes=arguments.max_frame * MIB,
            mount_from=_folders(arguments.allow_mounting),
        ),
    )


def sources_of(arguments: argparse.Namespace) -> dict[str, Source]:
    """The models by the names under which they are served, the default first."""
    from dcmodel.registry import EMBEDDED
    from lmql_backends.lmtp.server.model_sizes import file_bytes
    from lmql_backends.lmtp.server.on_demand import Source

    given = arguments.models or (
        [] if arguments.allow_model else [os.environ.get("DCMODEL_MODEL") or EMBEDDED]
    )
    models: dict[str, str] = {}
    for argument in (*given, *arguments.allow_model):
        name, model = _name_and_model(argument)
        if name in models:
            raise InvalidRequestError(
                f"two models have the name {name!r}.", remedy="Give them names: NAME=MODEL."
            )
        models[name] = model
    adapters = _adapters(arguments.adapter, list(models))
    return {
        name: Source(
            open=partial(_open, arguments, model),
            is_pinned=place < len(given),
            size=partial(file_bytes, model),
            adapters=adapters[name],
        )
        for place, (name, model) in enumerate(models.items())
    }


def memory_of(arguments: argparse.Namespace) -> int | None:
    """Bytes for all loaded models. Raises `InvalidRequestError`."""
    if arguments.memory is None:
        return None
    if not arguments.memory > 0:
        raise InvalidRequestError(f"--memory is {arguments.memory}.", remedy="Give gigabytes, as in 16.")
    return int(arguments.memory * GIB)


def tls_of(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    """Raises `SetupError` for files that do not work."""
    if arguments.tls_cert is None:
        if arguments.tls_key is not None:
            raise InvalidRequestError("--tls-key needs --tls-cert, too.")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(arguments.tls_cert, arguments.tls_key)
    except OSError as error:  # an SSLError is one
        raise SetupError(
            f"the certificate {arguments.tls_cert!r} cannot be used: {error.strerror or error}.",
            remedy="Give --tls-cert and --tls-key as PEM files that belong together.",
        ) from error
    return context


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _token(arguments: argparse.Namespace) -> str | None:
    if arguments.token_file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        lines = Path(arguments.token_file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidRequestError(
            f"--token-file {arguments.token_file!r} cannot be read: {reason}.", remedy="Check the path."
        ) from error
    return lines[0].strip() if lines else ""


def _name_and_model(argument: str) -> tuple[str, str]:
    name, equals, model = argument.partition("=")
    if not equals or Path(argument).exists():
        return argument, argument
    if not name or not model:
        raise InvalidRequestError(f"{argument!r} names no model.", remedy="Write it as NAME=MODEL.")
    return name, model


def _adapters(given: list[str], models: list[str]) -> dict[str, dict[str, str]]:
    """Where each adapter is, by model and by its name."""
    from dcmodel.adapters import check_adapter_name

    found: dict[str, dict[str, str]] = {model: {} for model in models}
    for argument in given:
        names, _, path = argument.partition("=")
        model, colon, name = names.rpartition(":")
        model = model if colon else models[0]
        if not path or model not in found:
            raise InvalidRequestError(
                f"--adapter {argument!r} names {'no path' if not path else f'no model {model!r}'}.",
                remedy=f"Write it as MODEL:NAME=PATH; models are {', '.join(models)}.",
            )
        check_adapter_name(name)
        if name in found[model]:
            raise InvalidRequestError(f"the model {model!r} gets two adapters {name!r}.")
        found[model][name] = path
    return found


def _folders(given: list[str]) -> tuple[Path, ...]:
    folders = tuple(Path(folder).expanduser() for folder in given)
    for folder in folders:
        if not folder.is_dir():
            raise InvalidRequestError(
                f"--allow-mounting {str(folder)!r} is no folder.", remedy="Give a folder that holds adapters."
            )
    return folders


def _open(arguments: argparse.Namespace, model: str) -> LLM:
    from dcmodel.cli.arguments import open_llm

    return open_llm(argparse.Namespace(**{**vars(arguments), "model": model}))
