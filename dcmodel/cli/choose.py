"""`dcmodel choose`: the likeliest of some options, with a probability for each."""

from __future__ import annotations

import argparse
from typing import Any, Literal

from dcmodel.cli.arguments import (
    adapter_name,
    add_adapter_argument,
    add_model_arguments,
    new_command,
    open_llm,
    read_prompt,
)
from dcmodel.cli.output import Output

EPILOG = """examples:
  printf 'Review: I love it.\\nSentiment:' | dcmodel choose - " positive" " negative"
  dcmodel choose "Q: What is red?\\nA:" " blood" " yes" --normalizer pmi --unconditional "A:\""""

END_OF_TEXT: dict[str, bool | Literal["auto"]] = {"auto": "auto", "yes": True, "no": False}


def add_parser(commands: Any) -> None:
    parser = new_command(commands, "choose", execute, summary="The likeliest of some options.", epilog=EPILOG)
    parser.add_argument("prompt", metavar="PROMPT", help="the prompt; - reads standard input")
    parser.add_argument("options", metavar="OPTION", nargs="+")
    parser.add_argument(
        "--normalizer",
        choices=("sum", "mean", "byte", "pmi"),
        default="sum",
        help="weigh options by the sum of their tokens' log-probabilities (default), by its mean per token "
        "or per UTF-8 byte, or by pmi: the sum less that after the --unconditional prompt",
    )
    parser.add_argument("--unconditional", metavar="PROMPT", help="the prompt that pmi compares with")
    parser.add_argument(
        "--end-of-text",
        choices=tuple(END_OF_TEXT),
        default="auto",
        help="whether the text's end counts to each option; auto: where one option begins another",
    )
    add_model_arguments(parser)
    add_adapter_argument(parser)


def execute(arguments: argparse.Namespace, output: Output) -> int:
    from dcmodel.cli.encode import scored_to_list

    with open_llm(arguments) as llm:
        choice = llm.choose(
            read_prompt(arguments.prompt),
            arguments.options,
            normalizer=arguments.normalizer,
            unconditional=arguments.unconditional,
            end_of_text=END_OF_TEXT[arguments.end_of_text],
            adapter=adapter_name(arguments),
        )
    if arguments.json:
        output.json(
            {
                "text": choice.text,
                "index": choice.index,
                "normalizer": choice.normalizer,
                "ended": choice.ended,
                "results": scored_to_list(choice.results),
            }
        )
    else:
        ended = choice.ended
        rows = [
            (
                f"{item.probability:.4f}",
                f"{item.logprob:.4f}",
                *([f"{item.end_logprob:.4f}"] if ended else []),
                repr(item.text),
            )
            for item in choice.ranked
        ]
        output.table(("probability", "logprob", *(["end"] if ended else []), "text"), rows)
    return 0
