"""Tasks for constrained generation over an API: what a model writes, drift included, and what it should."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from benchmarks.ngram_model import NgramModel
from dcmodel.constraint import Constraint
from dcmodel.constraints import Choice, JsonSchema, Regex, Type
from dctokenizers import Tokenizer

NAMES = (
    *("Mira", "Jonas", "Aiko", "Priya", "Olu", "Lena", "Tomás", "Wei", "Fatima", "Noah", "Ingrid", "Kofi"),
    *(
        "Sofia",
        "Ravi",
        "Emil",
        "Zara",
        "Hugo",
        "Leila",
        "Pavel",
        "Amara",
        "Björn",
        "Chiara",
        "Dmitri",
        "Elif",
    ),
)
CITIES = (
    *("Velden", "Oslo", "Porto", "Kyoto", "Lagos", "Lima", "Graz", "Turku", "Cusco", "Pune", "Gdańsk"),
    *("Leeds", "Bergen", "Nantes", "Quito", "Hue", "Tartu", "Split", "Fez", "Galway"),
)
TAGS = ("new", "vip", "late", "blue", "fast", "beta", "north", "cold", "early", "large", "green", "open")
FIVE = ("positive", "negative", "neutral", "mixed", "unclear")
FIFTY = tuple(f"{one} {two}" for one in TAGS[:10] for two in ("order", "return", "query", "claim", "offer"))
PREAMBLE = "Sure! Here is what you asked for:\n\n"
TRAILER = "\n\nLet me know if you need anything else."
SAMPLES = 1_500


@dataclass(frozen=True, slots=True)
class Task:
    """`write` gives the plain answer, `otherwise` the same in a way that nobody asked for."""

    name: str
    constraint: Constraint
    write: Callable[[Random], str]
    otherwise: Callable[[Random, str], str]
    is_json: bool = False
    most_requests: float = 1.5
    """The target of the planner at temperature 1."""


def make_tasks() -> list[Task]:
    small, medium = _small_schema(), _medium_schema()
    return [
        Task("json-small", JsonSchema(small), _small, _laid_out, is_json=True),
        Task(
            *("json-small, compact", JsonSchema(small, whitespace="compact"), _small, _laid_out),
            is_json=True,
            most_requests=8.5,
        ),
        Task("json-medium", JsonSchema(medium), _medium, _laid_out, is_json=True, most_requests=3.5),
        Task("date", Regex(r"20[0-9]{2}-[01][0-9]-[0-3][0-9]"), _date, _worded),
        Task("ipv4", Type("ipv4"), _ipv4, _worded),
        Task("email", Regex(r"[a-z0-9._]+@[a-z0-9]+(\.[a-z]{2,6})+"), _email, _worded),
        Task("int", Regex(r"-?(0|[1-9][0-9]*)"), lambda rng: str(int(rng.expovariate(0.002))), _worded),
        Task("choice-5", Choice(FIVE), lambda rng: rng.choice(FIVE), _worded),
        Task("choice-50", Choice(FIFTY), lambda rng: rng.choice(FIFTY), _worded),
    ]


def train(
    task: Task, tokenizer: Tokenizer, drift: float, *, seed: int = 1
) -> tuple[NgramModel, tuple[int, ...]]:
    """A model of what is written for a task, and the prompt that it was trained with."""
    prompt = tuple(tokenizer.encode(f"### {task.name.split(',')[0]}\n"))
    rng = Random(seed)
    ends = list(tokenizer.eos_token_ids)
    texts = []
    for _ in range(SAMPLES):
        text = task.write(rng)
        if rng.random() < drift:
            text = task.otherwise(rng, text)
        if rng.random() < drift:
            text = f"```\n{text}\n```"
        if rng.random() < drift:
            text = PREAMBLE + text
        if rng.random() < drift:
            text += TRAILER
        texts.append([*prompt, *tokenizer.encode(text), *ends])
    return NgramModel(texts, tokenizer.vocab_size), prompt


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _small_schema() -> dict[str, Any]:
    text = {"type": "string", "maxLength": 20}
    return _object({"name": text, "age": {"type": "integer"}, "city": text})


def _medium_schema() -> dict[str, Any]:
    text = {"type": "string", "maxLength": 20}
    item = _object({"id": {"type": "integer"}, "tag": text})
    return _object(
        {
            "name": text,
            "address": _object({"city": text, "zip": {"type": "string", "pattern": "^[0-9]{4}$"}}),
            "items": {"type": "array", "items": item, "minItems": 1, "maxItems": 4},
            "active": {"type": "boolean"},
        }
    )


def _small(rng: Random) -> str:
    return json.dumps(
        {"name": rng.choice(NAMES), "age": rng.randrange(18, 90), "city": rng.choice(CITIES)},
        ensure_ascii=False,
    )


def _medium(rng: Random) -> str:
    items = [{"id": rng.randrange(1, 500), "tag": rng.choice(TAGS)} for _ in range(rng.randrange(1, 4))]
    address = {"city": rng.choice(CITIES), "zip": f"{rng.randrange(10_000):04}"}
    person = {"name": rng.choice(NAMES), "address": address, "items": items, "active": rng.random() < 0.7}
    return json.dumps(person, ensure_ascii=False)


def _date(rng: Random) -> str:
    return f"20{rng.randrange(10, 27)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"


def _ipv4(rng: Random) -> str:
    return ".".join(str(rng.randrange(1, 255)) for _ in range(4))


def _email(rng: Random) -> str:
    name = rng.choice(NAMES).encode("ascii", "ignore").decode().lower()
    number = f"{rng.choice(('', '.', '_'))}{rng.randrange(99)}"
    return f"{name}{number}@{rng.choice(TAGS)}.{rng.choice(('com', 'org'))}"


def _laid_out(rng: Random, text: str) -> str:
    value = json.loads(text)
    if rng.random() < 0.5:
        return json.dumps(value, ensure_ascii=False, indent=2)
    return json.dumps({**value, "note": "n/a"}, ensure_ascii=False)


def _worded(rng: Random, text: str) -> str:
    return rng.choice((f"The answer is {text}.", f"about {text}", f'"{text}"'))
