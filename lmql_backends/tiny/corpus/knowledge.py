"""Sums and well-known facts, as statements, as questions with answers and as JSON."""

from __future__ import annotations

import random

from lmql_backends.tiny.corpus import words
from lmql_backends.tiny.corpus.document import Document, Segment, answered, json_text, plain
from lmql_backends.tiny.corpus.facts import (
    CAPITALS,
    COLOUR_OF,
    CONTINENTS,
    LEGS,
    MISCELLANY,
    OPPOSITES,
    SOUNDS,
)
from lmql_backends.tiny.corpus.names import Split, split_of


def sum_prompt(a: int, b: int) -> str:
    """The documented prompt of a sum; the answer is the number."""
    return f"{a} + {b} ="


def sum_document(rng: random.Random) -> Document:
    """A sum, a difference or a product of one-digit numbers, or a sum of two-digit ones."""
    draw = rng.random()
    if draw < 0.45:
        a, b, sign, word = rng.randint(0, 9), rng.randint(0, 9), "+", "plus"
    elif draw < 0.52:
        a, b, sign, word = rng.randint(0, 9), rng.randint(0, 9), "-", "minus"
    elif draw < 0.6:
        a, b, sign, word = rng.randint(0, 9), rng.randint(0, 9), "*", "times"
    else:
        a, b, sign, word = *two_digit_pair(rng, Split.TRAIN), "+", "plus"
    result = {"+": a + b, "-": a - b, "*": a * b}[sign]
    draw = rng.random()
    if draw < 0.6:
        return answered(rng, f"{a} {sign} {b} =", str(result))
    if draw < 0.75:
        return answered(rng, f"Q: What is {a} {sign} {b}?\nA:", str(result))
    if draw < 0.82:
        return answered(rng, f"Q: What is {a} {word} {b}?\nA:", str(result))
    if draw < 0.88:
        return answered(rng, f"{a}{sign}{b}=", str(result))
    if draw < 0.94:
        return answered(rng, f"{a} {word} {b} is", f"{result}.")
    record: dict[str, int] = {"a": a, "b": b, "result": result}
    return answered(rng, f"What is {a} {sign} {b}?\nJSON:", json_text(rng, {**record}))


def two_digit_pair(rng: random.Random, split: Split) -> tuple[int, int]:
    """Two numbers from 10 to 99 of which the pair falls on `split`."""
    while True:
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        if split_of(f"{min(a, b)}+{max(a, b)}") is split:
            return a, b


def _fact(rng: random.Random) -> tuple[str, str, str]:
    """A question, its answer, and the two as a statement."""
    kind = rng.randrange(10)
    if kind <= 2:
        country, capital = rng.choice(tuple(CAPITALS.items()))
        question = rng.choice(
            ("What is the capital of {}?", "What is the capital of {}?", "Name the capital of {}.")
        )
        return question.format(country), capital, f"The capital of {country} is {capital}."
    if kind == 3:
        continent = rng.choice(tuple(CONTINENTS))
        country = rng.choice(CONTINENTS[continent])
        return f"On which continent is {country}?", continent, f"{country} is in {continent}."
    if kind == 4:
        word, opposite = rng.choice(tuple(OPPOSITES.items()))
        return f"What is the opposite of {word}?", opposite, f"The opposite of {word} is {opposite}."
    if kind == 5:
        thing, colour = rng.choice(tuple(COLOUR_OF.items()))
        return f"What colour is {thing}?", colour, f"{thing[0].upper()}{thing[1:]} is {colour}."
    if kind == 6:
        animal, legs = rng.choice(tuple(LEGS.items()))
        return f"How many legs does a {animal} have?", legs, f"A {animal} has {legs} legs."
    if kind == 7:
        animal, sound = rng.choice(tuple(SOUNDS.items()))
        return f"Which animal {sound}?", f"the {animal}", f"The {animal} {sound}."
    if kind == 8:
        return _category_fact(rng)
    question, answer = rng.choice(MISCELLANY)
    return question, answer, f"{question} {answer[0].upper()}{answer[1:]}."


def _category_fact(rng: random.Random) -> tuple[str, str, str]:
    kinds = ("fruits", "vegetables", "birds", "colours", "instruments", "drinks", "trees", "tools")
    category = rng.choice(kinds)
    yes = rng.random() < 0.5
    thing = rng.choice(words.CATEGORIES[category if yes else rng.choice([k for k in kinds if k != category])])
    yes = thing in words.CATEGORIES[category]
    article = "an" if thing[0] in "aeiou" else "a"
    kind = f"{'an' if category[0] in 'aeiou' else 'a'} {category[:-1]}"
    statement = f"{article.capitalize()} {thing} is {'' if yes else 'not '}{kind}."
    return f"Is {article} {thing} {kind}?", "yes" if yes else "no", statement


def fact(rng: random.Random) -> Document:
    """A fact as a statement, a question with its answer, or several of them."""
    draw = rng.random()
    if draw < 0.1:
        country, capital = rng.choice(tuple(CAPITALS.items()))
        form = rng.choice(
            ("Text: The capital of {0} is {1}.\nJSON:", "Give the capital of {0} as JSON.\nJSON:")
        )
        return answered(
            rng, form.format(country, capital), json_text(rng, {"country": country, "capital": capital})
        )
    if draw < 0.3:
        return plain(" ".join(_fact(rng)[2] for _ in range(rng.randint(1, 4))))
    if draw < 0.42:
        country, capital = rng.choice(tuple(CAPITALS.items()))
        return answered(rng, f"The capital of {country} is", f"{capital}.")
    question, answer, _ = _fact(rng)
    form = rng.choice(("Q: {}\nA:", "Q: {}\nA:", "Question: {}\nAnswer:", "{}\n", "{}"))
    return answered(rng, form.format(question), answer)


def copying(rng: random.Random, names: list[str]) -> Document:
    """Names to repeat."""
    text = ", ".join(names)
    form = rng.choice(("Repeat: {}\nCopy:", "Copy: {}\n", "Text: {}\nRepeat:"))
    if rng.random() < 0.3:
        listed = json_text(rng, [*names])
        return Document((Segment(f"Names: {text}\nJSON: ", 0.1), Segment(listed)))
    return answered(rng, form.format(text), text)
