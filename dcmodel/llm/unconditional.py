"""Scores of texts after one and the same unconditional prompt: each text once per call of `LLM`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from dcmodel.llm.endings import split_endings, with_endings
from dcmodel.llm.prompts import Continuation, Prompt, scoring_request
from dcmodel.model import DcModel

Key = tuple[str | tuple[int, ...], bool]
"""A text or token ids, and whether their end is scored."""


@asynccontextmanager
async def unconditional_scores(
    model: DcModel, prompt: Prompt | None
) -> AsyncIterator[UnconditionalScores | None]:
    """For the time of one call; None where there is no unconditional prompt."""
    scores = None if prompt is None else UnconditionalScores(model, prompt)
    try:
        yield scores
    finally:
        if scores is not None:
            scores.close()


class UnconditionalScores:
    """Shared by the prompts of one call; used on one event loop."""

    def __init__(self, model: DcModel, prompt: Prompt) -> None:
        self._model = model
        self._prompt = prompt
        self._found: dict[Key, tuple[asyncio.Task[list[float]], int]] = {}
        """Where each log-probability will be: the request, and its place there."""

    async def logprobs(
        self, continuations: Sequence[Continuation], eos_token_ids: Sequence[int] = ()
    ) -> list[float]:
        """In nats, with the end of the text where there are `eos_token_ids` (the same ones in each call)."""
        keys = [_key(item, bool(eos_token_ids)) for item in continuations]
        new = [key for key in dict.fromkeys(keys) if key not in self._found]
        if new:
            asked = self._ask([text for text, _ in new], eos_token_ids)
            self._found.update((key, (asked, place)) for place, key in enumerate(new))
        for task in {self._found[key][0] for key in keys}:
            await asyncio.shield(task)  # others may wait for it too
        return [self._found[key][0].result()[self._found[key][1]] for key in keys]

    def close(self) -> None:
        """Cancel what nobody waits for any more."""
        for task, _ in self._found.values():
            task.cancel()

    def _ask(self, items: Sequence[Continuation], eos_token_ids: Sequence[int]) -> asyncio.Task[list[float]]:
        return asyncio.ensure_future(self._score(items, eos_token_ids))

    async def _score(self, items: Sequence[Continuation], eos_token_ids: Sequence[int]) -> list[float]:
        request = scoring_request(self._model.tokenizer, self._prompt, items)
        result = await self._model.score(with_endings(request, eos_token_ids))
        return [item.logprob for item in split_endings(result, eos_token_ids)]


def _key(item: Continuation, is_ended: bool) -> Key:
    return (item if isinstance(item, str) else tuple(item)), is_ended
