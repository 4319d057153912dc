"""`dcmodel explain`: where a text leaves a constraint, and what was expected there."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from dcmodel.cli.arguments import (
    add_constraint_arguments,
    add_model_arguments,
    constraint_of,
    new_command,
    open_llm,
    read_prompt,
)
from dcmodel.cli.output import Output

if TYPE_CHECKING:
    from dctokenizers import Tokenizer

EPILOG = """examples:
  dcmodel explain --regex "[0-9]{3}-[0-9]{4}" "555-12a4"
  dcmodel explain --json-schema person.json - < answer.json

Exit code 0 if the text matches, 1 if not. Only the model's tokenizer is loaded."""


def add_parser(commands: Any) -> None:
    summary = "Where a text leaves a constraint, and what was expected there."
    parser = new_command(commands, "explain", execute, summary=summary, epilog=EPILOG)
    parser.add_argument("text", metavar="TEXT", help="the text; - reads standard input")
    add_constraint_arguments(parser)
    add_model_arguments(parser)
    parser.set_defaults(usage_error=parser.error)


def execute(arguments: argparse.Namespace, output: Output) -> int:
    from dcmodel.constraints.explain_text import explain_text

    constraint = constraint_of(arguments)
    if constraint is None:
        arguments.usage_error("give a constraint: --regex, --json-schema, --grammar, --choice or another")
        return 2
    explanation = explain_text(constraint, read_prompt(arguments.text), _tokenizer(arguments))
    matches = explanation.status == "match"
    if arguments.json:
        output.json(
            {
                "matches": matches,
                "status": explanation.status,
                "reason": explanation.reason,
                "position": explanation.position,
                "line": explanation.line,
                "column": explanation.column,
                "expected": list(explanation.expected),
                "allowed_tokens": explanation.allowed_count,
            }
        )
    else:
        if not matches:
            output.line(explanation.pointer)
        count = explanation.allowed_count
        output.line(explanation.reason[:1].upper() + explanation.reason[1:])
        output.line(f"{count} token{'' if count == 1 else 's'} of the vocabulary may come next.")
    return 0 if matches else 1


def _tokenizer(arguments: argparse.Namespace) -> Tokenizer:
    """The model's tokenizer; the model itself is loaded only where there is no other way to it."""
    from dcmodel.registry import EMBEDDED, Registry
    from dctokenizers import TokenizerError, load

    llm = open_llm(arguments)
    if llm.name == EMBEDDED:
        return load(Registry().embedded_path())
    try:
        return load(llm.name)
    except TokenizerError:
        with llm:
            return llm.tokenizer
