"""Explanations that read a matcher's mask: the same words for every kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from dcmodel.constraint import Explanation, Matcher, Walker
from dcmodel.constraints.expected import MAX_EXPECTED, THE_END, expected_after, name_bytes
from dcmodel.errors import DcModelError, DeadEndError
from dcmodel.mask import mask_words, row_allows, row_to_ids
from dctokenizers import Tokenizer

MAX_TEXT_SHOWN = 60
MAX_TOKENS_READ = 4096


def explain_from_mask(
    matcher: Matcher,
    tokenizer: Tokenizer,
    token_id: int,
    text: bytes,
    *,
    detail: str = "",
    walker: Callable[[], Walker] | None = None,
) -> Explanation:
    """Explain `token_id` by the matcher's mask; `text` is what it has accepted so far.

    `detail` is what the kind itself knows about a refusal, added to the reason. `walker` makes a walker
    at the beginning of the text: with it, what is expected is read from bytes and not from tokens.
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
        expected = expected_by_walker(walker, text) or ()
        reason = f"{name} is not allowed here, nor is any other token: {so_far}."
        return Explanation(token_id, False, reason, expected)
    allowed = row_to_ids(row, tokenizer.vocab_size).tolist()
    expected = expected_texts(tokenizer, allowed)
    # Special tokens are no text; nor is what comes after the end.
    if expected != (THE_END,) and tokenizer.special_token_ids.isdisjoint(
        set(allowed[:MAX_TOKENS_READ]) - set(tokenizer.eos_token_ids)
    ):
        expected = expected_by_walker(walker, text) or expected
    if row_allows(row, token_id):
        reason = f"{name} is allowed here: {so_far}."
        return Explanation(token_id, True, reason, expected, len(allowed))
    reason = f"{name} is not allowed here: {so_far}; expected {' or '.join(expected) or 'nothing'}."
    return Explanation(token_id, False, f"{reason} {detail}".rstrip(), expected, len(allowed))


def expected_by_walker(make: Callable[[], Walker] | None, text: bytes) -> tuple[str, ...] | None:
    """What a walker expects after `text`; None where there is no walker, or it went another way."""
    if make is None:
        return None
    try:
        walker = make()
        return expected_after(walker) if walker.walk(text) == len(text) else None
    except DcModelError:  # an explanation of a failure is no place for another one
        return None


def expected_texts(tokenizer: Tokenizer, allowed: list[int]) -> tuple[str, ...]:
    """Up to `MAX_EXPECTED` texts or classes of characters for a set of allowed tokens."""
    step = -(-len(allowed) // MAX_TOKENS_READ) or 1
    longest: dict[str, str] = {}
    first: set[int] = set()
    for token_id in allowed[::step]:
        token = tokenizer.token_bytes(token_id)
        if token_id in tokenizer.eos_token_ids or not token:
            continue
        text = token.decode("utf-8", errors="replace")
        if token_id in tokenizer.special_token_ids:
            longest[text] = text
            continue
        first.add(token[0])
        if len(text) > len(longest.get(text[:1], "")):
            longest[text[:1]] = text
    texts = [repr(text) for text in longest.values()]
    if len(texts) > MAX_EXPECTED:
        texts = name_bytes(first) or texts
    if any(token_id in tokenizer.eos_token_ids for token_id in allowed):
        texts.insert(0, THE_END)
    return tuple(texts[:MAX_EXPECTED])


def dead_end_message(make: Callable[[], Walker] | None, text: bytes) -> str:
    """What to say where no token at all is allowed after `text`."""
    message = f"the constraint allows no token after {show(text, tail=True)}"
    expected = expected_by_walker(make, text)
    if expected:
        return f"{message}: it expects {' or '.join(expected)}, which no token begins with."
    return f"{message}."


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
