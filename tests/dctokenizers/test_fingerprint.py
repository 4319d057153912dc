"""Equal fingerprints mean equal vocabularies."""

from __future__ import annotations

import time

import pytest

import dctokenizers
from dctokenizers import TokenIdError, TokenizerError, Vocabulary

from .conftest import DATA, REAL_FILES, byte_level_backend, spm_backend

A = Vocabulary([b"a", b"bc", b"<s>"], [2])


@pytest.mark.parametrize(
    "other",
    [
        Vocabulary([b"ab", b"c", b"<s>"], [2]),
        Vocabulary([b"a", b"bc", b"<s>"], []),
        Vocabulary([b"a", b"bc", b"<s>", b""], [2]),
        Vocabulary([b"bc", b"a", b"<s>"], [2]),
        Vocabulary([b"a", b"bc", b"<s>"], [1, 2]),
    ],
)
def test_any_difference_in_bytes_size_or_special_ids_changes_the_fingerprint(other):
    assert other.fingerprint != A.fingerprint


def test_equal_vocabularies_have_equal_fingerprints():
    assert Vocabulary((b"a", b"bc", b"<s>"), {2}).fingerprint == A.fingerprint
    assert len(bytes.fromhex(A.fingerprint)) == 32


def test_the_same_vocabulary_in_two_families_has_one_fingerprint(real):
    assert real("r50k_base.tiktoken.gz").fingerprint == real("ggml-vocab-gpt-2.gguf").fingerprint


def test_tekken_json_and_its_ranks_differ_only_in_the_names_of_special_tokens(real):
    tekken, ranks = real("tekken.json"), dctokenizers.from_tiktoken(DATA / "tekken_240911.tiktoken.gz")
    assert tekken.all_token_bytes()[1000:] == ranks.all_token_bytes()[1000:]
    assert tekken.special_token_ids == ranks.special_token_ids == frozenset(range(1000))


def test_different_vocabularies_have_different_fingerprints(real):
    assert len({real(file).fingerprint for file in REAL_FILES}) == len(REAL_FILES) - 1


def test_pipelines_with_the_same_bytes_have_one_fingerprint():
    styles = [
        dctokenizers.from_huggingface(spm_backend(style=style)) for style in ("normalizer", "metaspace")
    ]
    assert styles[0].fingerprint == styles[1].fingerprint
    assert styles[0].fingerprint != dctokenizers.from_huggingface(byte_level_backend()).fingerprint


def test_a_fingerprint_of_200_000_tokens_takes_a_fraction_of_a_second():
    vocabulary = Vocabulary([b"token%d" % i for i in range(200_000)], [])
    start = time.process_time()
    assert vocabulary.fingerprint
    assert time.process_time() - start < 0.5


def test_special_ids_must_be_in_the_vocabulary():
    with pytest.raises(TokenIdError):
        Vocabulary([b"a"], [1])


def test_cover_takes_the_longest_ordinary_tokens():
    vocabulary = Vocabulary([b"\xe4", b"\xbd", b"\xe4\xbd", b"\xa0", b"\xe4\xbd\xa0"], [4])
    assert vocabulary.cover(b"\xe4\xbd\xa0\xe4") == [2, 3, 0]
    with pytest.raises(TokenizerError, match="0x41"):
        vocabulary.cover(b"A")
