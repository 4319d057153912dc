"""A small vocabulary, and what the tests of all kinds need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dcmodel.constraint import Matcher
from dcmodel.errors import DeadEndError
from dcmodel.mask import mask_words, row_to_ids
from dctokenizers import Tokenizer, from_tiktoken
from dctokenizers.families.tiktoken import make_encoding

DATA = Path(__file__).parents[4] / "shared" / "data"
MERGES = (
    *("ab", "abc", "bc", "ba", "aa", "aaa", "ye", "yes", " please", "no", "not", "12", "23", "123"),
    *('{"', '":', '": ', ", ", '"a', "true", "[]", "é", "üb", "x+", "+x", "()", "ST", "OP", "STOP"),
)


def make_tokenizer() -> Tokenizer:
    """All bytes, some longer tokens, two ends and a special token: 288 ids."""
    pieces = [bytes([byte]) for byte in range(256)]
    pieces += [merge.encode() for merge in MERGES if len(merge.encode()) > 1]
    encoding = make_encoding(
        "small",
        ranks={piece: rank for rank, piece in enumerate(pieces)},
        pat_str=r"[^\r\n]+|[\r\n]",
        special_tokens={
            "<|endoftext|>": len(pieces),
            "<|turn|>": len(pieces) + 1,
            "<|tool|>": len(pieces) + 2,
        },
    )
    return from_tiktoken(encoding).with_eos([len(pieces), len(pieces) + 1])


@pytest.fixture(scope="session")
def small() -> Tokenizer:
    return make_tokenizer()


@pytest.fixture(scope="session")
def large() -> Tokenizer:
    """cl100k_base, a real vocabulary."""
    path = DATA / "tokenizers" / "cl100k_base.tiktoken.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return from_tiktoken(path)


def mask_of(matcher: Matcher, tokenizer: Tokenizer) -> set[int]:
    """The allowed ids; none at a dead end. The row is longer than needed and full of rubbish before."""
    row = np.full(mask_words(tokenizer.vocab_size) + 3, 0x5A5A5A5A, dtype=np.int32)
    try:
        matcher.fill_mask(row)
    except DeadEndError:
        return set()
    assert not row[mask_words(tokenizer.vocab_size) :].any()
    allowed = set(row_to_ids(row, row.size * 32).tolist())
    assert all(token_id < tokenizer.vocab_size for token_id in allowed)
    return allowed


@pytest.fixture(scope="session")
def masks():
    return mask_of
