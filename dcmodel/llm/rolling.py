"""The part of `LLM` that scores whole texts, however long."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import fsum
from typing import overload

from dcmodel.adapted import through_adapter
from dcmodel.checks import check_integer
from dcmodel.errors import CapabilityError, ContextLengthError, InvalidRequestError
from dcmodel.llm.batches import raise_first, run_batch
from dcmodel.llm.loading import ModelHolder
from dcmodel.llm.prompts import Prompt, Prompts, prompt_ids, split_prompts, text_ids
from dcmodel.llm.results import RollingScore
from dcmodel.llm.windows import Window, rolling_windows
from dcmodel.loop import run
from dcmodel.model import DcModel
from dcmodel.types import ScoreRequest
from dctokenizers import Tokenizer


class Rolling(ModelHolder):
    """`rolling` and its asynchronous form."""

    @overload
    def rolling(  # type: ignore[overload-overlap]
        self,
        texts: Prompt,
        *,
        overlap: int = ...,
        window: int | None = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> RollingScore: ...
    @overload
    def rolling(
        self,
        texts: Prompts,
        *,
        overlap: int = ...,
        window: int | None = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> list[RollingScore]: ...
    def rolling(
        self,
        texts: Prompt | Prompts,
        *,
        overlap: int = 1,
        window: int | None = None,
        adapter: str | None = None,
        progress: bool | None = None,
    ) -> RollingScore | list[RollingScore]:
        """Log-likelihood of a whole text (or token ids), or of each of a list, however long.

        The policy is lm-evaluation-harness': the first token is predicted after the model's beginning-of-text
        token (after its end-of-text token where it has no other). A text beyond `window` tokens (the
        model's context, unless told otherwise) is cut so that each token is predicted exactly once: each
        later window begins with `overlap` tokens of the one before as context, the last with as many as it
        has room for. More overlap means more context for the tokens at a window's beginning, and more
        windows to compute. All windows of all texts are with the model at once; the progress bar counts
        windows.
        """
        return run(score_texts(through_adapter(self.model, adapter), texts, overlap, window, progress))

    @overload
    async def arolling(  # type: ignore[overload-overlap]
        self,
        texts: Prompt,
        *,
        overlap: int = ...,
        window: int | None = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> RollingScore: ...
    @overload
    async def arolling(
        self,
        texts: Prompts,
        *,
        overlap: int = ...,
        window: int | None = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> list[RollingScore]: ...
    async def arolling(
        self,
        texts: Prompt | Prompts,
        *,
        overlap: int = 1,
        window: int | None = None,
        adapter: str | None = None,
        progress: bool | None = None,
    ) -> RollingScore | list[RollingScore]:
        """`rolling`, awaited."""
        return await score_texts(
            through_adapter(await self._ready(), adapter), texts, overlap, window, progress
        )


async def score_texts(
    model: DcModel, texts: Prompt | Prompts, overlap: int, window: int | None, progress: bool | None
) -> RollingScore | list[RollingScore]:
    """The core of both forms."""
    window = _checked_window(model, overlap, window)
    prefix_token = _prefix_token(model)
    items, is_batch = split_prompts(texts)
    token_lists = [_token_ids(model.tokenizer, item) for item in items]
    windows = [
        list(rolling_windows(ids, prefix_token, window=window, overlap=overlap)) for ids in token_lists
    ]
    jobs = [partial(_score_window, model, part) for parts in windows for part in parts]
    scores: Iterator[tuple[float, ...]] = iter(raise_first(await run_batch(jobs, progress=progress)))
    results = []
    for item, ids, parts in zip(items, token_lists, windows, strict=True):
        logprobs = tuple(value for _ in parts for value in next(scores))
        text = item if isinstance(item, str) else model.tokenizer.decode(ids)
        results.append(RollingScore(text=text, logprob=fsum(logprobs), token_ids=ids, logprobs=logprobs))
    return results if is_batch else results[0]


async def _score_window(model: DcModel, window: Window) -> tuple[float, ...]:
    request = ScoreRequest(prompt_ids=window.context, continuations=(window.predicted,))
    return (await model.score(request)).continuations[0].logprobs


def _checked_window(model: DcModel, overlap: int, window: int | None) -> int:
    limit = model.info.max_positions
    if window is None:
        window = limit
    check_integer("window", window, low=1)
    check_integer("overlap", overlap, low=1)
    if window > limit:
        raise ContextLengthError(
            f"window is {window}, and the model's context {limit}.", remedy="Give a smaller window, or none."
        )
    if overlap > window:
        raise InvalidRequestError(
            f"overlap is {overlap} and the window {window}: it would hold nothing new.",
            remedy=f"Give an overlap from 1 to {window}.",
        )
    return window


def _prefix_token(model: DcModel) -> int:
    tokenizer = model.tokenizer
    if tokenizer.bos_token_id is not None:
        return tokenizer.bos_token_id
    if tokenizer.eos_token_ids:
        return tokenizer.eos_token_ids[0]
    raise CapabilityError(
        f"the tokenizer of {model.info.name!r} has no token that begins or ends a text: there is nothing to "
        "predict the first token from.",
        remedy="Use score, with the text's beginning as the prompt.",
    )


def _token_ids(tokenizer: Tokenizer, item: Prompt) -> tuple[int, ...]:
    if not isinstance(item, str):
        return prompt_ids(tokenizer, item)
    if not item:
        raise InvalidRequestError("a text is empty.", remedy="Give texts of at least one character.")
    return text_ids(tokenizer, item)
