"""Consecutive tokens, and what is known of them, as columns; all floats travel exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from dcmodel.errors import GenerationError
from dcmodel.types import FinishReason, TokenLogprobs, TokenStep, TopLogprob
from lmql_backends.lmtp.protocol import numbers
from lmql_backends.lmtp.protocol.messages import Columns, Top

T = TypeVar("T")


def columns_of(steps: Sequence[TokenStep]) -> Columns:
    """Consecutive tokens; either all have log-probabilities or none."""
    if len(steps) == 1:
        return _column_of(steps[0])
    columns = logprob_columns(
        [step.token_id for step in steps],
        [step.logprobs for step in steps if step.logprobs is not None],
    )
    texts = [step.text for step in steps]
    if any(texts):
        columns.texts = texts
    columns.forced = [place for place, step in enumerate(steps) if step.forced]
    return columns


def logprob_columns(token_ids: list[int], logprobs: Sequence[TokenLogprobs]) -> Columns:
    """Tokens of which no texts are told (`Session.known`). `logprobs`: one per token, or none."""
    if logprobs and len(logprobs) != len(token_ids):
        raise ValueError(f"there are {len(token_ids)} tokens and {len(logprobs)} log-probabilities")
    columns = Columns(token_ids=token_ids)
    if not logprobs:
        return columns
    columns.raw = numbers.all_to_wire([item.raw_logprob for item in logprobs])
    masked = numbers.all_to_wire([item.masked_logprob for item in logprobs])
    if masked != columns.raw:
        columns.masked = masked
    log_mass = [item.log_mass for item in logprobs]
    if any(log_mass):
        columns.log_mass = numbers.all_to_wire(log_mass)
    if any(item.top_raw or item.top_masked for item in logprobs):
        columns.top_raw = [top_of(item.top_raw) for item in logprobs]
        if any(item.top_masked != item.top_raw for item in logprobs):
            columns.top_masked = [top_of(item.top_masked) for item in logprobs]
    return columns


def steps_of(columns: Columns, finish_reason: FinishReason | None = None) -> list[TokenStep]:
    """`finish_reason`: of the last. Raises `GenerationError` for columns that do not fit one another."""
    if len(columns.token_ids) == 1 and not columns.top_raw and not columns.top_masked:
        return [_step_of(columns, finish_reason)]
    logprobs = logprobs_of(columns)
    count = len(columns.token_ids)
    texts = _column(columns.texts, count, "")
    forced = set(columns.forced)
    steps = [
        TokenStep(
            token_id=token_id,
            text=texts[place],
            forced=place in forced,
            logprobs=None if logprobs is None else logprobs[place],
            finish_reason=finish_reason if place == count - 1 else None,
        )
        for place, token_id in enumerate(columns.token_ids)
    ]
    return steps


def logprobs_of(columns: Columns) -> tuple[TokenLogprobs, ...] | None:
    """One per token; None where they were not told."""
    count = len(columns.token_ids)
    if not columns.raw:
        return None if count else ()
    raw = numbers.all_from_wire(_column(columns.raw, count, 0.0))
    masked = numbers.all_from_wire(_column(columns.masked, count, 0.0)) if columns.masked else raw
    log_mass = numbers.all_from_wire(_column(columns.log_mass, count, 0.0))
    if not columns.top_raw and not columns.top_masked:
        return tuple(
            TokenLogprobs(raw_logprob=of_model, masked_logprob=of_mask, log_mass=mass)
            for of_model, of_mask, mass in zip(raw, masked, log_mass, strict=True)
        )
    top_raw = tops_of(columns.top_raw, count)
    top_masked = tops_of(columns.top_masked, count) if columns.top_masked else top_raw
    return tuple(
        TokenLogprobs(
            raw_logprob=of_model, masked_logprob=of_mask, log_mass=mass, top_raw=likeliest, top_masked=allowed
        )
        for of_model, of_mask, mass, likeliest, allowed in zip(
            raw, masked, log_mass, top_raw, top_masked, strict=True
        )
    )


# One token is what a stream has in most frames: the same as above, at a third of the cost.


def _column_of(step: TokenStep) -> Columns:
    columns = Columns(token_ids=[step.token_id])
    if step.text:
        columns.texts = [step.text]
    if step.forced:
        columns.forced = [0]
    known = step.logprobs
    if known is None:
        return columns
    raw, masked, log_mass = known.raw_logprob, known.masked_logprob, known.log_mass
    if not math.isfinite(raw + masked + log_mass):
        raw, masked, log_mass = map(numbers.to_wire, (raw, masked, log_mass))
    columns.raw = [raw]
    if masked != raw:
        columns.masked = [masked]
    if log_mass:
        columns.log_mass = [log_mass]
    if known.top_raw or known.top_masked:
        columns.top_raw = [top_of(known.top_raw)]
        if known.top_masked != known.top_raw:
            columns.top_masked = [top_of(known.top_masked)]
    return columns


def _step_of(columns: Columns, finish_reason: FinishReason | None) -> TokenStep:
    known = None
    if columns.raw:
        (raw,) = masked = whole(columns.raw, 1)
        if columns.masked:
            masked = whole(columns.masked, 1)
        log_mass = whole(columns.log_mass, 1)[0] if columns.log_mass else 0.0
        known = TokenLogprobs(
            raw_logprob=numbers.from_wire(raw),
            masked_logprob=numbers.from_wire(masked[0]),
            log_mass=numbers.from_wire(log_mass),
        )
    return TokenStep(
        token_id=columns.token_ids[0],
        text=whole(columns.texts, 1)[0] if columns.texts else "",
        forced=bool(columns.forced),
        logprobs=known,
        finish_reason=finish_reason,
    )


def top_of(items: tuple[TopLogprob, ...]) -> Top:
    """The likeliest tokens of one place."""
    return Top(
        token_ids=[item.token_id for item in items],
        logprobs=numbers.all_to_wire([item.logprob for item in items]),
    )


def tops_of(tops: list[Top], count: int) -> list[tuple[TopLogprob, ...]]:
    """Those of `count` places; there may be none."""
    if not tops:
        return [()] * count
    return [
        tuple(map(TopLogprob, top.token_ids, numbers.all_from_wire(whole(top.logprobs, len(top.token_ids)))))
        for top in whole(tops, count)
    ]


def _column(values: list[T], count: int, default: T) -> list[T]:
    """One value per token; those of an empty column are the default."""
    return whole(values, count) if values else [default] * count


def whole(values: list[T], count: int) -> list[T]:
    """`values`, if there are so many. Raises `GenerationError` otherwise."""
    if len(values) != count:
        raise GenerationError(
            f"the server sent {len(values)} values for {count} tokens.",
            remedy="Use the same version on both sides.",
        )
    return values
