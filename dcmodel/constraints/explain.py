"""Explanations that read a matcher's mask: the same words for every kind."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dcmodel.constraint import Explanation, Matcher
from dcmodel.errors import DeadEndError
from dcmodel.mask import mask_words, row_allows, row_to_ids
from dctokenizers import Tokenizer

MAX_EXPECTED = 8
MAX_TEXT_SHOWN = 60
MAX_TOKENS_READ = 4096


def explain_from_mask(
    matcher: Matcher, tokenizer: Tokenizer, token_id: int, text: bytes, *, detail: str = ""
) -> Explanation:
    """Explain `token_id` by the matcher's mask; `text` is what it has accepted so far.

    `detail` is what the kind itself knows about a refusal, added to the reason.
    """
    if not 0 <= token_id < tokenizer.vocab_size:
        return Explanation(
            token_id, False, f"{token_id} is outside the vocabulary of {tokenizer.vocab_size}."
        )
    row = np.zeros(mask_words(tokenizer.vocab_size), dtype=np.int32)
    name = token_name(tokenizer, token_id)
    so_far = f"the text so far is {show(text, tail=True)}"
    try:
        matcher.fill_mask(row)
    except DeadEndError:
        return Explanation(token_id, False, f"{name} is not allowed here, nor is any other token: {so_far}.")
    if row_allows(row, token_id):
        return Explanation(token_id, True, f"{name} is allowed here: {so_far}.", ())
    expected = expected_texts(tokenizer, row_to_ids(row, tokenizer.vocab_size).tolist())
    reason = f"{name} is not allowed here: {so_far}; expected {' or '.join(expected) or 'nothing'}."
    return Explanation(token_id, False, f"{reason} {detail}".rstrip(), expected)


def expected_texts(tokenizer: Tokenizer, allowed: list[int]) -> tuple[str, ...]:
    """Up to `MAX_EXPECTED` texts for a set of allowed tokens: one, the longest, for each first character."""
    step = -(-len(allowed) // MAX_TOKENS_READ) or 1
    longest: dict[str, str] = {}
    for token_id in allowed[::step]:
        if token_id in tokenizer.eos_token_ids:
            continue
        text = tokenizer.token_bytes(token_id).decode("utf-8", errors="replace")
        key = text if token_id in tokenizer.special_token_ids else text[:1]
        if len(text) > len(longest.get(key, "")):
            longest[key] = text
    texts = [repr(text) for text in longest.values()]
    if any(token_id in tokenizer.eos_token_ids for token_id in allowed):
        texts.insert(0, "the end")
    return tuple(texts[:MAX_EXPECTED])


def token_name(tokenizer: Tokenizer, token_id: int) -> str:
    """A token as a person would write it: its text in quotes, or what it is."""
    if token_id in tokenizer.eos_token_ids:
        return f"the end of the text (token {token_id})"
    text = tokenizer.token_bytes(token_id)
    if token_id in tokenizer.special_token_ids:
        return f"the special token {show(text)} ({token_id})"
    return show(text)


def show(text: bytes, *, tail: bool = False) -> str:
    """Bytes as a quoted text of bounded length, its end where `tail`."""
    decoded = text.decode("utf-8", errors="replace")
    if len(decoded) <= MAX_TEXT_SHOWN:
        return repr(decoded)
    return "..." + repr(decoded[-MAX_TEXT_SHOWN:]) if tail else repr(decoded[:MAX_TEXT_SHOWN]) + "..."


def join_bytes(tokenizer: Tokenizer, token_ids: Iterable[int]) -> bytes:
    """The text of tokens as bytes, end-of-sequence and other special tokens left out."""
    special = tokenizer.special_token_ids
    return b"".join(tokenizer.token_bytes(i) for i in token_ids if i not in special)
