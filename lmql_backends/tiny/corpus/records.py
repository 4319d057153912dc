"""Sentences that state a record, and the record as JSON; questions about the same sentences."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from lmql_backends.tiny.corpus import words
from lmql_backends.tiny.corpus.document import Document, JsonValue, answered, enumeration, json_text
from lmql_backends.tiny.corpus.names import NameMaker, Split
from lmql_backends.tiny.corpus.templates import (
    ANY_QUESTIONS,
    ASIDES,
    CLOSERS,
    KEYS,
    OPENERS,
    QUESTIONS,
    TEMPLATES,
)

_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])")


@dataclass(frozen=True, slots=True)
class Value:
    """A value as the sentence says it, and as the record holds it."""

    surface: str
    json: JsonValue


@dataclass(frozen=True, slots=True)
class Record:
    """A sentence and what it states: slot -> value, in the order of the sentence."""

    sentence: str
    values: dict[str, Value]


class RecordMaker:
    """Draws records whose names belong to one split."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self._rng = rng
        self._names = NameMaker(rng, split)
        self._draw: dict[str, Callable[[], Value]] = {
            "name": lambda: _text(self._names.person()),
            "other": lambda: _text(self._names.first()),
            "city": lambda: _text(self._names.city()),
            "country": lambda: _text(
                rng.choice(words.COUNTRIES) if rng.random() < 0.5 else self._names.word()
            ),
            "company": lambda: _text(self._names.company()),
            "hotel": lambda: _text(f"Hotel {self._names.word()}"),
            "team": lambda: _text(self._names.city()),
            "rival": lambda: _text(self._names.city()),
            "title": lambda: _text(self._title()),
            "job": lambda: _text(rng.choice(words.JOBS)),
            "hobby": lambda: _text(rng.choice(words.HOBBIES)),
            "colour": lambda: _text(rng.choice(words.COLOURS)),
            "weather": lambda: _text(rng.choice(words.WEATHER)),
            "product": lambda: _text(self._product()),
            "age": lambda: _number(rng.randint(3, 99)),
            "year": lambda: _number(rng.randint(1900, 2030)),
            "rating": lambda: _number(rng.randint(1, 10)),
            "goals": lambda: _number(rng.randint(4, 9)),
            "conceded": lambda: _number(rng.randint(0, 3)),
            "temperature": lambda: _number(rng.randint(-20, 40)),
            "guests": lambda: _number(rng.choice((rng.randint(2, 99), rng.randint(100, 9000)))),
            "quantity": self._small_number,
            "nights": self._small_number,
            "price": self._price,
            "date": self._date,
            "phone": lambda: _text(f"{rng.randint(100, 999)}-{rng.randint(1000, 9999)}"),
            "email": lambda: _text(
                f"{self._names.thing()}@{self._names.thing()}.{rng.choice(('com', 'org', 'net'))}"
            ),
            "stock": lambda: rng.choice((Value("in stock", True), Value("sold out", False))),
        }

    def draw(self, family: str | None = None) -> Record:
        """A record of one family, or of any."""
        rng = self._rng
        template = rng.choice(TEMPLATES[family or rng.choice(FAMILIES)])
        values = {slot: self._draw[slot]() for slot in _SLOT.findall(template)}
        sentence = _SLOT.sub(lambda match: values[match[1]].surface, template)
        sentence = _ARTICLE.sub(r"\1n ", sentence)
        if rng.random() < 0.15:
            sentence = f"{rng.choice(OPENERS)} {sentence}"
        if rng.random() < 0.15:
            sentence = f"{sentence} {rng.choice(CLOSERS)}"
        elif rng.random() < 0.1:
            aside = _SLOT.sub(lambda match: self._draw[match[1]]().surface, rng.choice(ASIDES))
            sentence = f"{sentence} {aside}"
        return Record(sentence, {slot: value for slot, value in values.items() if slot != "other"})

    def _title(self) -> str:
        rng = self._rng
        if rng.random() < 0.3:
            return f"{rng.choice(words.TITLE_NOUNS)} of {self._names.word()}"
        return f"The {rng.choice(words.TITLE_ADJECTIVES)} {rng.choice(words.TITLE_NOUNS)}"

    def _product(self) -> str:
        rng = self._rng
        noun = rng.choice(words.PRODUCTS) if rng.random() < 0.8 else self._names.thing()
        draw = rng.random()
        if draw < 0.2:
            return f"{rng.choice(words.COLOURS)} {noun}"
        return f"{rng.choice(words.MATERIALS)} {noun}" if draw < 0.3 else noun

    def _small_number(self) -> Value:
        n = self._rng.randint(2, 12)
        if self._rng.random() < 0.3:
            return Value(words.NUMBER_WORDS[n], n)
        return _number(n if self._rng.random() < 0.6 else self._rng.randint(13, 250))

    def _price(self) -> Value:
        rng = self._rng
        amount: float = rng.randint(2, 999)
        if rng.random() < 0.5:
            amount = rng.randint(0, 299) + (10 * rng.randint(0, 9) + rng.randint(1, 9)) / 100
        text = str(amount)
        return Value(rng.choice((f"${text}", f"{text} dollars", f"{text} euros", f"€{text}")), amount)

    def _date(self) -> Value:
        rng = self._rng
        return _text(f"{rng.randint(1980, 2030)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}")


FAMILIES = tuple(TEMPLATES)


def _text(text: str) -> Value:
    return Value(text, text)


def _number(number: int) -> Value:
    return Value(str(number), number)


def keys_of(rng: random.Random, record: Record) -> dict[str, str]:
    """Slot -> key under which the slot is asked for: the usual one, now and then a synonym."""
    keys: dict[str, str] = {}
    for slot in record.values:
        key = KEYS[slot][0] if rng.random() < 0.75 else rng.choice(KEYS[slot])
        keys[slot] = key if key not in keys.values() else KEYS[slot][0]
    return keys


def chosen_slots(rng: random.Random, record: Record) -> list[str]:
    """Two to four of a record's slots, mostly in the order of the sentence."""
    slots = list(record.values)
    count = min(len(slots), rng.randint(2, 4))
    chosen = rng.sample(slots, count)
    return chosen if rng.random() < 0.4 else [slot for slot in slots if slot in chosen]


def extraction_prompt(sentence: str, keys: list[str] | None = None) -> str:
    """The documented prompt; `keys` adds the line that lists them."""
    fields = f"Fields: {', '.join(keys)}\n" if keys else ""
    return f"Text: {sentence}\n{fields}JSON:"


def extraction(rng: random.Random, maker: RecordMaker) -> Document:
    """A sentence and its record, the keys listed in the prompt or not."""
    record = maker.draw()
    draw = rng.random()
    if draw < 0.3:
        usual = {KEYS[slot][0]: value.json for slot, value in record.values.items()}
        return answered(rng, extraction_prompt(record.sentence), json_text(rng, usual))
    keys = keys_of(rng, record)
    values = {keys[slot]: record.values[slot].json for slot in chosen_slots(rng, record)}
    answer = dict(values)
    if rng.random() < 0.05:
        absent = rng.choice([slot for slot in KEYS if slot not in record.values])
        answer[KEYS[absent][0]] = None
    prompt = extraction_prompt(record.sentence, list(answer))
    if draw < 0.5:
        prompt, answer = extraction_prompt(record.sentence), values
    elif draw > 0.92:
        listed = enumeration(rng, list(answer))
        prompt = rng.choice(
            (
                f"Extract the {listed} from the text as JSON.\nText: {record.sentence}\nJSON:",
                f"{record.sentence}\nJSON with {listed}:",
                f"Extract {listed}: {record.sentence}\n",
                f"{record.sentence}\nJSON:",
            )
        )
    return answered(rng, prompt, json_text(rng, answer))


def reading(rng: random.Random, maker: RecordMaker) -> Document:
    """A sentence and a question that it answers."""
    family = rng.choice(FAMILIES)
    record = maker.draw(family)
    while not (pairs := _questions(family, record)):
        record = maker.draw(family)
    question, answer = rng.choice(pairs)
    form = rng.choice(("Text: {}\nQ: {}\nA:", "{}\nQ: {}\nA:", "Text: {}\nQuestion: {}\nAnswer:"))
    return answered(rng, form.format(record.sentence, question), answer)


def _questions(family: str, record: Record) -> list[tuple[str, str]]:
    pairs = []
    for slot, question in (*QUESTIONS.get(family, {}).items(), *ANY_QUESTIONS.items()):
        needed = _SLOT.findall(question)
        if slot in record.values and all(name in record.values for name in needed):
            filled = _SLOT.sub(lambda match: record.values[match[1]].surface, question)
            pairs.append((filled, record.values[slot].surface))
    return pairs
