"""The distribution of a next token, from the likeliest tokens that an endpoint shows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dcmodel.errors import CapabilityError
from dcmodel.mask import TokenMask
from dcmodel.types import Cost, NextTokens, TopLogprob
from lmql_backends.openai.asking import HttpAsker
from lmql_backends.openai.endpoint_api import Ask
from lmql_backends.openai.records import raw_tops
from lmql_backends.openai.together import together

CLOSE_TO_ONE = 1e-3
"""All tokens together have the probability 1, within rounding."""
CHAT_REMEDY = (
    "Use /completions (chat=False) where the endpoint has it; for `choose`, decisions=True where it has "
    "/decisions; or another endpoint."
)


async def shown_tops(
    asker: HttpAsker, prompt_ids: tuple[int, ...], output_ids: tuple[int, ...] = (), count: int | None = None
) -> tuple[tuple[TopLogprob, ...], Cost]:
    """The likeliest next tokens with their raw log-probabilities: `count` of them, or all that are shown.

    Raises `CapabilityError` where the endpoint shows none, or not those of the model itself.
    """
    able = asker.capabilities
    most = min(able.max_top_logprobs, asker.vocab_size)
    if not most:
        raise CapabilityError(
            "the endpoint shows no log-probabilities of likely tokens, so that no distribution is known.",
            remedy="Use an endpoint that takes `top_logprobs`.",
        )
    sent = asker.place(prompt_ids, output_ids)
    is_sent = sent is not None and sent.is_exact
    if not is_sent and able.is_chat and not (able.continuation and able.exact_continuation):
        raise CapabilityError(
            "a chat route shows no scores of given tokens, only the likeliest ones that begin an answer.",
            remedy=CHAT_REMEDY,
        )
    if sent is None or not sent.is_exact:
        raise CapabilityError(
            "the endpoint takes only text, and these tokens are not those that it would make of the text.",
            remedy="Use an endpoint that takes token ids.",
        )
    count = most if count is None else min(count, most)
    ask = Ask(prompt=sent.prompt, max_tokens=1, temperature=1.0, top_logprobs=count)
    reply = await asker.ask(ask)
    rows = raw_tops(reply)
    return (rows[0] if rows else reply.end_tops), reply.cost


async def look_at(
    asker: HttpAsker,
    prompt_ids: tuple[int, ...],
    output_ids: tuple[int, ...],
    mask: TokenMask | None,
    k: int | None,
) -> NextTokens:
    """The `k` likeliest tokens that the mask allows, or the whole vocabulary.

    Raises `CapabilityError` where the endpoint shows too few tokens to know.
    """
    vocab_size = asker.vocab_size
    count = min(k, vocab_size) if k is not None and mask is None else None
    if count is not None and count > asker.capabilities.max_top_logprobs:
        raise _too_few(f"{count} tokens", asker)
    tops, _ = await shown_tops(asker, prompt_ids, output_ids, count)
    if k is None:
        return _whole(tops, mask, asker)
    if mask is None:
        return _made(tops[:k], 0.0)
    allowed = [item for item in tops if item.token_id in mask]
    total = len(mask)
    if len(allowed) < min(k, total):
        raise _too_few(f"{min(k, total)} allowed tokens", asker)
    return _made(allowed[:k], log_mass_of(tops, mask, asker))


def log_mass_of(tops: Sequence[TopLogprob], mask: TokenMask, asker: HttpAsker) -> float:
    """Log of the mass that a mask keeps. Raises `CapabilityError` where the shown tokens do not tell."""
    allowed = [item.logprob for item in tops if item.token_id in mask]
    refused = [item.logprob for item in tops if item.token_id not in mask]
    total = len(mask)
    if len(allowed) == total:
        mass = math.fsum(map(math.exp, allowed))
    elif len(refused) == asker.vocab_size - total:
        mass = 1.0 - math.fsum(map(math.exp, refused))
    else:
        raise _too_few("the mask's whole mass", asker)
    return min(math.log(mass), 0.0) if mass > 0.0 else -math.inf


async def look_at_all(
    asker: HttpAsker, prefixes: Sequence[tuple[tuple[int, ...], TokenMask | None]], k: int | None
) -> list[NextTokens]:
    """Several at once; what their requests have in common is shared."""
    return await together([look_at(asker, prefix, (), mask, k) for prefix, mask in prefixes])


def _whole(tops: Sequence[TopLogprob], mask: TokenMask | None, asker: HttpAsker) -> NextTokens:
    if len(tops) < asker.vocab_size:
        # Tokens of equal bytes may hide each other; without all of them nothing is known of the others.
        raise _too_few(f"all {asker.vocab_size} tokens", asker)
    raw = np.full(asker.vocab_size, -np.inf, dtype=np.float32)
    for item in tops:
        raw[item.token_id] = item.logprob
    log_mass = 0.0 if mask is None else log_mass_of(tops, mask, asker)
    masked = raw - np.float32(log_mass)
    if mask is not None:
        masked[~mask.to_bools()] = -np.inf
    ids = np.arange(asker.vocab_size, dtype=np.int64)
    return NextTokens(token_ids=ids, raw_logprobs=raw, masked_logprobs=masked, log_mass=log_mass)


def _made(tops: Sequence[TopLogprob], log_mass: float) -> NextTokens:
    raw = np.array([item.logprob for item in tops], dtype=np.float32)
    return NextTokens(
        token_ids=np.array([item.token_id for item in tops], dtype=np.int64),
        raw_logprobs=raw,
        masked_logprobs=raw - np.float32(log_mass),
        log_mass=log_mass,
    )


def _too_few(what: str, asker: HttpAsker) -> CapabilityError:
    return CapabilityError(
        f"the endpoint shows the {asker.capabilities.max_top_logprobs} likeliest tokens, which is too few "
        f"for {what}.",
        remedy="Ask for a smaller k, or use a model whose whole distribution is known.",
    )
