"""Plans of draws, to be changed in what a test is about."""

from __future__ import annotations

import dataclasses

import numpy as np

from dcmodel.logits import SamplePlan
from dcmodel.mask import mask_words

NO_TRIPLES = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))


def make_plan(rows, vocab_size, **changes):
    size = len(rows)
    plan = SamplePlan(
        rows=np.asarray(rows, dtype=np.int64),
        bitmask=np.full((size, mask_words(vocab_size)), -1, dtype=np.int32),
        is_masked=np.zeros(size, dtype=np.bool_),
        temperature=np.zeros(size, dtype=np.float32),
        top_k=np.zeros(size, dtype=np.int64),
        top_p=np.ones(size, dtype=np.float32),
        min_p=np.zeros(size, dtype=np.float32),
        uniform=np.zeros(size),
        repetition=NO_TRIPLES,
        bias=NO_TRIPLES,
        want_logprobs=True,
        top_logprobs=0,
    )
    return dataclasses.replace(plan, **changes)


def pack(allowed, words=None):
    """Masks of so many words; by default as many as the vocabulary needs."""
    size, vocab_size = allowed.shape
    needed = mask_words(vocab_size)
    bits = np.zeros((size, needed * 32), dtype=np.uint8)
    bits[:, :vocab_size] = allowed
    packed = np.packbits(bits, axis=1, bitorder="little").view(np.int32)
    return np.pad(packed, [(0, 0), (0, max(0, (words or needed) - needed))], constant_values=-1)[:, :words]


def random_triples(rng, size, vocab_size, low, high):
    pairs = np.unique(rng.integers(0, [size, vocab_size], size=(size * 6, 2)), axis=0)
    rng.shuffle(pairs)
    values = rng.uniform(low, high, len(pairs)).astype(np.float32)
    return pairs[:, 0], pairs[:, 1], values
