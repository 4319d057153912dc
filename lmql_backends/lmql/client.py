"""A `DcModel` in the shape of LMQL's LMTP client: what its runtime asks for tokens and scores."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, TypedDict, Unpack, cast

from dcmodel.constraints import FixedMask
from dcmodel.errors import InvalidRequestError
from dcmodel.mask import TokenMask
from dcmodel.model import DcModel
from dcmodel.types import GenerateRequest, SamplingParams, ScoreRequest, TokenStep

logger = logging.getLogger(__name__)

READ_AT_ONCE = 4
"""LMQL reads so many items before it goes on; an error that comes later is lost, and it waits for ever."""


class Sampling(TypedDict, total=False):
    """Options that LMQL passes on from its user."""

    top_p: float
    top_k: int
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float


class DcModelClient:
    """Has the methods of `lmql.models.lmtp.lmtp_client.LMTPWebSocketClient`, without frames and polling.

    Log-probabilities are the model's own under the mask: renormalised, at temperature 1, without penalties.
    """

    def __init__(self, model: Callable[[], DcModel]) -> None:
        """`model`: called at the first request, and perhaps loads it."""
        self._model = model

    async def generate(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int = 32,
        temperature: float = 0.0,
        logit_bias: Mapping[int, float] | None = None,
        top_logprobs: int = 1,
        **options: Unpack[Sampling],
    ) -> AsyncIterator[Mapping[str, Any]]:
        """The tokens of a stream, each as LMQL's server would send it. Ends early where the model fails late:
        LMQL asks again from there, and gets the error then, if it is one that comes again.

        Options that are not in `Sampling` are ignored, as LMQL's client passes on what its user gave.
        """
        model = self._model()
        size = model.tokenizer.vocab_size
        mask = hard_mask(logit_bias, size)
        if mask is None and model.info.vocab_size > size:
            mask = TokenMask.all(size)
        if mask is not None and len(mask) == 1 and (end := mask.to_ids()[0]) in model.tokenizer.eos_token_ids:
            yield {"token": end, "logprob": 0.0, "finish_reason": "stop", "top_logprobs": {end: 0.0}}
            return
        request = GenerateRequest(
            prompt_ids=tuple(prompt),
            sampling=SamplingParams(
                temperature=max(temperature, 0.0),
                **_sampling(options),
            ),
            constraint=None if mask is None else FixedMask(mask),
            max_tokens=max_tokens,
            top_logprobs=top_logprobs,
        )
        stream = model.generate(request)
        count = 0
        try:
            async for step in stream:
                yield _item(step)
                count += 1
        except Exception as error:
            if count < READ_AT_ONCE:
                raise
            logger.warning("a stream of LMQL ends early", exc_info=error)
        finally:
            stream.cancel()

    async def score(
        self, prompt: Sequence[int], scored_prompt: Sequence[int], **_: object
    ) -> AsyncIterator[Mapping[str, Any]]:
        """The log-probabilities of given tokens behind a prompt."""
        request = ScoreRequest(prompt_ids=tuple(prompt), continuations=(tuple(scored_prompt),))
        (found,) = (await self._model().score(request)).continuations
        for token_id, logprob in zip(scored_prompt, found.logprobs, strict=True):
            yield {"token": token_id, "logprob": logprob, "finish_reason": None}

    async def request(self, name: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """What LMQL shows in its traces and certificates."""
        info = self._model().info
        return {"model_info": {"name": info.name, "backend": info.backend, "device": info.device}}

    async def close(self) -> None:
        """LMQL closes its client after each query; the model stays loaded."""


def _sampling(options: Sampling) -> Sampling:
    """Without what is no option of ours."""
    known = {name: value for name, value in options.items() if name in Sampling.__annotations__}
    return cast("Sampling", known)


def hard_mask(bias: Mapping[int, float] | None, vocab_size: int) -> TokenMask | None:
    """LMQL's mask of +-100. It names some ids of its own beyond the vocabulary, which are ignored.

    Raises `InvalidRequestError` for one that allows nothing.
    """
    if not bias:
        return None
    known = {token_id: value for token_id, value in bias.items() if token_id < vocab_size}
    is_banning = next(iter(bias.values())) < 0
    mask = TokenMask.none(vocab_size)
    if known or is_banning:
        mask = TokenMask.from_logit_bias(known, vocab_size)
    if not len(mask):
        raise InvalidRequestError(
            f"LMQL's mask allows none of the model's {vocab_size} tokens.",
            remedy="Is its tokenizer the model's?",
        )
    return mask


def _item(step: TokenStep) -> Mapping[str, Any]:
    assert step.logprobs is not None
    chosen = step.logprobs.masked_logprob
    tops = {step.token_id: chosen}
    for top in step.logprobs.top_masked:
        if top.logprob > -math.inf:
            tops.setdefault(top.token_id, top.logprob)
    return {
        "token": step.token_id,
        "logprob": chosen,
        "finish_reason": step.finish_reason,
        "top_logprobs": tops,
    }
