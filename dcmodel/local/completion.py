"""From a sequence to the result that its caller gets."""

from __future__ import annotations

from typing import Any

from dcmodel.constraints.canonical import CanonicalMatcher
from dcmodel.scheduling.sequence import LogprobRecord, Sequence, TopRow
from dcmodel.types import (
    Certificate,
    Completion,
    FinishReason,
    GenerateRequest,
    TokenLogprobs,
    TopLogprob,
    Usage,
)
from dctokenizers import Tokenizer


def completion_of(
    sequence: Sequence,
    request: GenerateRequest,
    tokenizer: Tokenizer,
    text: str,
    ending: tuple[FinishReason, str] | None,
) -> Completion:
    """`text`: that of the tokens before ``sequence.ready``. `ending`: None where the caller stopped it.

    The sequence's matcher is not to be used afterwards.
    """
    output = tuple(sequence.token_ids[sequence.prompt_length : sequence.ready])
    valid = ending is not None and _is_valid(sequence, request, tokenizer, text)
    parsed: Any = None
    if request.constraint is not None and valid:
        parsed = request.constraint.parse(text)
    forced = tuple(sequence.forced[: len(output)])
    finish_reason, stop_reason = ending or (FinishReason.CANCELLED, "cancelled")
    return Completion(
        text=text,
        token_ids=output,
        finish_reason=finish_reason,
        stop_reason=stop_reason,
        logprobs=tuple(map(token_logprobs, sequence.records)) if sequence.want_logprobs else None,
        forced=forced,
        usage=Usage(
            prompt_tokens=sequence.prompt_length,
            cached_tokens=sequence.cached_tokens,
            completion_tokens=len(output),
            forced_tokens=sum(forced),
        ),
        certificate=_certificate(sequence, valid if request.constraint is not None else None),
        healed=request.healed,
        parsed=parsed,
    )


def _is_valid(sequence: Sequence, request: GenerateRequest, tokenizer: Tokenizer, text: str) -> bool:
    """Whether the text is a complete match; a stop string may have cut it where it is none."""
    matcher = sequence.matcher
    if matcher is None:
        return True
    if sequence.stop is None or sequence.stop.matched is None:
        return matcher.is_accepting
    matcher.rollback(sequence.output_length)
    if isinstance(matcher, CanonicalMatcher):  # validity is a matter of text
        matcher = matcher.rule
    cut = tokenizer.encode(request.healed + text)
    return matcher.advance(cut) == len(cut) and matcher.is_accepting


def _certificate(sequence: Sequence, valid: bool | None) -> Certificate:
    if sequence.matcher is not None and sequence.matcher.was_narrowed:
        detail = "a token was refused for which the search for a complete text ended without an answer"
        return Certificate(valid=valid, exact=False, detail=detail)
    return Certificate(valid=valid, exact=True)


def token_logprobs(record: LogprobRecord) -> TokenLogprobs:
    """A sequence's record of one token as callers see it."""
    raw, masked, mass, top_raw, top_masked = record
    if top_raw is None and top_masked is None:
        return TokenLogprobs(raw_logprob=raw, masked_logprob=masked, log_mass=mass)
    return TokenLogprobs(
        raw_logprob=raw,
        masked_logprob=masked,
        log_mass=mass,
        top_raw=top_logprobs(top_raw),
        top_masked=top_logprobs(top_masked),
    )


def top_logprobs(row: TopRow | None) -> tuple[TopLogprob, ...]:
    """A row of likeliest tokens as callers see it; an id of -1 stands for none."""
    if row is None:
        return ()
    return tuple(
        TopLogprob(token_id, logprob) for token_id, logprob in zip(*row, strict=True) if token_id >= 0
    )
