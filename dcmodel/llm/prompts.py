"""Prompts and continuations as token ids: what is one prompt, what a batch, and where a border falls."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, cast

from dcmodel.errors import InvalidRequestError, TokenRangeError
from dcmodel.types import ScoreRequest
from dctokenizers import Tokenizer, TokenizerError

Prompt = str | Sequence[int]
"""A text, or token ids."""
Prompts = Sequence[str] | Sequence[Sequence[int]]
Continuations = Sequence[str] | Sequence[Sequence[str]]
"""One list of texts for all prompts, or one list for each."""


def split_prompts(prompts: Prompt | Prompts) -> tuple[list[Prompt], bool]:
    """The prompts, and whether they are a batch.

    A text or a list of numbers is one prompt; an empty list is an empty batch.
    """
    if isinstance(prompts, str):
        return [prompts], False
    items: list[Any] = list(prompts)
    if items and not isinstance(items[0], str) and not hasattr(items[0], "__len__"):
        return [items], False
    return items, True


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt) -> tuple[int, ...]:
    """The prompt's token ids, with what the model wants at the beginning of a text."""
    if not len(prompt):
        raise InvalidRequestError("the prompt is empty.", remedy="Give at least one character or token id.")
    if isinstance(prompt, str):
        return _encoded_prompt(tokenizer, prompt)
    return _checked_ids(tokenizer, prompt)


def scoring_request(tokenizer: Tokenizer, prompt: Prompt, continuations: Sequence[str]) -> ScoreRequest:
    """Tokenize continuations in the context of their prompt, as lm-evaluation-harness does.

    Whitespace at the end of a text prompt is moved to each continuation, since most tokenizers join it
    with the word after it. Prompt and continuation are then encoded together, and what follows the
    prompt's own tokens is the continuation. Where those are not the beginning of the whole (a token
    would span the border), and for prompts of token ids, the continuation is encoded by itself.
    """
    check_texts(continuations)
    moved = ""
    if isinstance(prompt, str) and prompt.strip():
        stripped = prompt.rstrip()
        prompt, moved = stripped, prompt[len(stripped) :]
    start = prompt_ids(tokenizer, prompt)
    context = prompt if isinstance(prompt, str) else None
    ids = tuple(_continuation_ids(tokenizer, context, start, moved + text) for text in continuations)
    return ScoreRequest(prompt_ids=start, continuations=ids)


def check_texts(texts: Sequence[str]) -> None:
    """Raise `InvalidRequestError` unless these are one or more texts, none of them empty."""
    if isinstance(texts, str) or not hasattr(texts, "__len__"):
        raise InvalidRequestError(f"{texts!r} is no list.", remedy="Give a list of texts, if only of one.")
    if not len(texts):
        raise InvalidRequestError("there is nothing to score.", remedy="Give at least one text.")
    for text in texts:
        if not isinstance(text, str) or not text:
            raise InvalidRequestError(
                f"{text!r} cannot be scored.", remedy="Give texts of at least one character."
            )


def continuations_per_prompt(continuations: Continuations, count: int, is_batch: bool) -> list[Sequence[str]]:
    """One list for each of `count` prompts: the same for all or, in a batch, as given."""
    items: list[Any] = list(continuations)
    if not is_batch or not items or isinstance(continuations, str) or isinstance(items[0], str):
        return [cast(Sequence[str], continuations)] * count
    if len(items) != count:
        raise InvalidRequestError(
            f"there are {count} prompts and {len(items)} lists of continuations.",
            remedy="Give one list per prompt, or one list of texts for all.",
        )
    return items


def _continuation_ids(
    tokenizer: Tokenizer, context: str | None, start: tuple[int, ...], text: str
) -> tuple[int, ...]:
    if context is not None:
        whole = _encoded_prompt(tokenizer, context + text)
        if whole[: len(start)] == start and len(whole) > len(start):
            return whole[len(start) :]
    try:
        return tuple(tokenizer.encode(text))
    except TokenizerError as error:
        raise InvalidRequestError(f"the text cannot be tokenized: {error}") from error


def _encoded_prompt(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    try:
        return tuple(tokenizer.encode_prompt(text))
    except TokenizerError as error:
        raise InvalidRequestError(f"the text cannot be tokenized: {error}") from error


def _checked_ids(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[int, ...]:
    try:
        checked = tuple(index(item) for item in ids)
    except TypeError as error:
        raise InvalidRequestError(
            "a prompt is neither a text nor a list of token ids.", remedy="Give a str or whole numbers."
        ) from error
    wrong = next((item for item in checked if not 0 <= item < tokenizer.vocab_size), None)
    if wrong is not None:
        raise TokenRangeError(
            f"token id {wrong} is outside the vocabulary of {tokenizer.vocab_size} tokens.",
            remedy=f"Use ids from 0 to {tokenizer.vocab_size - 1}.",
        )
    return checked
