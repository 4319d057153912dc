"""What a training document is made of."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import TypeAlias

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

PROMPT_WEIGHT = 0.15
"""How much the loss on a prompt counts; an answer counts 1. Names in a prompt cannot be foreseen."""

SHORT_ANSWER_WEIGHT = 5.0
"""A label or the result of a sum is a token or two, and all that its document has to teach."""

_SHORT_ANSWER = 12


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text that is tokenized by itself, and the weight of the loss on it."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Document:
    """One training document: it begins with <|bos|>, ends with <|eos|>."""

    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)


def plain(text: str) -> Document:
    """A document without a prompt."""
    return Document((Segment(text),))


def answered(rng: random.Random, prompt: str, answer: str) -> Document:
    """`prompt` and `answer`, the blank between them on either side of the token boundary, or missing.

    A constrained answer may not begin with a blank, so the model has to take all three for the same thing.
    """
    weight = SHORT_ANSWER_WEIGHT if len(answer) <= _SHORT_ANSWER else 1.0
    draw = rng.random()
    if draw < 0.7:
        answer = " " + answer
    elif draw < 0.82:
        prompt += " "
    elif draw < 0.86:
        prompt += "\n"
    return Document((Segment(prompt, PROMPT_WEIGHT), Segment(answer, weight)))


def joined(documents: list[Document]) -> Document:
    """Several documents as one, as in a prompt with examples."""
    segments: list[Segment] = []
    for i, document in enumerate(documents):
        if i:
            segments.append(Segment("\n\n", PROMPT_WEIGHT))
        segments.extend(document.segments)
    return Document(tuple(segments))


def json_text(rng: random.Random, value: JsonValue) -> str:
    """JSON as `json.dumps` writes it by default; now and then compact or indented."""
    draw = rng.random()
    if draw < 0.06:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if draw < 0.1:
        return json.dumps(value, ensure_ascii=False, indent=2)
    return json.dumps(value, ensure_ascii=False)


def enumeration(rng: random.Random, items: list[str]) -> str:
    """`a, b and c`, or `a, b, c`."""
    if len(items) < 2 or rng.random() < 0.3:
        return ", ".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
