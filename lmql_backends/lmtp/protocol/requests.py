"""Requests on the wire: what a client asks, and what a server makes of it for the model that it serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from dcmodel.checks import check_integer
from dcmodel.constraint import Constraint
from dcmodel.constraints import from_dict, from_json, to_json
from dcmodel.constraints.mask_answers import Answer
from dcmodel.errors import InvalidRequestError
from dcmodel.mask import TokenMask
from dcmodel.scheduling.randomness import SEED_MASK
from dcmodel.types import MAX_TOP_LOGPROBS, GenerateRequest, SamplingParams, ScoreRequest
from dctokenizers import Tokenizer, TokenizerError
from lmql_backends.lmtp.protocol import masks
from lmql_backends.lmtp.protocol.codec import plain
from lmql_backends.lmtp.protocol.messages import Generate, NextTokens, Request, Score

LARGEST = (1 << 31) - 1
"""Of counts and token ids on the wire."""
PLAIN = Request(prompt=[]).sampling


# -- on the client -----------------------------------------------------------------------------------


def to_wire(request: GenerateRequest, *, model: str = "", fingerprint: str = "") -> Request:
    """What a stream or a session is to be, without `resumed` (`Generate.received`).

    Raises `CapabilityError` where the constraint holds a function of the caller's, and `InvalidRequestError`
    for texts without a UTF-8 form.
    """
    constraint = None if request.constraint is None else _constraint_to_wire(request.constraint)
    _check_sendable([*request.stop, request.healed])
    return Request(
        prompt=list(request.prompt_ids),
        sampling=sampling_to_wire(request.sampling),
        constraint=constraint,
        stop=list(request.stop),
        include_stop=request.include_stop,
        max_tokens=min(request.max_tokens, LARGEST),
        logprobs=request.logprobs,
        top_logprobs=request.top_logprobs,
        healed=request.healed,
        canonical=request.canonical,
        ignore_eos=request.ignore_eos,
        adapter=request.adapter or "",
        model=model,
        fingerprint=fingerprint,
    )


def generate_to_wire(
    id_: int,
    request: GenerateRequest,
    *,
    model: str = "",
    fingerprint: str = "",
    received: Sequence[int] = (),
    credit: int | None = None,
) -> Generate:
    """`received`: what came behind ``request.resumed`` before the connection was lost.

    Raises what `to_wire` raises.
    """
    return Generate(
        id=id_,
        request=to_wire(request, model=model, fingerprint=fingerprint),
        received=[*request.resumed, *received],
        credit=credit,
    )


def sampling_to_wire(sampling: SamplingParams) -> SamplingParams:
    """The same within the numbers of the wire. Seeds count modulo 2**64 everywhere."""
    if sampling == PLAIN:
        return PLAIN
    seed = None if sampling.seed is None else sampling.seed & SEED_MASK
    top_k = min(sampling.top_k, LARGEST)
    if (seed, top_k) == (sampling.seed, sampling.top_k):
        return sampling
    return replace(sampling, seed=seed, top_k=top_k)


def score_to_wire(id_: int, request: ScoreRequest, *, model: str = "", fingerprint: str = "") -> Score:
    return Score(
        id=id_,
        prompt=list(request.prompt_ids),
        continuations=[list(item) for item in request.continuations],
        top_logprobs=request.top_logprobs,
        prompt_logprobs=request.prompt_logprobs,
        adapter=request.adapter or "",
        model=model,
        fingerprint=fingerprint,
    )


def next_tokens_to_wire(
    id_: int,
    prefixes: Sequence[Sequence[int]],
    answers: Sequence[Answer] | None = None,
    k: int | None = None,
    *,
    vocab_size: int,
    adapter: str | None = None,
    model: str = "",
    fingerprint: str = "",
) -> NextTokens:
    """`vocab_size`: the tokenizer's. Raises what `DcModel.next_tokens` raises for its arguments."""
    if answers is not None and len(answers) != len(prefixes):
        raise InvalidRequestError(
            f"there are {len(prefixes)} prefixes and {len(answers)} masks.", remedy="Give one mask each."
        )
    if k is not None:
        check_integer("k", k, low=1, high=MAX_TOP_LOGPROBS)
    return NextTokens(
        id=id_,
        prefixes=[list(prefix) for prefix in prefixes],
        masks=None if answers is None else [masks.answer_to_wire(answer, vocab_size) for answer in answers],
        k=k,
        adapter=adapter or "",
        model=model,
        fingerprint=fingerprint,
    )


# -- on the server -----------------------------------------------------------------------------------


def from_wire(request: Request, tokenizer: Tokenizer, *, received: Sequence[int] = ()) -> GenerateRequest:
    """The request for a model with this tokenizer; a text is encoded as the start of a prompt.

    Raises `InvalidRequestError` for what can never work, also for a client with another vocabulary.
    """
    check_fingerprint(request.fingerprint, tokenizer)
    return GenerateRequest(
        prompt_ids=_prompt_ids(request.prompt, tokenizer),
        sampling=request.sampling,
        constraint=None if request.constraint is None else _constraint_from_wire(request.constraint),
        stop=tuple(request.stop),
        include_stop=request.include_stop,
        max_tokens=request.max_tokens,
        logprobs=request.logprobs,
        top_logprobs=request.top_logprobs,
        healed=request.healed,
        canonical=request.canonical,
        ignore_eos=request.ignore_eos,
        adapter=request.adapter or None,
        resumed=tuple(received),
    )


def generate_from_wire(message: Generate, tokenizer: Tokenizer) -> GenerateRequest:
    """As `from_wire`, with what the client has of the output already."""
    return from_wire(message.request, tokenizer, received=message.received)


def score_from_wire(message: Score, tokenizer: Tokenizer) -> ScoreRequest:
    """Raises `InvalidRequestError`."""
    check_fingerprint(message.fingerprint, tokenizer)
    return ScoreRequest(
        prompt_ids=tuple(message.prompt),
        continuations=tuple(map(tuple, message.continuations)),
        top_logprobs=message.top_logprobs,
        prompt_logprobs=message.prompt_logprobs,
        adapter=message.adapter or None,
    )


def next_tokens_from_wire(
    message: NextTokens, tokenizer: Tokenizer
) -> tuple[list[list[int]], list[TokenMask | None] | None, int | None]:
    """Prefixes, masks and k, as `DcModel.next_tokens` takes them. Raises `InvalidRequestError`."""
    check_fingerprint(message.fingerprint, tokenizer)
    if message.masks is None:
        return message.prefixes, None, message.k
    found = [None if mask is None else masks.from_wire(mask, tokenizer.vocab_size) for mask in message.masks]
    return message.prefixes, found, message.k


def check_fingerprint(fingerprint: str, tokenizer: Tokenizer) -> None:
    """Raise `InvalidRequestError` where a client's token ids mean something else here."""
    if fingerprint and fingerprint != tokenizer.fingerprint:
        raise InvalidRequestError(
            f"the client's vocabulary has the fingerprint {fingerprint[:16]!r}, "
            f"the model's {tokenizer.fingerprint[:16]!r}: the same ids are other tokens.",
            remedy="Use the tokenizer that the server sends (get_tokenizer), or send texts.",
        )


def _prompt_ids(prompt: list[int] | str, tokenizer: Tokenizer) -> tuple[int, ...]:
    if not isinstance(prompt, str):
        return tuple(prompt)
    try:
        return tuple(tokenizer.encode_prompt(prompt))
    except TokenizerError as error:
        raise InvalidRequestError(f"the prompt cannot be encoded: {error}") from error


def _constraint_to_wire(constraint: Constraint) -> dict[str, Any] | str:
    fields = dict(constraint.to_dict())
    try:
        _check_sendable(fields)
    except OverflowError:
        return to_json(constraint)
    return fields


def _constraint_from_wire(constraint: dict[str, Any] | str) -> Constraint:
    return from_json(constraint) if isinstance(constraint, str) else from_dict(constraint)


def _check_sendable(texts: Any) -> None:
    """Found here, a bad text fails one request; in a frame it would fail all that share it.

    Raises `OverflowError` for a whole number that MessagePack cannot hold.
    """
    try:
        msgspec.msgpack.encode(texts, enc_hook=plain)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRequestError(
            f"the request cannot be sent: {error}.", remedy="Use texts that have a UTF-8 form."
        ) from error
