"""Held-out items: unseen sentences, unseen names, and what the answer has to be."""

from __future__ import annotations

import random
from dataclasses import dataclass

from lmql_backends.tiny.corpus.document import JsonValue
from lmql_backends.tiny.corpus.knowledge import sum_prompt, two_digit_pair
from lmql_backends.tiny.corpus.names import Split
from lmql_backends.tiny.corpus.records import Record, RecordMaker, extraction_prompt
from lmql_backends.tiny.corpus.reviews import LABELS, ReviewMaker, sentiment_prompt
from lmql_backends.tiny.corpus.templates import KEYS

HELD_OUT_SEED = 20_000_003
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number"}
# Spelled in lower case or with marks that names never have: not the copying of names that is measured.
_UNUSUAL = frozenset({"email"})


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """A review to label by choosing between `options`."""

    prompt: str
    options: tuple[str, str]
    label: str


@dataclass(frozen=True, slots=True)
class ExtractionItem:
    """A sentence to turn into a record; `schema` has the keys in the order of `expected`."""

    prompt: str
    schema: dict[str, JsonValue]
    expected: dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class SumItem:
    """A sum and the digits of its result."""

    prompt: str
    answer: str


def reviews(count: int, seed: int = HELD_OUT_SEED) -> list[ReviewItem]:
    """Reviews whose texts never occur in training, both labels equally often."""
    maker = ReviewMaker(random.Random(seed), Split.HELD_OUT)
    options = (f" {LABELS[0]}", f" {LABELS[1]}")
    drawn = [maker.draw(LABELS[i % 2]) for i in range(count)]
    return [ReviewItem(sentiment_prompt(r.text), options, f" {r.label}") for r in drawn]


def schema_of(expected: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The schema of exactly these members, in this order, each of the type that it has here."""
    # A price may be whole in one record and not in the next.
    numeric = ("price", "cost", "amount")
    properties: dict[str, JsonValue] = {
        key: {"type": "number" if key in numeric else _TYPES[type(value)]} for key, value in expected.items()
    }
    return {
        "type": "object",
        "properties": properties,
        "required": [*expected],
        "additionalProperties": False,
    }


def extractions(count: int, seed: int = HELD_OUT_SEED, *, keys_listed: bool = True) -> list[ExtractionItem]:
    """Records of two to four fields from unseen sentences with unseen names.

    With `keys_listed` the prompt says which keys are wanted; without, only the schema does.
    """
    rng = random.Random(seed)
    maker = RecordMaker(rng, Split.HELD_OUT)
    items: list[ExtractionItem] = []
    while len(items) < count:
        record = maker.draw()
        if len(record.values) < 2 or _UNUSUAL & record.values.keys():
            continue
        expected = _expected(rng, record)
        prompt = extraction_prompt(record.sentence, list(expected) if keys_listed else None)
        items.append(ExtractionItem(prompt, schema_of(expected), expected))
    return items


def _expected(rng: random.Random, record: Record) -> dict[str, JsonValue]:
    slots = list(record.values)
    chosen = set(rng.sample(slots, min(len(slots), rng.randint(2, 4))))
    return {KEYS[slot][0]: record.values[slot].json for slot in slots if slot in chosen}


def one_digit_sums() -> list[SumItem]:
    """All hundred; with so few there is nothing unseen to ask for."""
    return [SumItem(sum_prompt(a, b), str(a + b)) for a in range(10) for b in range(10)]


def two_digit_sums(count: int, seed: int = HELD_OUT_SEED) -> list[SumItem]:
    """Pairs of numbers that never occur in training, in either order."""
    rng = random.Random(seed)
    pairs = [two_digit_pair(rng, Split.HELD_OUT) for _ in range(count)]
    return [SumItem(sum_prompt(a, b), str(a + b)) for a, b in pairs]
