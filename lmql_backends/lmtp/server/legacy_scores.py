"""The SCOREs of LMQL's client: one frame each, computed together where they share their prompt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from dcmodel.errors import DcModelError, InvalidRequestError
from dcmodel.model import DcModel
from dcmodel.types import ScoreRequest
from lmql_backends.lmtp.protocol.legacy import ErrorItem, LegacyScore, ScoreItem
from lmql_backends.lmtp.server.contracts import Models
from lmql_backends.lmtp.server.legacy_requests import prompt_ids

logger = logging.getLogger(__name__)
Key = tuple[str, tuple[int, ...]]
"""A model's name and a prompt."""
Emit = Callable[[LegacyScore, Sequence[ScoreItem | ErrorItem]], None]
MAX_TOGETHER = 256
"""Continuations in one request."""
TURNS = 4
"""From a socket that can be read to the frames in it, and one more."""


class ScoreQueue:
    """What waits to be scored, by model and prompt.

    Candidates of one prompt arrive as frames of their own. Those of one turn of the loop are asked together;
    those that come while the model is at it wait for each other, and find the prompt computed.
    """

    def __init__(
        self, models: Models, emit: Callable[[LegacyScore, Sequence[ScoreItem | ErrorItem]], None]
    ) -> None:
        """`emit`: called once for each, with all of its items."""
        self._models = models
        self._emit = emit
        self._waiting: dict[Key, list[LegacyScore]] = {}

    def put(self, asked: LegacyScore) -> Key | None:
        """Queue it. A key: nobody is at it yet, the caller is to `run` it."""
        key = (asked.model, tuple(asked.prompt))
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(asked)
            return None
        self._waiting[key] = [asked]
        return key

    async def run(self, key: Key) -> None:
        """Score what waits under a key, until nothing does."""
        try:
            await self._arrivals(key)
            while batch := self._waiting[key][:MAX_TOGETHER]:
                del self._waiting[key][:MAX_TOGETHER]
                await self._answer(key[0], batch)
        finally:
            del self._waiting[key]

    async def _arrivals(self, key: Key) -> None:
        """Let what the client sent at once arrive: as long as a few turns of the loop bring more of it."""
        waiting, count = self._waiting[key], 0
        while count < len(waiting) < MAX_TOGETHER:
            count = len(waiting)
            for _ in range(TURNS):
                await asyncio.sleep(0)

    async def _answer(self, name: str, batch: Sequence[LegacyScore]) -> None:
        """Answer each; where that fails together, each by itself, so that only the bad ones fail."""
        try:
            async with self._models.use(name) as served:
                found = await scores(served.model, batch)
        except Exception as error:
            if len(batch) > 1:
                for asked in batch:
                    await self._answer(name, [asked])
                return
            self._emit(batch[0], [ErrorItem(stream_id=batch[0].stream_id, error=error_text(error))])
            return
        for asked, logprobs in zip(batch, found, strict=True):
            self._emit(asked, score_items(asked, logprobs))


async def scores(model: DcModel, batch: Sequence[LegacyScore]) -> list[Sequence[float]]:
    """The log-probabilities of each one's tokens; all have the same prompt.

    Behind an empty prompt, of a model with no token that begins a text, the first token has 0.0.
    """
    if not all(asked.scored for asked in batch):
        raise InvalidRequestError("there is nothing to score.", remedy="Send at least one token in `scored`.")
    prompt = prompt_ids(batch[0].prompt, model.tokenizer)
    if not prompt:
        return [await _unprompted(model, tuple(asked.scored)) for asked in batch]
    request = ScoreRequest(prompt_ids=prompt, continuations=tuple(tuple(asked.scored) for asked in batch))
    return [item.logprobs for item in (await model.score(request)).continuations]


async def _unprompted(model: DcModel, scored: tuple[int, ...]) -> Sequence[float]:
    if len(scored) == 1:
        return (0.0,)
    result = await model.score(ScoreRequest(prompt_ids=scored[:1], continuations=(scored[1:],)))
    return (0.0, *result.continuations[0].logprobs)


def score_items(asked: LegacyScore, logprobs: Sequence[float]) -> list[ScoreItem | ErrorItem]:
    """One item per scored token; the last one ends the stream."""
    items: list[ScoreItem | ErrorItem] = [
        ScoreItem(token_id, asked.stream_id, logprob, None)
        for token_id, logprob in zip(asked.scored, logprobs, strict=True)
    ]
    last = items[-1]
    assert isinstance(last, ScoreItem)
    last.finish_reason = "stop"
    return items


def error_text(error: Exception) -> str:
    """What a client is told. What nobody foresaw is logged, and named by its type alone."""
    if isinstance(error, DcModelError):
        return str(error)
    logger.error("a request of version 1 failed unexpectedly", exc_info=error)
    return f"the server failed unexpectedly ({type(error).__name__}). Its log says more."
