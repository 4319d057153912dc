"""Rows of token ids to train on: documents one after another, each row from the start of a document."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from lmql_backends.tiny.corpus import Document, documents
from lmql_backends.tiny.tokenizer import special_ids

_CHUNK = 2_000

IdArray = npt.NDArray[np.int64]
WeightArray = npt.NDArray[np.float32]


def _encoded(tokenizer: Tokenizer, batch: list[Document]) -> Iterator[tuple[list[int], list[float]]]:
    """Ids and loss weights of each document; its segments are tokenized apart."""
    bos, eos, _ = special_ids(tokenizer)
    texts = [segment.text for document in batch for segment in document.segments]
    encodings = iter(tokenizer.encode_batch_fast(texts, add_special_tokens=False))
    for document in batch:
        ids, weights = [bos], [0.0]
        for segment, encoding in zip(document.segments, encodings, strict=False):
            ids += encoding.ids
            weights += [segment.weight] * len(encoding.ids)
        yield [*ids, eos], [*weights, 1.0]


def rows(tokenizer: Tokenizer, seed: int, length: int) -> Iterator[tuple[list[int], list[float]]]:
    """Rows of exactly `length` tokens without end; the document that passes the end of a row is cut."""
    stream = documents(seed)
    ids: list[int] = []
    weights: list[float] = []
    while True:
        for more_ids, more_weights in _encoded(tokenizer, list(itertools.islice(stream, _CHUNK))):
            ids += more_ids
            weights += more_weights
            if len(ids) >= length:
                yield ids[:length], weights[:length]
                ids, weights = [], []


def batches(tokenizer: Tokenizer, seed: int, length: int, size: int) -> Iterator[tuple[IdArray, WeightArray]]:
    """Batches `[size, length]` of ids and of weights."""
    stream = rows(tokenizer, seed, length)
    while True:
        ids, weights = zip(*itertools.islice(stream, size), strict=True)
        yield np.array(ids, dtype=np.int64), np.array(weights, dtype=np.float32)
