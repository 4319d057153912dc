"""Reviews with a sentiment, composed of clauses; texts are split by their hash."""

from __future__ import annotations

import random
from dataclasses import dataclass

from lmql_backends.tiny.corpus.document import Document, answered, json_text, plain
from lmql_backends.tiny.corpus.lists import comma_words
from lmql_backends.tiny.corpus.names import Split, split_of

LABELS = ("positive", "negative")


ASPECTS: dict[str, tuple[str, ...]] = {
    "film": comma_words(
        "plot, acting, actors, director, jokes, music, ending, story, script, cast, camera work, "
        "dialogue, pace"
    ),
    "book": comma_words("story, style, ending, first chapter, hero, plot, language, cover, humour"),
    "hotel": comma_words("room, bed, breakfast, staff, view, bathroom, pool, location, service, lobby"),
    "restaurant": comma_words(
        "food, service, staff, pizza, waitress, pasta, salad, bread, coffee, soup, waiter, dessert, "
        "steak, wine, menu, fish, atmosphere, kitchen"
    ),
    "phone": comma_words("screen, battery, camera, sound, design, speaker, keyboard, software, signal"),
    "laptop": comma_words("screen, battery, keyboard, fan, design, software, touchpad, hard drive"),
    "camera": comma_words("picture, lens, battery, zoom, display, handle, manual"),
    "game": comma_words("story, graphics, music, controls, levels, ending, sound, idea"),
    "concert": comma_words("band, singer, sound, light show, hall, crowd, music, last song"),
    "museum": comma_words("exhibition, guide, building, cafe, shop, collection, audio tour"),
    "shop": comma_words("staff, choice, service, quality, advice, delivery, website"),
    "chair": comma_words("seat, fabric, colour, quality, back, design, wood"),
    "kettle": comma_words("handle, lid, quality, design, switch, cable"),
    "coat": comma_words("fabric, fit, colour, cut, pockets, quality, lining"),
    "trip": comma_words("guide, bus, hotel, food, weather, organisation, boat"),
    "course": comma_words("teacher, material, videos, exercises, pace, explanations"),
}
GOOD = comma_words(
    "great, wonderful, excellent, fantastic, lovely, perfect, superb, amazing, brilliant, beautiful, "
    "delightful, outstanding, impressive, charming, pleasant, marvellous, fine, splendid, first-class, "
    "terrific, very good, good, nice, fabulous, magnificent, awesome, a joy, a delight, top, "
    "better than expected, delicious, friendly, tasty, kind, helpful, clean, comfortable, warm, fresh, "
    "fast, sharp, bright, funny, exciting, moving, clever, cosy, polite, quick, reliable, sturdy, "
    "elegant, stunning, enjoyable, fun, interesting, gripping, touching, perfectly made, flawless, "
    "well made, smooth, relaxing, entertaining, attentive, yummy, cute"
)
BAD = comma_words(
    "terrible, awful, horrible, bad, poor, dreadful, boring, disappointing, weak, dull, cheap, ugly, "
    "useless, annoying, mediocre, disgusting, miserable, appalling, shoddy, pathetic, very bad, "
    "worse than expected, a mess, a disaster, a joke, broken, unpleasant, lousy, rubbish, a letdown, "
    "cold, rude, dirty, slow, unfriendly, tasteless, noisy, loud, bland, stale, overpriced, "
    "uncomfortable, blurry, confusing, predictable, silly, stupid, clumsy, flimsy, faulty, burnt, "
    "too salty, soggy, smelly, unreliable, painful, tedious, badly made, expensive, too small, "
    "too late, tiring, nasty, inedible, careless, unhelpful, defective"
)
ADVERBS = comma_words("really, simply, absolutely, truly, quite, just, totally, so")
GOOD_LINES = comma_words(
    "I loved it, I love this {s}, I enjoyed every minute, We will come back, I would buy it again, "
    "Highly recommended, I recommend this {s} to everyone, Worth every cent, It made my day, "
    "Five stars, I was delighted, What a great {s}, I am very happy with this {s}, "
    "We had a wonderful time, Everything worked at once, It exceeded my hopes, "
    "My whole family loves it, Best {s} in years, I could not be happier, Well done, "
    "I cannot wait to come back, It works like a charm, Thank you for this {s}, A real gem, "
    "I was pleasantly surprised, Money well spent, Two thumbs up, I am impressed, "
    "It could not have been better, I would go again at any time, I love it, I like it, "
    "I liked this {s}, It is the best {s} that I know, I am satisfied, I am happy, I had a lot of fun, "
    "It was a pleasure, We laughed a lot, I will recommend it, I really like it, Great {s}, Great value"
)
BAD_LINES = comma_words(
    "I hated it, I hate this {s}, I was bored the whole time, We will never come back, "
    "I want my money back, Stay away, I cannot recommend this {s}, A waste of money, A waste of time, "
    "It ruined my day, One star, I was very disappointed, What a terrible {s}, "
    "I am very unhappy with this {s}, We had a terrible time, Nothing worked, It broke after two days, "
    "I regret it, Worst {s} in years, Never again, Do not buy this {s}, I sent it back, I left early, "
    "Avoid this {s}, I was unpleasantly surprised, Money thrown away, Thumbs down, I expected more, "
    "It could not have been worse, I fell asleep, They should be ashamed, What a shame, I hate it, "
    "I did not like it, I do not like this {s}, It is the worst {s} that I know, I am not satisfied, "
    "I am angry, It was no fun, It was a nightmare, I would not recommend it, I want a refund, "
    "Terrible {s}, Far too expensive, It stopped working, It never arrived"
)
LIKED = comma_words("loved, liked, really liked, enjoyed, adored")
DISLIKED = comma_words("hated, disliked, did not like, did not enjoy, really hated")
PLEASED = comma_words("impressed, delighted, convinced, charmed")
ANNOYED = comma_words("disappointed, annoyed, bored, did not convince")
NEUTRAL_LINES = comma_words(
    "I went there with my sister, We bought it last week, I got it as a present, "
    "It was my first {s} of this kind, I paid the full price, A friend told me about it, "
    "It was raining all day, I read about it in the paper, We went on a Sunday, It took an hour, "
    "This is my second {s} this year, We were a group of five"
)


@dataclass(frozen=True, slots=True)
class Review:
    """A review and what it is about."""

    text: str
    subject: str
    label: str


class ReviewMaker:
    """Draws reviews of which the text falls on one split."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self._rng = rng
        self._split = split

    def draw(self, label: str | None = None) -> Review:
        rng = self._rng
        label = label or rng.choice(LABELS)
        while True:
            subject = rng.choice(tuple(ASPECTS))
            text = self._text(subject, good=label == "positive")
            # The same words with another mark at the end are no unseen review.
            if split_of(text.replace("!", ".")) is self._split:
                return Review(text, subject, label)

    def _text(self, subject: str, *, good: bool) -> str:
        rng = self._rng
        sentences = [self._clause(subject, good) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
        if rng.random() < 0.15:
            sentences.insert(rng.randrange(len(sentences) + 1), rng.choice(NEUTRAL_LINES))
        return " ".join(s.format(s=subject) + rng.choice((".", ".", ".", "!")) for s in sentences)

    def _clause(self, subject: str, good: bool) -> str:
        rng = self._rng
        same, other = (GOOD, BAD) if good else (BAD, GOOD)
        if rng.random() < 0.3:
            return rng.choice(GOOD_LINES if good else BAD_LINES)
        first, second = rng.sample(ASPECTS[subject], 2)
        word, again, opposite = rng.choice(same), rng.choice(same), rng.choice(other)
        adverb = (
            f"{rng.choice(ADVERBS)} "
            if rng.random() < 0.35 and not word.startswith(("a ", "very", "top"))
            else ""
        )
        was, is_ = _verb(first, "was"), _verb(first, "is")
        return rng.choice(
            (
                f"The {first} {was} {adverb}{word}",
                f"The {first} {is_} {adverb}{word}",
                f"The {first} {was} {adverb}{word} and the {second} {_verb(second, 'was')} {again}",
                f"The {first} {was} {adverb}{word} and {again}",
                f"I {rng.choice(LIKED if good else DISLIKED)} the {first}",
                f"The {first} {rng.choice(PLEASED if good else ANNOYED)} me",
                f"I found the {first} {adverb}{word}",
                f"The {subject} was {adverb}{word}",
                f"This {subject} is {adverb}{word}",
                f"The {first} {was} {adverb}{word}, the {second} too",
                f"The {first} {was} not {opposite} at all",
                f"The {first} {was} {opposite}, but all in all the {subject} was {adverb}{word}",
                f"Although the {first} {was} {opposite}, the {subject} as a whole was {adverb}{word}",
                f"In my opinion the {first} and the {second} are {word}",
                f"It is {word}" if " " in word + again else f"{word.capitalize()} {first}, {again} {second}",
                f"My friends say that the {first} {is_} {opposite}, but I found it {word}",
            )
        )


def _verb(noun: str, singular: str) -> str:
    is_plural = noun.endswith("s") and not noun.endswith(("ss", "bus", "lens"))
    return {"was": "were", "is": "are"}[singular] if is_plural else singular


def sentiment_prompt(text: str) -> str:
    """The documented prompt."""
    return f"Review: {text}\nSentiment:"


def sentiment(rng: random.Random, maker: ReviewMaker) -> Document:
    """A review and its label, in one of several forms; or a review that is asked for."""
    review = maker.draw()
    draw = rng.random()
    if draw < 0.7:
        return answered(rng, sentiment_prompt(review.text), review.label)
    if draw < 0.8:
        record = {"subject": review.subject, "sentiment": review.label}
        if rng.random() < 0.5:
            record = {"sentiment": review.label}
        fields = f"Fields: {', '.join(record)}\n" if rng.random() < 0.6 else ""
        return answered(rng, f"Review: {review.text}\n{fields}JSON:", json_text(rng, {**record}))
    if draw < 0.88:
        question = rng.choice(("Is this review positive or negative?", "What is the sentiment?"))
        return answered(rng, f"Review: {review.text}\nQ: {question}\nA:", review.label)
    if draw < 0.92:
        yes = rng.random() < 0.5
        asked = review.label if yes else LABELS[review.label == LABELS[0]]
        return answered(rng, f"Review: {review.text}\nQ: Is this review {asked}?\nA:", "yes" if yes else "no")
    if draw < 0.97:
        return answered(rng, f"Write a {review.label} review of a {review.subject}.\nReview:", review.text)
    return plain(review.text)
