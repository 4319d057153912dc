"""Faults of streams: from the data of events, one by one, to the bytes that are sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec

from lmql_backends.lmtp.server.contracts import CutError
from lmql_backends.lmtp.server.openai.double.faults import (
    After,
    AnyFault,
    BadEvent,
    Comments,
    EmptyChunk,
    ErrorEvent,
    Merged,
    NoDone,
    Slow,
    Split,
    Stall,
    StreamClose,
    StreamReset,
)
from lmql_backends.lmtp.server.openai.double.happening import forever, spoken
from lmql_backends.lmtp.server.openai.double.merging import merged
from lmql_backends.lmtp.server.openai.double.wishes import Json

Events = AsyncIterator[bytes]
"""The data of events; one that begins with ``:`` is a comment."""
Sleep = Callable[[float], Awaitable[None]]

DONE = b"[DONE]"
AZURES = (
    b'{"id":"","object":"","created":0,"model":"","prompt_filter_results":[{"prompt_index":0}],"choices":[]}'
)
BAD = b'{"id": "chatcmpl-1", "choices": [{"ind'


def happen_to_stream(faults: Sequence[AnyFault], events: Events, sleep: Sleep) -> AsyncIterator[bytes]:
    """The body of the answer. Closing it closes `events`."""
    split = None
    for fault in faults:
        match fault:
            case Merged():
                events = merged(events, fault.tokens)
            case Comments():
                events = _commented(events, fault.text)
            case EmptyChunk():
                events = _after(AZURES, events)
            case NoDone():
                events = _without_done(events)
            case Slow():
                events = _late(events, fault.seconds, sleep)
            case Split():
                split = fault
            case After():
                events = _broken(events, fault)
    return _sent(events, split)


async def _sent(events: Events, split: Split | None) -> AsyncIterator[bytes]:
    try:
        async for data in events:
            frame = data + b"\n\n" if data.startswith(b":") else b"data: " + data + b"\n\n"
            if split is None:
                yield frame
                continue
            if split.crlf:
                frame = frame.replace(b"\n", b"\r\n")
            for start in range(0, len(frame), split.size):
                yield frame[start : start + split.size]
    finally:
        await _close(events)


async def _commented(events: Events, text: str) -> Events:
    try:
        async for data in events:
            yield b": " + text.encode()
            yield data
    finally:
        await _close(events)


async def _after(first: bytes, events: Events) -> Events:
    try:
        yield first
        async for data in events:
            yield data
    finally:
        await _close(events)


async def _without_done(events: Events) -> Events:
    try:
        async for data in events:
            if data != DONE:
                yield data
    finally:
        await _close(events)


async def _late(events: Events, seconds: float, sleep: Sleep) -> Events:
    try:
        await sleep(seconds)
        async for data in events:
            yield data
    finally:
        await _close(events)


async def _broken(events: Events, fault: After) -> Events:
    """So many texts, and then the fault."""
    try:
        texts = 0
        async for data in events:
            if texts >= fault.after and shows_text(data):
                break
            if data == DONE or _ends(data):
                break  # shorter than the plan had it: its end is not shown either
            yield data
            texts += shows_text(data)
        match fault:
            case StreamReset() | StreamClose():
                raise CutError(reset=isinstance(fault, StreamReset))
            case Stall():
                await forever()
            case BadEvent():
                yield BAD
            case ErrorEvent():
                yield msgspec.json.encode(spoken(fault.status, fault.message, code=_code(fault.status)))
    finally:
        await _close(events)


def shows_text(data: bytes) -> bool:
    """Whether a choice of the event adds to its text."""
    return any(choice.get("text") or choice.get("delta", {}).get("content") for choice in _choices(data))


def _ends(data: bytes) -> bool:
    return any(choice.get("finish_reason") for choice in _choices(data))


def _choices(data: bytes) -> list[Json]:
    if data == DONE or data.startswith(b":"):
        return []
    choices: list[Json] = msgspec.json.decode(data).get("choices", [])
    return choices


def _code(status: int) -> str | None:
    """A stream has no status left to give, so that its number stands where servers put it: in the code."""
    return None if status == 429 else str(status)


async def _close(events: Events) -> None:
    close = getattr(events, "aclose", None)
    if close is not None:
        await close()
