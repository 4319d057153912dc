"""`dcmodel choose`: the likeliest of some options, with a probability for each."""

from __future__ import annotations

import argparse
from typing import Any

from dcmodel.cli.arguments import add_model_arguments, new_command, open_llm, read_prompt
from dcmodel.cli.output import Output

EPILOG = """example:
  printf 'Review: I love it.\\nSentiment:' | dcmodel choose - " positive" " negative\""""


def add_parser(commands: Any) -> None:
    parser = new_command(commands, "choose", execute, summary="The likeliest of some options.", epilog=EPILOG)
    parser.add_argument("prompt", metavar="PROMPT", help="the prompt; - reads standard input")
    parser.add_argument("options", metavar="OPTION", nargs="+")
    parser.add_argument(
        "--normalizer",
        choices=("sum", "mean"),
        default="sum",
        help="weigh options by the sum (default) or the mean of their tokens' log-probabilities",
    )
    add_model_arguments(parser)


def execute(arguments: argparse.Namespace, output: Output) -> int:
    from dcmodel.cli.encode import scored_to_list

    with open_llm(arguments) as llm:
        choice = llm.choose(read_prompt(arguments.prompt), arguments.options, normalizer=arguments.normalizer)
    if arguments.json:
        output.json(
            {
                "text": choice.text,
                "index": choice.index,
                "normalizer": choice.normalizer,
                "results": scored_to_list(choice.results),
            }
        )
    else:
        rows = [(f"{item.probability:.4f}", f"{item.logprob:.4f}", repr(item.text)) for item in choice.ranked]
        output.table(("probability", "logprob", "text"), rows)
    return 0
