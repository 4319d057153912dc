"""Held-out tasks of the embedded model with prompts that end where a prompt often ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dcmodel.constraint import Constraint
from dcmodel.constraints import Choice, JsonSchema, Regex
from dcmodel.llm import LLM
from dcmodel.types import Completion
from lmql_backends.tiny.corpus import heldout

Whitespace = Literal["spaced", "compact", "bounded"]
AS_IS, BLANK, HALF = "as trained", "+ blank", "+ half a word"
ENDINGS = (AS_IS, BLANK, HALF)
"""As the model saw prompts; with a blank after it; with the beginning of the answer's first word."""
MAX_TOKENS = 160


@dataclass(frozen=True, slots=True)
class Item:
    """One question. `given` is the part of the answer that the prompt has already."""

    prompt: str
    given: str
    rule: Constraint | None
    is_right: Callable[[str], bool]
    """Of the whole answer, `given` included."""


@dataclass(frozen=True, slots=True)
class Task:
    """Questions of one kind, under a rule or free."""

    name: str
    ending: str
    items: Sequence[Item]


def tasks(count: int, *, whitespace: Whitespace = "spaced") -> list[Task]:
    """Every task with every ending that makes sense for it."""
    found = []
    for ending in ENDINGS:
        for is_free in (False, True):
            rule = "free" if is_free else "rule"
            found.append(Task(f"sentiment, {rule}", ending, _sentiments(count, ending, is_free)))
            found.append(
                Task(f"extraction, {rule}", ending, extraction_items(count, ending, is_free, whitespace))
            )
            if ending != HALF:  # a digit is a token by itself
                found.append(Task(f"sums, {rule}", ending, _sums(count, ending, is_free)))
    return found


def run(llm: LLM, task: Task, **options: Any) -> list[Completion]:
    """All questions at once, greedy."""

    async def ask() -> list[Completion]:
        return await asyncio.gather(
            *(
                llm.agenerate(
                    item.prompt + item.given,
                    **{"constraint": item.rule, "max_tokens": MAX_TOKENS, "logprobs": False, **options},
                )
                for item in task.items
            )
        )

    return asyncio.run(ask())


def share(task: Task, answers: Sequence[Completion]) -> float:
    """The share of right answers."""
    right = [
        item.is_right(item.given + answer.text) for item, answer in zip(task.items, answers, strict=True)
    ]
    return sum(right) / len(right)


def _given(ending: str, answer: str) -> str:
    """The beginning of an answer like ` positive` that an ending has in the prompt."""
    return {AS_IS: "", BLANK: " ", HALF: answer[: len(answer) // 2]}[ending]


def _sentiments(count: int, ending: str, is_free: bool) -> list[Item]:
    items = []
    for review in heldout.reviews(count):
        given = _given(ending, review.label)
        rest = [option[len(given) :] for option in review.options if option.startswith(given)]
        items.append(
            Item(review.prompt, given, None if is_free else Choice(rest), _is_text(review.label.strip()))
        )
    return items


def _sums(count: int, ending: str, is_free: bool) -> list[Item]:
    rule = Regex("[0-9]{1,4}" if ending == BLANK else " ?[0-9]{1,4}")
    return [
        Item(item.prompt, _given(ending, " "), None if is_free else rule, _is_text(item.answer))
        for item in heldout.two_digit_sums(count)
    ]


def extraction_items(count: int, ending: str, is_free: bool, whitespace: Whitespace = "spaced") -> list[Item]:
    """Records under their schemas. With half a word, the first key is cut in its middle."""
    items = []
    for item in heldout.extractions(count):
        given, schema = _given(ending, " "), JsonSchema(item.schema, whitespace=whitespace)
        constraint: Constraint | None = schema
        if ending == HALF:
            key = next(iter(item.expected))
            given = ' {"' + key[: len(key) // 2]
            # No rule begins in the middle of a JSON text: what is cut is generated freely.
            constraint = None
        items.append(Item(item.prompt, given, None if is_free else constraint, _is_record(item.expected)))
    return items


def _is_text(expected: str) -> Callable[[str], bool]:
    return lambda text: text.strip() == expected


def _is_record(expected: dict[str, Any]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            return False
        return isinstance(value, dict) and list(value.items()) == list(expected.items())

    return check
