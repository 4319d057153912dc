"""Distributions of next tokens on the wire: arrays as bytes, equal to the bit when they arrive."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dcmodel.errors import GenerationError
from dcmodel.types import NextTokens
from lmql_backends.lmtp.protocol import numbers
from lmql_backends.lmtp.protocol.messages import Distribution


def to_wire(found: NextTokens) -> Distribution:
    count = len(found.token_ids)
    is_whole = np.array_equal(found.token_ids, np.arange(count))
    raw = found.raw_logprobs
    allowed: NDArray[np.bool_] | None = None
    if is_whole and not (found.log_mass == 0.0 and _same_bits(found.masked_logprobs, raw)):
        allowed = found.masked_logprobs != -np.inf
    is_derived = _same_bits(_masked(raw, found.log_mass, allowed), found.masked_logprobs)
    return Distribution(
        raw=_bytes(raw),
        log_mass=numbers.to_wire(found.log_mass),
        token_ids=b"" if is_whole else found.token_ids.astype("<i4").tobytes(),
        allowed=b"" if allowed is None else np.packbits(allowed, bitorder="little").tobytes(),
        masked=b"" if is_derived else _bytes(found.masked_logprobs),
    )


def from_wire(distribution: Distribution) -> NextTokens:
    """Raises `GenerationError` for arrays that do not fit one another."""
    raw = _floats(distribution.raw)
    count = len(raw)
    if distribution.token_ids:
        _check(len(distribution.token_ids) == 4 * count, "ids", count)
        token_ids = np.frombuffer(distribution.token_ids, dtype="<i4").astype(np.int64)
    else:
        token_ids = np.arange(count, dtype=np.int64)
    log_mass = numbers.from_wire(distribution.log_mass)
    if distribution.masked:
        masked = _floats(distribution.masked)
        _check(len(masked) == count, "masked log-probabilities", count)
    else:
        masked = _masked(raw, log_mass, _allowed(distribution.allowed, count))
    return NextTokens(token_ids=token_ids, raw_logprobs=raw, masked_logprobs=masked, log_mass=log_mass)


def _masked(
    raw: NDArray[np.float32], log_mass: float, allowed: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """As a local model computes it (`dcmodel.scheduling.look`)."""
    if allowed is None and log_mass == 0.0:
        return raw
    with np.errstate(invalid="ignore"):
        masked = raw - np.float32(log_mass)
    return masked if allowed is None else np.where(allowed, masked, np.float32(-np.inf))


def _allowed(data: bytes, count: int) -> NDArray[np.bool_] | None:
    if not data:
        return None
    _check(len(data) == -(-count // 8), "bits", count)
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little", count=count)
    return bits.view(np.bool_)


def _same_bits(left: NDArray[np.float32], right: NDArray[np.float32]) -> bool:
    return left.tobytes() == right.tobytes()


def _bytes(values: NDArray[np.float32]) -> bytes:
    return values.astype("<f4", copy=False).tobytes()


def _floats(data: bytes) -> NDArray[np.float32]:
    if len(data) % 4:
        raise GenerationError(f"the server sent {len(data)} bytes of float32 values, no multiple of 4.")
    return np.frombuffer(data, dtype="<f4").astype(np.float32)


def _check(fits: bool, what: str, count: int) -> None:
    if not fits:
        raise GenerationError(
            f"the server sent {what} that do not fit a distribution of {count} tokens.",
            remedy="Use the same version on both sides.",
        )
