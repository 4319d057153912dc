"""Held-out figures of the embedded model, constrained and free: `python -m lmql_backends.tiny.evaluate`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from dcmodel.llm import LLM
from dcmodel.types import Completion
from lmql_backends.tiny import MODEL_DIR
from lmql_backends.tiny.corpus import heldout
from lmql_backends.tiny.corpus.document import JsonValue
from lmql_backends.tiny.corpus.heldout import ExtractionItem, ReviewItem, SumItem

BARS = {"sentiment_choice": 0.95, "extraction_schema": 0.85, "one_digit_sums_regex": 0.95}
"""What the figures have to reach."""

_NUMBER = " ?[0-9]{1,4}"
_JSON_TOKENS = 160
_SHORT_TOKENS = 16

Answer = TypeVar("Answer")
Item = TypeVar("Item")


def sentiment_figures(llm: LLM, items: Sequence[ReviewItem]) -> dict[str, float]:
    """The likelier of two labels, and the label that the model writes by itself."""
    prompts = [item.prompt for item in items]
    chosen = llm.choose(prompts, items[0].options)
    free = llm.generate(prompts, max_tokens=_SHORT_TOKENS)
    return {
        "sentiment_choice": _share(chosen, items, lambda choice, item: choice.text == item.label),
        "sentiment_free": _share(free, items, lambda answer, item: answer.text.strip() == item.label.strip()),
    }


def extraction_figures(
    llm: LLM, items: Sequence[ExtractionItem], name: str = "extraction"
) -> dict[str, float]:
    """Whole records: under the schema of each item, and free."""
    constrained = asyncio.run(_under_schemas(llm, items))
    free = llm.generate([item.prompt for item in items], max_tokens=_JSON_TOKENS)
    return {
        f"{name}_schema": _share(constrained, items, is_record),
        f"{name}_free": _share(free, items, is_record),
        f"{name}_free_right_keys": _share(free, items, has_keys),
    }


def sum_figures(llm: LLM, name: str, items: Sequence[SumItem]) -> dict[str, float]:
    """Sums whose answer has to be digits, and free."""

    def is_right(answer: Completion, item: SumItem) -> bool:
        return answer.text.strip() == item.answer

    prompts = [item.prompt for item in items]
    constrained = llm.generate(prompts, regex=_NUMBER, max_tokens=_SHORT_TOKENS)
    free = llm.generate(prompts, max_tokens=_SHORT_TOKENS)
    return {
        f"{name}_regex": _share(constrained, items, is_right),
        f"{name}_free": _share(free, items, is_right),
    }


def is_record(answer: Completion, item: ExtractionItem) -> bool:
    """Whether the text is JSON with the expected keys in their order, and their values."""
    value = _parsed(answer)
    return isinstance(value, dict) and list(value.items()) == list(item.expected.items())


def has_keys(answer: Completion, item: ExtractionItem) -> bool:
    """Whether the text is JSON with the expected keys in their order, whatever the values."""
    value = _parsed(answer)
    return isinstance(value, dict) and list(value) == list(item.expected)


def _parsed(answer: Completion) -> JsonValue:
    try:
        value: JsonValue = json.loads(answer.text)
    except json.JSONDecodeError:
        return None
    return value


async def _under_schemas(llm: LLM, items: Sequence[ExtractionItem]) -> list[Completion]:
    return await asyncio.gather(
        *(llm.agenerate(item.prompt, json_schema=item.schema, max_tokens=_JSON_TOKENS) for item in items)
    )


def _share(
    answers: Sequence[Answer], items: Sequence[Item], is_right: Callable[[Answer, Item], bool]
) -> float:
    right = [is_right(answer, item) for answer, item in zip(answers, items, strict=True)]
    return round(sum(right) / len(right), 4)


def measure(llm: LLM, count: int) -> dict[str, float]:
    """All figures: shares of exact answers, greedy."""
    return {
        **sentiment_figures(llm, heldout.reviews(count)),
        **extraction_figures(llm, heldout.extractions(count)),
        **extraction_figures(llm, heldout.extractions(count, keys_listed=False), "extraction_keys_unlisted"),
        **sum_figures(llm, "one_digit_sums", heldout.one_digit_sums()),
        **sum_figures(llm, "two_digit_sums", heldout.two_digit_sums(count)),
    }


def store(directory: Path, **sections: object) -> None:
    """Replace sections of metrics.json."""
    path = directory / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**metrics, **sections}, indent=2) + "\n", encoding="utf-8")


def evaluate(directory: Path, count: int) -> dict[str, float]:
    """Measure, store beside the weights and print."""
    with LLM(directory, device="cpu") as llm:
        figures = measure(llm, count)
    store(directory, held_out=figures, items_per_figure=count)
    for name, figure in figures.items():
        bar = f"  (to reach: {BARS[name]:.0%})" if name in BARS else ""
        sys.stdout.write(f"{name:36} {figure:7.1%}{bar}\n")
    return figures


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", type=Path, default=MODEL_DIR, help="directory of the model (default: %(default)s)"
    )
    parser.add_argument(
        "--count", type=int, default=400, help="held-out items per figure (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    figures = evaluate(options.model, options.count)
    return 0 if all(figures[name] >= bar for name, bar in BARS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
