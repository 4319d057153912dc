"""One step of a session: the next token under its whole mask, or a look at it."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dcmodel.errors import CapabilityError, GenerationError
from dcmodel.mask import TokenMask, allocate_rows
from dcmodel.scheduling.commits import commit, no_choice, restrict
from dcmodel.scheduling.sequence import UNKNOWN, LogprobRecord
from dcmodel.scheduling.session_sequence import SessionSequence
from dcmodel.types import ScoreRequest
from lmql_backends.openai.asking import HttpAsker
from lmql_backends.openai.continuing import sampling_fields
from lmql_backends.openai.endpoint_api import NO_BIAS, Ask, Reply
from lmql_backends.openai.looking import look_at
from lmql_backends.openai.planner.proposals import adjustments
from lmql_backends.openai.records import forced_record, free_record, masked_record, raw_logprobs, raw_tops
from lmql_backends.openai.scores import score

T = TypeVar("T")

MIN_GAP = 60.0
"""A bias that parts the allowed tokens from the others must be at least this large, to be a mask."""
MAX_REFUSED = 64


async def step(sequence: SessionSequence, asker: HttpAsker) -> None:
    """Do what `SessionSequence.resume` asked for. Raises `CapabilityError` where the mask cannot be sent."""
    await _settle(sequence, asker)
    if sequence.look is not None:
        mask = await mask_of(sequence, asker.vocab_size)
        sequence.look.found = await look_at(
            asker, _prompt(sequence), _output(sequence), mask, sequence.look.k
        )
        return
    for number in range(MAX_REFUSED):
        if sequence.is_complete:
            return
        drawn = await _draw(sequence, asker, number)
        # Tokens that are refused are banned, and another is drawn.
        _, error = await _apart(sequence, partial(commit, sequence, *drawn))
        if error is not None:
            raise error
    raise no_choice()


async def mask_of(sequence: SessionSequence, vocab_size: int) -> TokenMask | None:
    """What may come next; None: anything. Raises `DeadEndError` where that is nothing."""
    if not sequence.is_masked and len(sequence.token_ids) not in sequence.banned:
        return None
    row: NDArray[np.int32] = allocate_rows(1, vocab_size)[0]
    matcher = sequence.matcher
    if matcher is not None:
        await _apart(sequence, partial(matcher.fill_mask, row))
    restrict(sequence, row)
    mask = TokenMask(row, vocab_size)
    if not mask.bits.any():
        raise no_choice()
    return mask


def exact_fields(mask: TokenMask, own: dict[int, float], asker: HttpAsker) -> dict[str, object]:
    """The fields of an `Ask` that are this mask, with the request's own bias.

    Raises `CapabilityError` where the endpoint takes none that is.
    """
    able = asker.capabilities
    if able.allowed_token_ids:
        bias = {item: value for item, value in own.items() if item in mask}
        return {"allowed": tuple(mask.to_ids()), "bias": bias or NO_BIAS}
    allowed = len(mask)
    if allowed <= able.max_bias_entries:
        biases = {item: own.get(item, 0.0) for item in mask.to_ids()}
        highest, lowest = max(biases.values()), min(biases.values())
        if able.bias_range - (highest - lowest) >= MIN_GAP:
            return {"bias": {item: value - highest + able.bias_range for item, value in biases.items()}}
    banned = (~mask).to_ids() if mask.vocab_size - allowed <= able.max_bias_entries else []
    kept = {item: value for item, value in own.items() if item in mask}
    if banned and len(banned) + len(kept) <= able.max_bias_entries:
        return {"bias": {**kept, **dict.fromkeys(banned, -able.bias_range)}}
    raise CapabilityError(
        f"this step's mask allows {allowed} of {mask.vocab_size} tokens, and the endpoint takes "
        f"{able.max_bias_entries} logit biases and no allowed_token_ids.",
        remedy="Use `generate` with the constraint, which needs no mask for each token, or another endpoint.",
    )


async def _apart(sequence: SessionSequence, call: Callable[[], T]) -> T:
    """On a thread, where the matcher may wait: for a caller's function, perhaps in this very loop."""
    if sequence.matcher is not None and sequence.matcher.may_wait:
        return await asyncio.to_thread(call)
    return call()


async def _draw(sequence: SessionSequence, asker: HttpAsker, number: int) -> tuple[int, LogprobRecord]:
    mask = await mask_of(sequence, asker.vocab_size)
    if mask is not None and len(mask) == 1:
        return mask.to_ids()[0], forced_record()
    sampling = sequence.sampling_now
    # The endpoint would count from each step anew: what is counted is counted here.
    counted = replace(sampling, presence_penalty=0.0, frequency_penalty=0.0)
    fields = sampling_fields(counted)
    if sampling.seed is not None:
        fields["seed"] = _seed(sequence, number)
    own = adjustments(sequence)
    masking = {"bias": own or NO_BIAS} if mask is None else exact_fields(mask, own, asker)
    sent = asker.place(_prompt(sequence), _output(sequence))
    if sent is None or not sent.is_exact:
        raise CapabilityError(
            "the endpoint takes only text, and these tokens are not those that it would make of the text.",
            remedy="Use an endpoint that takes token ids.",
        )
    ask = Ask(
        prompt=sent.prompt,
        max_tokens=1,
        top_logprobs=sequence.shown_logprobs,
        ignore_eos=bool(asker.tokenizer.eos_token_ids) and not sequence.eos_token_ids,
        **fields,
        **masking,
    )
    reply = await asker.ask(ask)
    return _drawn(reply, ask, mask, asker)


def _drawn(reply: Reply, ask: Ask, mask: TokenMask | None, asker: HttpAsker) -> tuple[int, LogprobRecord]:
    record_of = free_record if mask is None else masked_record
    if reply.token_ids and reply.are_ids_exact:
        token_id = reply.token_ids[0]
        record = record_of(raw_logprobs(reply)[0], raw_tops(reply)[0])
    elif reply.is_ended and not reply.token_ids:
        found = reply.end_id if reply.end_id is not None else min(asker.tokenizer.eos_token_ids, default=None)
        if found is None:
            raise CapabilityError("the model ended the text, and no end-of-sequence token is known.")
        token_id = found
        record = record_of(math.nan if reply.end_logprob is None else reply.end_logprob, reply.end_tops)
    else:
        raise CapabilityError(
            f"the endpoint does not tell which token it drew ({reply.text!r:.40}).",
            remedy="Use an endpoint with return_token_ids, or with log-probabilities.",
        )
    if mask is not None and token_id not in mask:
        raise GenerationError(
            f"the endpoint drew token {token_id}, which the mask that was sent with it refuses.",
            remedy="Probe it again: `dcmodel backends --probe`; and check that tokenizer= is its own.",
        )
    return token_id, record


async def _settle(sequence: SessionSequence, asker: HttpAsker) -> None:
    """Find the log-probabilities of appended tokens; where the endpoint shows none, they stay unknown."""
    missing = tuple(sequence.token_ids[sequence.ready :])
    if not missing:
        return
    able = asker.capabilities
    values: tuple[float, ...] = ()
    if able.prompt_logprobs or able.echo_scoring:
        before = tuple(sequence.token_ids[: sequence.ready])
        result, _ = await score(asker, ScoreRequest(prompt_ids=before, continuations=(missing,)))
        values = result.continuations[0].logprobs
    for place in range(len(missing)):
        known = (values[place], values[place], 0.0, None, None) if values else UNKNOWN
        sequence.score(known, 0)


def _seed(sequence: SessionSequence, number: int) -> int:
    """Follows from the session's seed and the place alone."""
    place = f"{sequence.seed}:{sequence.output_length}:{sequence.attempt}:{number}"
    return int.from_bytes(hashlib.blake2b(place.encode(), digest_size=4).digest()) >> 1


def _prompt(sequence: SessionSequence) -> tuple[int, ...]:
    return tuple(sequence.token_ids[: sequence.prompt_length])


def _output(sequence: SessionSequence) -> tuple[int, ...]:
    return tuple(sequence.token_ids[sequence.prompt_length :])
