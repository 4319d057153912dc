"""The command `dcmodel`. Exit codes: 0 ok, 1 failed (one ``Error:`` line), 2 usage, 130 interrupted."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn

from dcmodel import __version__
from dcmodel.cli import backends, choose, demo, doctor, explain, generate, score, tokenize
from dcmodel.cli.output import Output
from dcmodel.errors import DcModelError, InvalidConstraintError, SetupError
from dcmodel.threads import wait_patiently

COMMANDS = (generate, score, choose, explain, tokenize, backends, doctor, demo)
COMMAND_GROUP = "dcmodel.commands"
"""Entry points of further commands: modules with an `add_parser` like those above."""
FAILED = 1
INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; heavy modules are imported when a command runs, not here."""
    parser = argparse.ArgumentParser(
        prog="dcmodel",
        description="Constrained generation and exact scores from any language model.",
        epilog='Try: dcmodel generate "3 + 4 =" --regex " [0-9]+"',
    )
    parser.add_argument("--version", action="version", version=f"dcmodel {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    for entry in sorted(metadata.entry_points(group=COMMAND_GROUP), key=lambda entry: entry.name):
        entry.load().add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (argparse exits with 2 by itself)."""
    arguments = build_parser().parse_args(argv)
    output = Output.standard()
    try:
        code: int = arguments.execute(arguments, output)
    except DcModelError as error:
        output.error(error_line(error))
        return FAILED
    except KeyboardInterrupt:
        output.error("Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`| head`); what the interpreter flushes at exit has nowhere to go either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def run() -> NoReturn:
    """The console script: `main`, and out."""
    wait_patiently()
    code = main()
    if code == INTERRUPTED:
        # Threads may be in the middle of native code, which does not survive the interpreter's own exit.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def error_line(error: DcModelError) -> str:
    """The error on one line, with what to do next; below it the place that it points at, if it does."""
    hint = "Run `dcmodel doctor`." if isinstance(error, SetupError) and not error.remedy else ""
    message, place = error.message, ""
    if isinstance(error, InvalidConstraintError) and error.position is not None:
        message, _, place = message.partition("\n")
    line = " ".join(f"Error: {message} {error.remedy} {hint}".split())
    return f"{line}\n{place.rstrip()}" if place else line
