"""`dcmodel score`: how likely the model finds each continuation."""

from __future__ import annotations

import argparse
from typing import Any

from dcmodel.cli.arguments import add_model_arguments, new_command, open_llm, read_prompt
from dcmodel.cli.output import Output

EPILOG = """example:
  dcmodel score "3 + 4 =" " 7" " 8" " 12\""""


def add_parser(commands: Any) -> None:
    parser = new_command(
        commands, "score", execute, summary="Log-probabilities of continuations of a prompt.", epilog=EPILOG
    )
    parser.add_argument("prompt", metavar="PROMPT", help="the prompt; - reads standard input")
    parser.add_argument("continuations", metavar="CONTINUATION", nargs="+")
    add_model_arguments(parser)


def execute(arguments: argparse.Namespace, output: Output) -> int:
    from dcmodel.cli.encode import scored_to_list

    with open_llm(arguments) as llm:
        results = llm.score(read_prompt(arguments.prompt), arguments.continuations)
    if arguments.json:
        output.json({"results": scored_to_list(results)})
    else:
        rows = [(f"{item.logprob:.4f}", f"{item.probability:.4g}", repr(item.text)) for item in results]
        output.table(("logprob", "probability", "text"), rows)
    return 0
