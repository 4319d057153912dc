"""`dcmodel tokenize`: a text as the model's tokens."""

from __future__ import annotations

import argparse
from typing import Any

from dcmodel.cli.arguments import add_model_arguments, new_command, open_llm, read_prompt
from dcmodel.cli.output import Output


def add_parser(commands: Any) -> None:
    parser = new_command(commands, "tokenize", execute, summary="A text as the model's tokens.")
    parser.add_argument("text", metavar="TEXT", help="the text; - reads standard input")
    parser.add_argument(
        "--prompt", action="store_true", help="with what the model wants at the beginning of a text"
    )
    add_model_arguments(parser)


def execute(arguments: argparse.Namespace, output: Output) -> int:
    text = read_prompt(arguments.text)
    with open_llm(arguments) as llm:
        tokenizer = llm.tokenizer
        token_ids = tokenizer.encode_prompt(text) if arguments.prompt else tokenizer.encode(text)
        tokens = [tokenizer.token_bytes(token_id) for token_id in token_ids]
    if arguments.json:
        pieces = [token.decode(errors="backslashreplace") for token in tokens]
        output.json({"token_ids": list(token_ids), "tokens": pieces, "count": len(tokens)})
    else:
        rows = [(str(token_id), repr(token)[1:]) for token_id, token in zip(token_ids, tokens, strict=True)]
        output.table(("id", "bytes"), rows)
    return 0
