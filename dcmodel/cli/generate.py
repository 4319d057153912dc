"""`dcmodel generate`: continue a prompt, within a constraint if one is given."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, cast

from dcmodel.cli.arguments import (
    adapter_name,
    add_adapter_argument,
    add_constraint_arguments,
    add_model_arguments,
    constraint_of,
    new_command,
    open_llm,
    read_file,
    read_prompt,
)
from dcmodel.cli.output import Output

if TYPE_CHECKING:
    from dcmodel.llm import LLM
    from dcmodel.llm.options import DecodingOptions, GenerateOptions
    from dcmodel.types import Completion

EPILOG = """examples:
  dcmodel generate "3 + 4 =" --regex " [0-9]+"
  dcmodel generate "Review: I love it.\\nSentiment:" --choice " positive" --choice " negative" --json
  dcmodel generate "A name:" --regex " [A-Z][a-z]+" --beams 8 --n 3
  dcmodel generate "Dear customer," --model my-model --adapter support=./support-lora
  dcmodel generate --file prompts.txt --max-tokens 20 > completions.jsonl"""


def add_parser(commands: Any) -> None:
    parser = new_command(commands, "generate", execute, summary="Continue a prompt.", epilog=EPILOG)
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="the prompt; - reads standard input")
    parser.add_argument(
        "--file", metavar="FILE", help="many prompts, one per line (- : standard input); prints JSON lines"
    )
    add_constraint_arguments(parser)
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--max-tokens", metavar="N", type=int, default=256)
    sampling.add_argument(
        "--temperature",
        metavar="T",
        type=float,
        help="0 is greedy (default); with --sampling exact 1, the model's own",
    )
    sampling.add_argument("--top-k", metavar="K", type=int, default=0)
    sampling.add_argument("--top-p", metavar="P", type=float, default=1.0)
    sampling.add_argument("--min-p", metavar="P", type=float, default=0.0)
    sampling.add_argument("--repetition-penalty", metavar="X", type=float, default=1.0)
    sampling.add_argument("--presence-penalty", metavar="X", type=float, default=0.0)
    sampling.add_argument("--frequency-penalty", metavar="X", type=float, default=0.0)
    sampling.add_argument("--seed", metavar="S", type=int, help="the same seed gives the same text")
    sampling.add_argument("--stop", metavar="S", action="append", default=[], help="end here (repeatable)")
    sampling.add_argument("--no-heal", action="store_true", help="keep the prompt's last tokens as they are")
    sampling.add_argument("--canonical", action="store_true", help="only tokens as the tokenizer makes them")
    sampling.add_argument("--top-logprobs", metavar="K", type=int, default=0, help="with --json")
    add_decoding_arguments(parser)
    add_model_arguments(parser)
    add_adapter_argument(parser)
    parser.set_defaults(usage_error=parser.error)


def execute(arguments: argparse.Namespace, output: Output) -> int:
    if (arguments.prompt is None) == (arguments.file is None):
        arguments.usage_error("give either PROMPT or --file FILE")
    options = generate_options(arguments)
    with open_llm(arguments) as llm:
        if arguments.file is not None:
            return _generate_file(llm, arguments, options, output)
        prompt = read_prompt(arguments.prompt)
        if arguments.json:
            output.json(_encoded(llm.generate(prompt, **options), arguments))
        elif decoding_options(arguments):
            _print_all(llm.generate(prompt, **options), output)
        else:
            _stream(llm, prompt, options, output)
    return 0


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """How many texts, and how they are searched for."""
    group = parser.add_argument_group(
        "several texts, and searches", "the best or first is printed first; not token by token"
    )
    group.add_argument("--n", metavar="N", type=int, help="so many texts (default: 1)")
    group.add_argument("--best-of", metavar="N", type=int, help="draw N, keep the likeliest per token")
    group.add_argument("--beams", metavar="N", type=int, help="beam search with N beams")
    group.add_argument("--beam-groups", metavar="G", type=int, help="diverse beams: G groups of equal size")
    group.add_argument("--diversity", metavar="X", type=float, help="what sharing a token costs a group")
    group.add_argument(
        "--length-penalty",
        metavar="X",
        type=float,
        help="0 ranks beams by their sum (default), 1 by their mean",
    )
    group.add_argument(
        "--sampling",
        choices=("local", "exact"),
        help="local: each token from the masked distribution (default); exact: the whole text from the "
        "model's distribution under the constraint",
    )
    group.add_argument(
        "--particles", metavar="N", type=int, help="exact: by so many weighted texts (default: by rejection)"
    )


def decoding_options(arguments: argparse.Namespace) -> DecodingOptions:
    """Those of the options about several texts that were given."""
    names = ("n", "best_of", "beams", "beam_groups", "diversity", "length_penalty", "sampling", "particles")
    given = {name: getattr(arguments, name) for name in names}
    return cast("DecodingOptions", {name: value for name, value in given.items() if value is not None})


def generate_options(arguments: argparse.Namespace) -> DecodingOptions:
    """The keyword arguments of `LLM.generate`."""
    given: DecodingOptions = {
        "constraint": constraint_of(arguments),
        "stop": arguments.stop,
        "max_tokens": arguments.max_tokens,
        "top_k": arguments.top_k,
        "top_p": arguments.top_p,
        "min_p": arguments.min_p,
        "repetition_penalty": arguments.repetition_penalty,
        "presence_penalty": arguments.presence_penalty,
        "frequency_penalty": arguments.frequency_penalty,
        "seed": arguments.seed,
        "top_logprobs": arguments.top_logprobs,
        "heal": not arguments.no_heal,
        "canonical": arguments.canonical,
        "adapter": adapter_name(arguments),
    }
    if arguments.temperature is not None:
        given["temperature"] = arguments.temperature
    return {**given, **decoding_options(arguments)}


def _print_all(completion: Completion, output: Output) -> None:
    for item in (completion, *completion.alternatives):
        output.line(item.text)
    output.note(summary_line(completion))


def _stream(llm: LLM, prompt: str, options: GenerateOptions, output: Output) -> None:
    with llm.stream(prompt, **options) as stream:
        try:
            for step in stream:
                output.write(step.text)
            completion = stream.completion()
        finally:
            if stream.text:
                output.line()
    output.note(summary_line(completion))


def summary_line(completion: Completion) -> str:
    """How it ended and what it cost."""
    certificate = completion.certificate
    validity = {None: "", True: ", valid", False: ", incomplete"}[certificate.valid]
    usage = completion.usage
    return (
        f"[{completion.stop_reason}{validity}; {usage.completion_tokens} tokens, "
        f"{usage.forced_tokens} of them forced]"
    )


def _generate_file(llm: LLM, arguments: argparse.Namespace, options: DecodingOptions, output: Output) -> int:
    text = read_file(arguments.file, "--file")
    prompts = [line for line in text.splitlines() if line]
    results = llm.generate(prompts, return_exceptions=True, **options)
    failed = 0
    for prompt, result in zip(prompts, results, strict=True):
        if isinstance(result, Exception):
            failed += 1
            output.json({"prompt": prompt, "error": str(result)})
        else:
            output.json({"prompt": prompt, **_encoded(result, arguments)})
    if failed:
        output.error(f'Error: {failed} of {len(prompts)} prompts failed; see the lines with "error".')
    return 1 if failed else 0


def _encoded(completion: Completion, arguments: argparse.Namespace) -> dict[str, Any]:
    from dcmodel.cli.encode import completion_to_dict

    return completion_to_dict(completion, with_parsed=arguments.json_schema is not None)
