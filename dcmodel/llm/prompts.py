"""Prompts and continuations as token ids: what is one prompt, what a batch, and where a border falls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import index
from typing import Any, cast

import numpy as np

from dcmodel.errors import InvalidRequestError, TokenRangeError
from dcmodel.types import ScoreRequest
from dctokenizers import Tokenizer, TokenizerError

Prompt = str | Sequence[int]
"""A text, or token ids."""
Prompts = Sequence[str] | Sequence[Sequence[int]]
Continuation = str | Sequence[int]
"""What may follow a prompt: a text, or token ids."""
Continuations = Sequence[Continuation] | Sequence[Sequence[Continuation]]
"""One list for all prompts, or one list for each."""


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


def scoring_request(
    tokenizer: Tokenizer, prompt: Prompt, continuations: Sequence[Continuation], *, top_logprobs: int = 0
) -> ScoreRequest:
    """Tokenize continuations in the context of their prompt, as lm-evaluation-harness does.

    Whitespace at the end of a text prompt is moved to each continuation, since most tokenizers join it
    with the word after it. Prompt and continuation are then encoded together, and what follows the
    prompt's own tokens is the continuation. Where those are not the beginning of the whole (a token
    would span the border), and for prompts of token ids, the continuation is encoded by itself.
    Token ids are scored as they are, after the whole prompt where all continuations are token ids.
    """
    check_continuations(continuations)
    moved = ""
    if isinstance(prompt, str) and prompt.strip() and any(isinstance(item, str) for item in continuations):
        stripped = prompt.rstrip()
        prompt, moved = stripped, prompt[len(stripped) :]
    if moved and not all(isinstance(item, str) for item in continuations):
        raise InvalidRequestError(
            "texts and token ids cannot both follow a prompt that ends in whitespace, which is the texts'.",
            remedy="Score them in two calls, or give the prompt as token ids.",
        )
    start = prompt_ids(tokenizer, prompt)
    context = prompt if isinstance(prompt, str) else None
    ids = tuple(
        _continuation_ids(tokenizer, context, start, moved + item)
        if isinstance(item, str)
        else _checked_ids(tokenizer, item)
        for item in continuations
    )
    return ScoreRequest(prompt_ids=start, continuations=ids, top_logprobs=top_logprobs)


def check_texts(texts: Sequence[str]) -> None:
    """Raise `InvalidRequestError` unless these are one or more texts, none of them empty."""
    _check_list(texts)
    for text in texts:
        if not isinstance(text, str) or not text:
            raise InvalidRequestError(
                f"{text!r:.60} cannot be scored.", remedy="Give texts of at least one character."
            )


def check_continuations(continuations: Sequence[Continuation]) -> None:
    """Raise `InvalidRequestError` unless these are one or more texts or lists of token ids, none empty."""
    _check_list(continuations)
    for item in continuations:
        if (not isinstance(item, str) and not _is_token_ids(item)) or not len(item):
            raise InvalidRequestError(
                f"{item!r:.60} cannot be scored.",
                remedy="Give texts of at least one character, or lists of token ids.",
            )


def continuations_per_prompt(
    continuations: Continuations, count: int, is_batch: bool
) -> list[Sequence[Continuation]]:
    """One list for each of `count` prompts: the same for all or, in a batch, as given."""
    _check_list(continuations, may_be_empty=True)
    items: list[Any] = list(continuations)
    is_one_list = not items or isinstance(items[0], str) or _is_token_ids(items[0])
    if not is_batch or is_one_list:
        return [cast(Sequence[Continuation], continuations)] * count
    if len(items) != count:
        raise InvalidRequestError(
            f"there are {count} prompts and {len(items)} lists of continuations.",
            remedy="Give one list per prompt, or one list of texts for all.",
        )
    return items


def text_ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """A whole text's own tokens, as they stand at the beginning of the model's input, without BOS."""
    return _encoded(partial(tokenizer.encode, text, prefix_space=True))


def following_ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """The tokens of a text by itself, to stand behind others."""
    return _encoded(partial(tokenizer.encode, text))


def parsed_ids(tokenizer: Tokenizer, text: str, *, at_start: bool = False) -> tuple[int, ...]:
    """The tokens of a text in which special tokens stand by their texts, BOS among them.

    `at_start`: as it stands at the beginning of the model's input.
    """
    return _encoded(partial(tokenizer.encode, text, parse_special=True, prefix_space=at_start))


def _check_list(items: Sequence[object], *, may_be_empty: bool = False) -> None:
    if isinstance(items, str) or not hasattr(items, "__len__"):
        raise InvalidRequestError(f"{items!r:.60} is no list.", remedy="Give a list, if only of one.")
    if not may_be_empty and not len(items):
        raise InvalidRequestError("there is nothing to score.", remedy="Give at least one text.")


def _is_token_ids(item: object) -> bool:
    """Judged by its first element, so that a list of 100,000 is not read twice."""
    return isinstance(item, Sequence | np.ndarray) and len(item) > 0 and hasattr(item[0], "__index__")


def _continuation_ids(
    tokenizer: Tokenizer, context: str | None, start: tuple[int, ...], text: str
) -> tuple[int, ...]:
    if context is not None:
        whole = _encoded_prompt(tokenizer, context + text)
        if whole[: len(start)] == start and len(whole) > len(start):
            return whole[len(start) :]
    return following_ids(tokenizer, text)


def _encoded_prompt(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return _encoded(partial(tokenizer.encode_prompt, text))


def _encoded(encode: Callable[[], list[int]]) -> tuple[int, ...]:
    try:
        return tuple(encode())
    except TokenizerError as error:
        raise InvalidRequestError(f"the text cannot be tokenized: {error}") from error


def _checked_ids(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[int, ...]:
    try:
        checked = tuple(index(item) for item in ids)
    except TypeError as error:
        raise InvalidRequestError(
            f"{ids!r:.60} is neither a text nor a list of token ids.", remedy="Give a str or whole numbers."
        ) from error
    wrong = next((item for item in checked if not 0 <= item < tokenizer.vocab_size), None)
    if wrong is not None:
        raise TokenRangeError(
            f"token id {wrong} is outside the vocabulary of {tokenizer.vocab_size} tokens.",
            remedy=f"Use ids from 0 to {tokenizer.vocab_size - 1}.",
        )
    return checked
