"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcmodel.adapters import check_adapter_name
from dcmodel.cli.output import Output
from dcmodel.errors import InvalidRequestError

if TYPE_CHECKING:
    from dcmodel.constraint import Constraint
    from dcmodel.llm import LLM

Execute = Callable[[argparse.Namespace, Output], int]
Commands = argparse._SubParsersAction  # argparse has no public name for it


def new_command(
    commands: Any, name: str, execute: Execute, *, summary: str, epilog: str = ""
) -> argparse.ArgumentParser:
    """A subcommand with ``--json``, bound to the function that runs it."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(execute=execute)
    return parser


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and how to run it; not given means the environment, then the default."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="M", help="path or Hub id (default: the embedded model)")
    group.add_argument("--backend", metavar="B", help="see `dcmodel backends`")
    group.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps")
    group.add_argument("--dtype", metavar="T", help="float32, bfloat16, float16")
    group.add_argument("--max-context", metavar="N", type=int, help="longest sequence in tokens")
    group.add_argument(
        "--option",
        metavar="K=V",
        action="append",
        default=[],
        help="an option of the backend's own loader: n_threads=4, type_k=q8_0, revision=main (repeat it)",
    )


def add_adapter_argument(parser: argparse.ArgumentParser) -> None:
    """Which adapter the command asks the model through."""
    parser.add_argument(
        "--adapter",
        dest="adapter_source",
        metavar="NAME[=SOURCE]",
        help="ask through this adapter (LoRA), mounted from SOURCE: a folder, a file, a Hub id",
    )


def adapter_name(arguments: argparse.Namespace) -> str | None:
    """The name in ``--adapter NAME[=SOURCE]``."""
    given: str | None = arguments.adapter_source
    return None if given is None else given.partition("=")[0]


def _adapters(arguments: argparse.Namespace) -> dict[str, str]:
    """What is to be mounted; not every command has the argument."""
    given: str | None = getattr(arguments, "adapter_source", None)
    if given is None:
        return {}
    name, equals, source = given.partition("=")
    if not name or (equals and not source):
        raise InvalidRequestError(
            f"--adapter {given!r} has no {'source' if name else 'name'}.",
            remedy="Write it as NAME=FOLDER: --adapter mine=./my-lora.",
        )
    check_adapter_name(name)
    return {name: source} if equals else {}


def add_constraint_arguments(parser: argparse.ArgumentParser) -> None:
    """Rules for the text; of several, all must hold."""
    group = parser.add_argument_group("constraint", "of several, all must hold")
    group.add_argument("--regex", metavar="R", help="the text matches this regular expression")
    group.add_argument("--json-schema", metavar="S", help="JSON for this schema (a file, or the text)")
    group.add_argument("--grammar", metavar="FILE", help="the text is in this Lark grammar")
    group.add_argument("--choice", metavar="A", action="append", help="one of these (repeat it)")
    group.add_argument("--type", metavar="T", help="a value: int, float, bool, date, email, uuid, ipv4 ...")
    group.add_argument("--not-in", metavar="P", action="append", help="without this phrase (repeat it)")
    group.add_argument("--constraint", metavar="FILE", help="any constraint, as `constraints.to_json`")


def constraint_of(arguments: argparse.Namespace) -> Constraint | None:
    """What the constraint arguments say together; None where there are none."""
    from dcmodel.constraints import from_json
    from dcmodel.llm.options import joined_constraint

    written = arguments.constraint and from_json(read_file(arguments.constraint, "--constraint"))
    return joined_constraint(
        {
            "constraint": written,
            "regex": arguments.regex,
            "json_schema": schema_text(arguments.json_schema),
            "grammar": arguments.grammar and read_file(arguments.grammar, "--grammar"),
            "choices": arguments.choice,
            "type": arguments.type,
            "not_in": arguments.not_in,
        }
    )


def schema_text(argument: str | None) -> str | None:
    """A schema is recognised by its first character; anything else names a file."""
    if argument is None or argument.lstrip()[:1] in ("{", "[") or argument.strip() in ("true", "false"):
        return argument
    return read_file(argument, "--json-schema")


def open_llm(arguments: argparse.Namespace) -> LLM:
    """The model that the arguments name; not loaded yet."""
    from dcmodel.llm import LLM

    llm = LLM(
        arguments.model,
        backend=arguments.backend,
        device=arguments.device,
        dtype=arguments.dtype,
        max_context=arguments.max_context,
        extra=dict(map(backend_option, arguments.option)),
        adapters=_adapters(arguments),
    )
    hide_loading_bar(llm)
    return llm


def backend_option(argument: str) -> tuple[str, Any]:
    """``name=value``; a value that is JSON (a number, true, a list) is that, any other is a text."""
    name, equals, value = argument.partition("=")
    if not name or not equals:
        raise InvalidRequestError(
            f"--option {argument!r} has no value.", remedy="Write it as name=value: --option n_threads=4."
        )
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def hide_loading_bar(llm: LLM) -> None:
    """No bar for the embedded model, which loads in a moment.

    Hugging Face's libraries read the variable when they are imported, which has not happened yet.
    """
    from dcmodel.registry import EMBEDDED

    if llm.name == EMBEDDED:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def read_prompt(argument: str) -> str:
    """The argument itself; for ``-`` standard input, less the newline that shells put at its end."""
    if argument != "-":
        return argument
    return sys.stdin.read().removesuffix("\n")


def read_file(path: str, option: str) -> str:
    """A file's text; ``-`` is standard input."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidRequestError(
            f"{option} {path!r} cannot be read: {reason}.", remedy="Check the path."
        ) from error
