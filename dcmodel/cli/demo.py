"""`dcmodel demo`: constrained generation and scoring on the embedded model, streamed to the terminal."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from dcmodel.cli.arguments import hide_loading_bar, new_command
from dcmodel.cli.generate import summary_line
from dcmodel.cli.output import Output

if TYPE_CHECKING:
    from dcmodel.llm import LLM
    from dcmodel.llm.options import GenerateOptions
    from dcmodel.types import Completion

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "job": {"type": "string"}, "city": {"type": "string"}},
    "required": ["name", "job", "city"],
    "additionalProperties": False,
}
EXTRACTION = "Text: Mira Solberg is a painter from Lyon.\nFields: name, job, city\nJSON:"
FLIGHT = "Text: Jonas travels to Oslo on 2026-03-14.\nQ: When does Jonas travel to Oslo?\nA:"
DATE = r" [0-9]{4}-[0-9]{2}-[0-9]{2}"
REVIEW = "Review: The soup was delicious and the staff was friendly.\nSentiment:"
SENTIMENTS = (" positive", " negative")
SUM = "3 + 4 ="
SUMS = (" 6", " 7", " 8", " 12")


def add_parser(commands: Any) -> None:
    new_command(commands, "demo", execute, summary="A short tour on the embedded model.")


def execute(arguments: argparse.Namespace, output: Output) -> int:
    from dcmodel.llm import LLM
    from dcmodel.registry import EMBEDDED

    began = time.perf_counter()
    with LLM(EMBEDDED) as llm:
        hide_loading_bar(llm)
        if arguments.json:
            output.json(_as_json(llm))
            return 0
        info = llm.info
        seconds = time.perf_counter() - began
        output.line(f"The embedded model on {info.backend} ({info.device}), loaded in {seconds:.1f} s")
        show_tour(llm, output)
    output.line()
    output.line("Next: dcmodel generate --help, dcmodel backends, and the examples in README.md.")
    return 0


def show_tour(llm: LLM, output: Output) -> None:
    """Four stops: a schema, a regex, a choice, a score."""
    _heading(output, "1. JSON for a schema (name, job, city)", EXTRACTION)
    completion = _stream(llm, EXTRACTION, {"json_schema": PERSON, "max_tokens": 80}, output)
    output.line(f"   parsed: {completion.parsed!r}")
    _heading(output, f"2. Text that matches a regex ({DATE.strip()})", FLIGHT)
    completion = _stream(llm, FLIGHT, {"regex": DATE, "max_tokens": 20}, output)
    output.line(f"   log-probability of this answer: {completion.raw_logprob:.3f} nats before the mask")
    _heading(output, "3. A choice, with probabilities", REVIEW)
    for item in llm.choose(REVIEW, SENTIMENTS).ranked:
        output.line(f"   {item.probability:8.2%} {item.text}")
    _heading(output, "4. Scores of given continuations", SUM)
    for item in llm.score(SUM, SUMS):
        output.line(f"   {item.logprob:9.3f} nats, probability {item.probability:.4f}: {item.text}")


def _heading(output: Output, title: str, prompt: str) -> None:
    output.line()
    output.line(title)
    for line in prompt.splitlines():
        output.line(f"   | {line}")


def _stream(llm: LLM, prompt: str, options: GenerateOptions, output: Output) -> Completion:
    output.write("   >")
    with llm.stream(prompt, **options) as stream:
        for step in stream:
            output.write(step.text.replace("\n", "\n   >"))
        completion = stream.completion()
    output.line(f"   {summary_line(completion)}")
    return completion


def _as_json(llm: LLM) -> dict[str, Any]:
    from dcmodel.cli.encode import completion_to_dict, scored_to_list

    extraction = llm.generate(EXTRACTION, json_schema=json.dumps(PERSON), max_tokens=80)
    return {
        "model": llm.info.name,
        "extraction": completion_to_dict(extraction, with_parsed=True),
        "date": completion_to_dict(llm.generate(FLIGHT, regex=DATE, max_tokens=20)),
        "sentiment": scored_to_list(llm.choose(REVIEW, SENTIMENTS).results),
        "sums": scored_to_list(llm.score(SUM, SUMS)),
    }
