"""`dcmodel score`: how likely the model finds continuations of a prompt, or whole texts."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from dcmodel.cli.arguments import (
    adapter_name,
    add_adapter_argument,
    add_model_arguments,
    new_command,
    open_llm,
    read_file,
    read_prompt,
)
from dcmodel.cli.output import Output
from dcmodel.errors import InvalidRequestError

if TYPE_CHECKING:
    from dcmodel.llm import LLM

EPILOG = """examples:
  dcmodel score "3 + 4 =" " 7" " 8" " 12"
  dcmodel score "Q: What is red?\\nA:" " blood" " yes" --unconditional "A:"
  dcmodel score --rolling chapter1.txt chapter2.txt --json"""


def add_parser(commands: Any) -> None:
    parser = new_command(
        commands, "score", execute, summary="Log-probabilities of continuations of a prompt.", epilog=EPILOG
    )
    prompt = parser.add_argument("prompt", metavar="PROMPT", help="the prompt; - reads standard input")
    continuations = parser.add_argument("continuations", metavar="CONTINUATION", nargs="+")
    # "?" and "*" would end at the first option, and what comes after it would be one too many.
    prompt.required = continuations.required = False
    parser.add_argument(
        "--unconditional",
        metavar="PROMPT",
        help="a prompt to compare with: pmi is the log-probability less that after this one",
    )
    parser.add_argument(
        "--token-ids",
        action="store_true",
        help="continuations are token ids, separated by commas, and are scored as they are",
    )
    parser.add_argument(
        "--top-logprobs", metavar="K", type=int, default=0, help="with --json: the K likeliest at each place"
    )
    whole = parser.add_argument_group("whole texts")
    whole.add_argument(
        "--rolling",
        metavar="FILE",
        nargs="+",
        help="score these files (- : standard input) from their first token to their last, however long; "
        "no PROMPT",
    )
    whole.add_argument(
        "--window",
        metavar="N",
        type=int,
        help="tokens that are read at a time (default: the model's context)",
    )
    whole.add_argument(
        "--overlap",
        metavar="N",
        type=int,
        help="tokens of context that each later window begins with (default: 1)",
    )
    add_model_arguments(parser)
    add_adapter_argument(parser)
    parser.set_defaults(usage_error=parser.error)


def execute(arguments: argparse.Namespace, output: Output) -> int:
    _check_usage(arguments)
    with open_llm(arguments) as llm:
        if arguments.rolling:
            _score_files(llm, arguments, output)
        else:
            _score_continuations(llm, arguments, output)
    return 0


def _check_usage(arguments: argparse.Namespace) -> None:
    if arguments.rolling:
        if arguments.prompt is not None:
            arguments.usage_error("give either PROMPT and CONTINUATIONs or --rolling FILE ...")
        for name in ("unconditional", "token_ids", "top_logprobs"):
            if getattr(arguments, name):
                arguments.usage_error(f"--{name.replace('_', '-')} does not go with --rolling")
    elif not arguments.continuations:
        arguments.usage_error("give PROMPT and at least one CONTINUATION, or --rolling FILE ...")
    elif arguments.window is not None or arguments.overlap is not None:
        arguments.usage_error("--window and --overlap go with --rolling")


def _score_continuations(llm: LLM, arguments: argparse.Namespace, output: Output) -> None:
    from dcmodel.cli.encode import scored_to_list

    texts = arguments.continuations
    results = llm.score(
        read_prompt(arguments.prompt),
        [parsed_ids(item) for item in texts] if arguments.token_ids else texts,
        unconditional=arguments.unconditional,
        top_logprobs=arguments.top_logprobs,
        adapter=adapter_name(arguments),
    )
    if arguments.json:
        output.json({"results": scored_to_list(results)})
        return
    with_pmi = arguments.unconditional is not None
    rows = [
        (
            f"{item.logprob:.4f}",
            *([f"{item.pmi:.4f}"] if item.pmi is not None else []),
            f"{item.probability:.4g}",
            repr(item.text),
        )
        for item in results
    ]
    output.table(("logprob", *(["pmi"] if with_pmi else []), "probability", "text"), rows)


def _score_files(llm: LLM, arguments: argparse.Namespace, output: Output) -> None:
    from dcmodel.cli.encode import rolling_to_dict

    texts = [read_file(path, "--rolling") for path in arguments.rolling]
    overlap = 1 if arguments.overlap is None else arguments.overlap
    scores = llm.rolling(texts, overlap=overlap, window=arguments.window, adapter=adapter_name(arguments))
    if arguments.json:
        named = zip(arguments.rolling, scores, strict=True)
        output.json({"results": [{"file": path, **rolling_to_dict(item)} for path, item in named]})
        return
    rows = [
        (
            f"{item.logprob:.4f}",
            f"{item.bits_per_byte:.4f}",
            f"{item.perplexity:.4g}",
            f"{item.word_perplexity:.4g}",
            str(len(item.token_ids)),
            path,
        )
        for path, item in zip(arguments.rolling, scores, strict=True)
    ]
    output.table(("logprob", "bits/byte", "perplexity", "word perplexity", "tokens", "file"), rows)


def parsed_ids(argument: str) -> list[int]:
    """``12,7`` as token ids."""
    try:
        return [int(part) for part in argument.split(",")]
    except ValueError:
        raise InvalidRequestError(
            f"{argument!r:.60} is no list of token ids.",
            remedy="Write them like 12,345; `dcmodel tokenize TEXT` shows a text's.",
        ) from None
