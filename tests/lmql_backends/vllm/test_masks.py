"""Masks that are begun early are those that would have been filled later."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import Regex
from dcmodel.scheduling.mask_filler import MaskFiller
from lmql_backends.vllm.masks import EarlyMasks


@pytest.fixture
def tokenizer():
    return small_tokenizer()


@pytest.fixture
def matchers(tokenizer):
    return [Regex(rf"[a-{last}]+").compile(tokenizer).matcher() for last in "bdfz"]


def filled(tokenizer, matchers):
    filler = MaskFiller(tokenizer.vocab_size)
    filler.start(matchers)
    rows, failures = filler.finish(len(matchers))
    filler.close()
    assert not failures
    return rows.copy()


def test_a_start_with_the_same_matchers_finds_what_was_begun(tokenizer, matchers):
    masks = EarlyMasks(tokenizer.vocab_size)
    masks.begin(matchers)
    masks.start(matchers)
    rows, failures = masks.finish(len(matchers))
    assert not failures
    np.testing.assert_array_equal(rows, filled(tokenizer, matchers))
    masks.close()


@pytest.mark.parametrize("others", [slice(1, 2), slice(0, 3), slice(None, None, -1)])
def test_a_start_with_others_fills_theirs(tokenizer, matchers, others):
    masks = EarlyMasks(tokenizer.vocab_size)
    masks.begin(matchers)
    masks.start(matchers[others])
    rows, failures = masks.finish(len(matchers[others]))
    assert not failures
    np.testing.assert_array_equal(rows, filled(tokenizer, matchers[others]))
    masks.close()


def test_what_was_begun_in_vain_leaves_nothing_behind(tokenizer, matchers):
    masks = EarlyMasks(tokenizer.vocab_size)
    masks.begin(matchers)
    masks.drop()
    masks.begin(matchers[:1])
    masks.start(matchers[:1])
    rows, _ = masks.finish(1)
    np.testing.assert_array_equal(rows, filled(tokenizer, matchers[:1]))
    masks.close()
