"""From what LMQL's client asks for to the requests of a `DcModel`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dcmodel.constraints import FixedMask
from dcmodel.errors import InvalidRequestError, TokenRangeError
from dcmodel.mask import TokenMask, mask_words, row_from_ids
from dcmodel.model import DcModel
from dcmodel.types import GenerateRequest, SamplingParams
from dctokenizers import Tokenizer
from lmql_backends.lmtp.protocol.legacy import LegacyGenerate

HARD = 100.0
"""The bias that is a mask: +100 allows these tokens only, -100 never."""


def generate_request(asked: LegacyGenerate, model: DcModel) -> GenerateRequest:
    """What the model is to do. Raises `InvalidRequestError` for what can never work.

    A temperature below 0 is greedy, as in LMQL's server; `length_penalty` says something about beams, which
    the client searches itself, and has no meaning here.
    """
    soft, mask = split_bias(asked.logit_bias, model.tokenizer.vocab_size)
    if mask is None and model.info.vocab_size > model.tokenizer.vocab_size:
        # What the model has beyond the tokenizer is no text that a client could read.
        mask = TokenMask.all(model.tokenizer.vocab_size)
    sampling = SamplingParams(
        temperature=0.0 if asked.temperature < 0 else asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        repetition_penalty=asked.repetition_penalty,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        logit_bias=soft,
    )
    return GenerateRequest(
        prompt_ids=prompt_ids(asked.prompt, model.tokenizer),
        sampling=sampling,
        constraint=None if mask is None else FixedMask(mask),
        max_tokens=asked.max_tokens,
        top_logprobs=asked.top_logprobs,
    )


def prompt_ids(prompt: Sequence[int], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The prompt; an empty one is the token that begins a text, where there is one."""
    if not prompt and tokenizer.bos_token_id is not None:
        return (tokenizer.bos_token_id,)
    return tuple(prompt)


def only_end(request: GenerateRequest, tokenizer: Tokenizer) -> int | None:
    """The one token that the mask allows, where it ends the text: nobody needs to be asked."""
    constraint = request.constraint
    if not isinstance(constraint, FixedMask) or len(constraint.mask) > len(tokenizer.eos_token_ids):
        return None
    allowed = constraint.mask.to_ids()
    return allowed[0] if set(allowed) <= set(tokenizer.eos_token_ids) else None


def split_bias(
    bias: Mapping[int, float] | None, vocab_size: int
) -> tuple[Mapping[int, float], TokenMask | None]:
    """The soft part of a bias, and the mask that the part of +-100 means; None without one.

    Ids beyond the vocabulary are ignored: LMQL's masks name some of its own. Raises `TokenRangeError` for
    negative ids, `InvalidRequestError` for a bias beyond +-100 and for a mask that allows nothing.
    """
    if not bias:
        return {}, None
    ids = _ids(bias)
    values = np.fromiter(bias.values(), dtype=np.float64, count=len(bias))
    if (wrong := np.flatnonzero(~(np.abs(values) <= HARD))).size:
        place = wrong[0]
        raise InvalidRequestError(
            f"logit_bias[{ids[place]}] is {values[place]}.", remedy="Give numbers from -100 to 100."
        )
    is_known = ids < vocab_size
    is_hard = np.abs(values) == HARD
    at = np.flatnonzero(is_known & ~is_hard)
    soft = dict(zip(ids[at].tolist(), values[at].tolist(), strict=True))
    if not is_hard.any():
        return soft, None
    is_allowing = bool((values[is_hard] > 0).any())
    named = ids[is_known & is_hard & ((values > 0) | (not is_allowing))]
    bits = np.zeros(mask_words(vocab_size), dtype=np.int32)
    row_from_ids(named, vocab_size, bits)
    mask = TokenMask(bits if is_allowing else ~bits, vocab_size)
    if not len(mask):
        raise InvalidRequestError(
            f"the mask of logit_bias allows none of the model's {vocab_size} tokens.",
            remedy="Allow at least one; is the client's tokenizer the model's?",
        )
    return soft, mask


def _ids(bias: Mapping[int, float]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    try:
        ids = np.fromiter(bias.keys(), dtype=np.int64, count=len(bias))
    except OverflowError:
        raise TokenRangeError("a token id in logit_bias is far beyond the vocabulary.") from None
    if ids.min() < 0:
        raise TokenRangeError(
            f"the token id {ids.min()} in logit_bias is negative.", remedy="Ids are whole numbers from 0."
        )
    return ids
