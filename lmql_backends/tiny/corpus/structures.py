"""JSON of many shapes, and lists, so that no schema is wildly improbable."""

from __future__ import annotations

import random

from lmql_backends.tiny.corpus import words
from lmql_backends.tiny.corpus.document import Document, JsonValue, answered, enumeration, json_text
from lmql_backends.tiny.corpus.names import NameMaker

_TEXT_KEYS = {
    "name": words.FIRST_NAMES,
    "city": words.CITIES,
    "country": words.COUNTRIES,
    "job": words.JOBS,
    "product": words.PRODUCTS,
    "colour": words.COLOURS,
    "hobby": words.HOBBIES,
    "category": tuple(words.CATEGORIES),
    "animal": words.CATEGORIES["animals"],
    "day": words.CATEGORIES["days"],
    "status": ("open", "closed", "new", "done", "active", "failed"),
    "type": ("user", "order", "book", "event", "note", "file"),
    "title": words.TITLE_NOUNS,
    "language": ("English", "German", "French", "Spanish", "Italian"),
    "unit": ("kg", "m", "cm", "l", "km", "g"),
    "answer": ("yes", "no"),
    "sentiment": ("positive", "negative"),
}
_NUMBER_KEYS = (
    "age",
    "id",
    "count",
    "price",
    "quantity",
    "year",
    "rating",
    "size",
    "weight",
    "score",
    "total",
    "x",
    "y",
)
_FLAG_KEYS = ("active", "available", "in_stock", "open", "done", "valid", "public", "new", "married")
_ARRAY_KEYS = {
    "tags": words.TAGS,
    "items": words.PRODUCTS,
    "colours": words.COLOURS,
    "hobbies": words.HOBBIES,
    "names": words.FIRST_NAMES,
    "cities": words.CITIES,
    "friends": words.FIRST_NAMES,
}
_OBJECT_KEYS = ("address", "owner", "author", "details", "customer", "position", "data", "user")
COUNTS = words.NUMBER_WORDS[2:7]


def _value(rng: random.Random, names: NameMaker, depth: int) -> tuple[str, JsonValue]:
    """A key and a value that suits it."""
    draw = rng.random()
    if draw < 0.45:
        key = rng.choice(tuple(_TEXT_KEYS))
        if rng.random() < 0.06:
            return key, None
        if key in ("name", "city") and rng.random() < 0.5:
            return key, names.person() if key == "name" else names.city()
        return key, rng.choice(_TEXT_KEYS[key])
    if draw < 0.7:
        key = rng.choice(_NUMBER_KEYS)
        number = (
            round(rng.uniform(-10, 500), 2)
            if rng.random() < 0.25
            else rng.randint(0, rng.choice((9, 99, 2000)))
        )
        return key, number
    if draw < 0.8:
        return rng.choice(_FLAG_KEYS), rng.random() < 0.5
    if draw < 0.92 or depth >= 2:
        if rng.random() < 0.25:
            return "numbers", [rng.randint(0, 99) for _ in range(rng.randint(0, 5))]
        key = rng.choice(tuple(_ARRAY_KEYS))
        return key, [*rng.sample(_ARRAY_KEYS[key], rng.randint(0, 4))]
    return rng.choice(_OBJECT_KEYS), any_object(rng, names, depth + 1)


def any_object(rng: random.Random, names: NameMaker, depth: int = 0) -> dict[str, JsonValue]:
    """An object of one to five members."""
    return dict(_value(rng, names, depth) for _ in range(rng.randint(1, 5 if depth == 0 else 3)))


def json_document(rng: random.Random, names: NameMaker) -> Document:
    """A JSON value that is asked for, its keys listed in most prompts."""
    value = any_object(rng, names)
    keys = list(value)
    draw = rng.random()
    if draw < 0.15:
        size = rng.randint(2, 3)
        key_set = [value, *({**value, **any_object(rng, names, 1)} for _ in range(size - 1))]
        return answered(
            rng,
            rng.choice(("JSON list:", "Write a JSON list of objects.\nJSON:")),
            json_text(rng, [*key_set]),
        )
    prompt = rng.choice(
        (
            "JSON:",
            f"Fields: {', '.join(keys)}\nJSON:",
            f"Write a JSON object with {enumeration(rng, keys)}.\nJSON:",
            "Write a JSON object.\nJSON:",
            f"Write JSON with the fields {enumeration(rng, keys)}:",
        )
    )
    return answered(rng, prompt, json_text(rng, value))


def list_document(rng: random.Random) -> Document:
    """Some things of a category, as JSON or as text; or a row of numbers."""
    if rng.random() < 0.2:
        start = rng.randint(0, 20)
        stop = start + rng.randint(2, 9)
        numbers = [*range(start, stop + 1)]
        if rng.random() < 0.5:
            return answered(rng, f"Count from {start} to {stop}:", ", ".join(map(str, numbers)))
        return answered(rng, f"List the numbers from {start} to {stop}:", json_text(rng, [*numbers]))
    category = rng.choice(tuple(words.CATEGORIES))
    count = rng.randint(2, 6)
    items = rng.sample(words.CATEGORIES[category], count)
    number = words.NUMBER_WORDS[count] if rng.random() < 0.75 else str(count)
    draw = rng.random()
    if draw < 0.55:
        return answered(rng, f"List {number} {category}:", json_text(rng, [*items]))
    if draw < 0.7:
        return answered(rng, f"Name {number} {category}:", enumeration(rng, items))
    if draw < 0.85:
        lines = (
            [f"{i}. {item}" for i, item in enumerate(items, 1)]
            if rng.random() < 0.5
            else [f"- {i}" for i in items]
        )
        return answered(rng, f"List {number} {category}:\n", "\n".join(lines))
    if draw < 0.93:
        return answered(rng, f"A list of {number} {category}:", json_text(rng, {category: [*items]}))
    single = rng.choice(items)
    return answered(rng, f"Text: {single}\nCategory:", category[:-1])
