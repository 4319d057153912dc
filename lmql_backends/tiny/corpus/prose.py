"""Plain text: short stories, remarks and texts with a topic."""

from __future__ import annotations

import random

from lmql_backends.tiny.corpus import words
from lmql_backends.tiny.corpus.document import Document, answered, plain
from lmql_backends.tiny.corpus.lists import spaced_words
from lmql_backends.tiny.corpus.names import NameMaker

_PRONOUNS = {"she": ("She", "her", "her"), "he": ("He", "his", "him")}
_BEGINNINGS = (
    "Once upon a time there was a {adj} {animal} who lived in a {place}.",
    "One {daytime}, {name} went to the {place} with a {adj} {thing}.",
    "{name} lived in a {adj} house near the {place}.",
    "There was a {adj} {job} called {name}.",
    "{name} had a {adj} {animal} and a {thing}.",
    "On a {weather} {daytime}, {name} found a {adj} {thing} in the {place}.",
    "A long time ago, a {job} named {name} came to a small town.",
    "It was a {weather} {daytime} and {name} was in the {place}.",
)
_MIDDLES = (
    "{She} wanted to find a {thing} for {her} friend {friend}.",
    "Every {daytime} {she} walked to the {place} and looked at the {animal}.",
    "{She} saw a {adj} {animal} and stopped.",
    '"What a {adj} {thing}!" said {name}.',
    '"Can you help me?" asked {friend}.',
    "Then {she} heard a noise behind the {thing}.",
    "{She} was very {mood}, because the {thing} was {adj}.",
    "{friend} came along and brought a {thing}.",
    "They sat down under a tree and ate some {food}.",
    "The {animal} ran away, but {name} was not {mood}.",
    "{She} opened the {thing} and found some {food} inside.",
    "It began to rain, so they went back to the {place}.",
    "{She} gave {her} {food} to the {animal}.",
    "After a while {she} became {mood}.",
    "The sun was shining and the birds were singing.",
    "{name} and {friend} talked about the {place} for a long time.",
    "Nobody knew where the {thing} had come from.",
    "{She} put the {thing} on the table and smiled.",
    "In the {place} there were many people, and all of them were {mood}.",
)
_ENDINGS = (
    "In the end, they were all {mood}.",
    "{name} went home and slept well.",
    "From that day on, {name} and {friend} were friends.",
    "And {she} never forgot the {adj} {animal}.",
    "That was the best day of the year.",
    "The next {daytime} {she} went back to the {place}.",
    "At night, {name} told the story to {her} family.",
)
_FILL: dict[str, tuple[str, ...]] = {
    "adj": spaced_words(
        "little old red big strange quiet friendly kind small clever tired beautiful new broken"
    ),
    "animal": words.CATEGORIES["animals"],
    "place": spaced_words(
        "forest garden market school park village river kitchen library harbour station castle"
    ),
    "thing": spaced_words(
        "book key box ball hat letter lamp basket map boat bell cake flower coin mirror chair"
    ),
    "mood": spaced_words("happy sad tired angry proud surprised hungry afraid glad calm"),
    "food": spaced_words("bread cheese apples soup cake rice honey nuts plums milk"),
    "daytime": spaced_words("morning evening afternoon day night Sunday Monday"),
    "weather": words.WEATHER,
    "job": words.JOBS[:30],
}
TOPICS: dict[str, tuple[str, ...]] = {
    "sports": (
        "The striker scored {n} goals in the final.",
        "{name} won the race in record time.",
        "The team from {city} lost the match after extra time.",
        "The coach is happy with the players of {city}.",
        "The tennis player {name} reached the final.",
        "Fans cheered when {name} won the gold medal.",
    ),
    "weather": (
        "Heavy rain is expected in {city} tomorrow.",
        "It will be sunny with {n} degrees in {city}.",
        "A storm is moving towards {city}.",
        "Snow fell all night in {city}.",
        "The weekend will be cloudy and cold.",
        "The wind will be strong and the temperature will fall.",
    ),
    "business": (
        "The shares of {company} rose by {n} percent.",
        "{company} reported a profit of {n} million.",
        "The bank raised interest rates again.",
        "{company} will cut {n} jobs this year.",
        "{name} is the new manager of {company}.",
        "Sales at {company} fell in the last quarter.",
    ),
    "food": (
        "Add {n} eggs and some flour, then stir well.",
        "The soup needs more salt and a little pepper.",
        "Bake the cake for {n} minutes.",
        "{name} cooked pasta with tomato sauce.",
        "Fresh bread tastes best with butter.",
        "Peel the potatoes and boil them for {n} minutes.",
    ),
    "politics": (
        "The government of {city} passed a new law.",
        "{name} was elected mayor of {city}.",
        "The president met the minister in {city}.",
        "Parliament will vote on the budget.",
        "The election in {city} was won by {name}.",
        "The minister {name} has resigned.",
    ),
    "science": (
        "Researchers in {city} discovered a new planet.",
        "The telescope took pictures of a distant galaxy.",
        "{name} studies the cells of plants.",
        "A new experiment shows how atoms behave.",
        "Scientists found the bones of a dinosaur near {city}.",
        "The laboratory in {city} tests a new vaccine.",
    ),
}


def story(rng: random.Random, names: NameMaker) -> Document:
    """Three to ten sentences about two people."""
    pronoun = rng.choice(tuple(_PRONOUNS))
    upper, possessive, _ = _PRONOUNS[pronoun]
    fixed = {"name": names.first(), "friend": names.first(), "she": pronoun, "She": upper, "her": possessive}
    count = rng.randint(1, 8)
    templates = [rng.choice(_BEGINNINGS), *rng.sample(_MIDDLES, count), rng.choice(_ENDINGS)]
    # The same thing, place and animal come back in a story.
    drawn = {kind: rng.sample(options, 2) for kind, options in _FILL.items()}
    sentences = [
        t.format(**fixed, **{kind: rng.choice(pair) for kind, pair in drawn.items()}) for t in templates
    ]
    text = " ".join(sentences)
    if rng.random() < 0.2:
        return answered(rng, f"Write a story about {fixed['name']}.\n", text)
    return plain(text)


def topic(rng: random.Random, names: NameMaker) -> Document:
    """A remark and its topic, or the remark alone."""
    label = rng.choice(tuple(TOPICS))
    texts = rng.sample(TOPICS[label], rng.choice((1, 1, 2)))
    text = " ".join(texts).format(
        n=rng.randint(2, 40), name=names.person(), city=names.city(), company=names.company()
    )
    draw = rng.random()
    if draw < 0.2:
        return plain(text)
    if draw < 0.8:
        return answered(rng, f"Text: {text}\nTopic:", label)
    if draw < 0.9:
        return answered(rng, f"Write a sentence about {label}.\n", text)
    return answered(rng, f"Text: {text}\nQ: What is the topic?\nA:", label)
