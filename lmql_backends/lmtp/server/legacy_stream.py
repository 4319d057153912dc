"""One GENERATE of LMQL's client: items that go out so that the client never waits for ever."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from dcmodel.errors import GenerationError
from dcmodel.model import DcModel
from dcmodel.types import Completion, FinishReason, TokenStep
from lmql_backends.lmtp.protocol.legacy import ErrorItem, LegacyGenerate, StreamId, TokenItem
from lmql_backends.lmtp.server.legacy_requests import generate_request, only_end

logger = logging.getLogger(__name__)
Emit = Callable[[TokenItem | ErrorItem], None]
FREE = 3
"""LMQL's client reads four items before it goes on. An error that comes later is lost, and it waits for ever:
from the fourth on, the newest item is kept back, so that there is one to carry the end."""
AT_A_TIME = 16
"""Items of one stream in a turn of the loop; then others have theirs."""


async def run_stream(asked: LegacyGenerate, model: DcModel, emit: Emit) -> None:
    """Send every item of a stream, the end with the last token. Raises where the client is to get an error.

    An error behind `FREE` items ends the stream early, as if `max_tokens` had been reached: the client asks
    again from there, and gets the error then, if it is one that comes again.
    """
    request = generate_request(asked, model)
    if (end := only_end(request, model.tokenizer)) is not None:
        emit(end_item(end, asked.stream_id))
        return
    stream = model.generate(request)
    items = _HeldBack(emit)
    count = 0
    try:
        async for step in stream:
            count += 1
            if not count % AT_A_TIME:  # what has gathered comes without a wait
                await asyncio.sleep(0)
            item = token_item(step, asked.stream_id)
            if item.finish_reason is None:
                items.push(item)
            else:
                items.end(item)
                return
        items.finish(await stream.completion(), model, asked.stream_id)
    except Exception as error:
        if not items.cut():
            raise
        logger.warning("a stream of version 1 ends early", exc_info=error)
    finally:
        stream.cancel()


class _HeldBack:
    """Lets the first items through and keeps the newest of the later ones."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._count = 0
        self._held: TokenItem | None = None

    def push(self, item: TokenItem) -> None:
        self._count += 1
        if self._count <= FREE:
            self._emit(item)
            return
        if self._held is not None:
            self._emit(self._held)
        self._held = item

    def end(self, item: TokenItem) -> None:
        """The last item, which says so itself."""
        if self._held is not None:
            self._emit(self._held)
        self._emit(item)

    def cut(self, reason: str = "length") -> bool:
        """End with the item that is held back; False where there is none."""
        if self._held is None:
            return False
        self._held.finish_reason = reason
        self._emit(self._held)
        return True

    def finish(self, completion: Completion, model: DcModel, stream_id: StreamId) -> None:
        """The stream ended without a token that said so. Raises `GenerationError` where none can."""
        reason = FinishReason.STOP if completion.finish_reason is FinishReason.STOP else FinishReason.LENGTH
        if self.cut(reason.value):
            return
        ends = sorted(model.tokenizer.eos_token_ids)
        if reason is not FinishReason.STOP or not ends:
            raise GenerationError(f"the stream ended after {self._count} tokens ({completion.stop_reason}).")
        self._emit(end_item(ends[0], stream_id))


def token_item(step: TokenStep, stream_id: StreamId) -> TokenItem:
    """A token as version 1 has it.

    Log-probabilities are the model's own under the mask: renormalised over what it allows, at temperature 1
    and without penalties; what the mask refuses is not among the likeliest.
    """
    assert step.logprobs is not None
    chosen = step.logprobs.masked_logprob
    tops = {step.token_id: chosen}
    for top in step.logprobs.top_masked:
        if top.logprob > -math.inf:
            tops.setdefault(top.token_id, top.logprob)
    reason = None if step.finish_reason is None else step.finish_reason.value
    return TokenItem(
        token=step.token_id, stream_id=stream_id, logprob=chosen, finish_reason=reason, top_logprobs=tops
    )


def end_item(token_id: int, stream_id: StreamId) -> TokenItem:
    """An end that nothing else could follow."""
    return TokenItem(
        token=token_id, stream_id=stream_id, logprob=0.0, finish_reason="stop", top_logprobs={token_id: 0.0}
    )
