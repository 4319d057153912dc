"""The training corpus of the embedded model and its held-out sets: generated, seeded, no outside text.

Names, review texts and pairs of numbers fall on one of two sides by a hash (`names.split_of`), so that
what is held out cannot occur in training, whatever the seeds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from lmql_backends.tiny.corpus import knowledge, prose, records, reviews, structures
from lmql_backends.tiny.corpus.document import Document, Segment, joined
from lmql_backends.tiny.corpus.names import NameMaker, Split, split_of

__all__ = ["Document", "Segment", "Split", "documents", "split_of"]

_SHARES = {
    "extraction": 0.36,
    "reading": 0.06,
    "copying": 0.03,
    "sentiment": 0.15,
    "sum": 0.14,
    "fact": 0.1,
    "json": 0.06,
    "list": 0.04,
    "story": 0.04,
    "topic": 0.02,
}
_SEVERAL = 0.12


def documents(seed: int) -> Iterator[Document]:
    """Training documents without end; the same seed gives the same ones."""
    rng = random.Random(seed)
    names = NameMaker(rng, Split.TRAIN)
    record_maker = records.RecordMaker(rng, Split.TRAIN)
    review_maker = reviews.ReviewMaker(rng, Split.TRAIN)

    def draw(task: str) -> Document:
        match task:
            case "extraction":
                return records.extraction(rng, record_maker)
            case "reading":
                return records.reading(rng, record_maker)
            case "copying":
                return knowledge.copying(rng, [names.word() for _ in range(rng.randint(1, 8))])
            case "sentiment":
                return reviews.sentiment(rng, review_maker)
            case "sum":
                return knowledge.sum_document(rng)
            case "fact":
                return knowledge.fact(rng)
            case "json":
                return structures.json_document(rng, names)
            case "list":
                return structures.list_document(rng)
            case "story":
                return prose.story(rng, names)
            case _:
                return prose.topic(rng, names)

    while True:
        tasks = rng.choices(list(_SHARES), list(_SHARES.values()), k=1)
        if rng.random() < _SEVERAL:
            # Examples before the question: the same task several times in one document.
            yield joined([draw(tasks[0]) for _ in range(rng.randint(2, 5))])
        else:
            yield draw(tasks[0])
