"""Version 1: the text frames of LMQL's own client. Pure functions; nothing here knows a model.

A frame is a command, a blank, and JSON. LMQL's client hangs where it gets no list, no token or no stream id,
so every answer is a list, and an error names the stream wherever its number can be read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec

from dcmodel.errors import InvalidRequestError

TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Limit = Annotated[int, msgspec.Meta(ge=-(1 << 31), lt=1 << 31)]


class LegacyError(InvalidRequestError):
    """A frame that cannot be read. ``stream_id``: whose it was; None where that is not known."""

    def __init__(self, stream_id: Any, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.stream_id = stream_id


# -- from the client ---------------------------------------------------------------------------------


class LegacyGenerate(msgspec.Struct, kw_only=True, gc=False):
    """``GENERATE``; the defaults are those of LMQL's server."""

    stream_id: Any
    """Whatever the client sent; it comes back with every item."""
    prompt: list[TokenId]
    model: str = ""
    max_tokens: Limit = 32
    temperature: float = 0.0
    """0 and less is greedy."""
    logit_bias: dict[TokenId, float] | None = None
    """All +100 (these only) or all -100 (never these): a hard mask."""
    top_logprobs: Limit = 1
    top_p: float = 1.0
    top_k: Limit = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    length_penalty: float = 0.0
    frequency_penalty: float = 0.0


class LegacyScore(msgspec.Struct, kw_only=True, gc=False):
    """``SCORE``."""

    stream_id: Any
    prompt: list[TokenId]
    scored: list[TokenId]
    model: str = ""


class LegacyModelInfo(msgspec.Struct, kw_only=True, gc=False):
    """``MODEL_INFO``; ``data`` repeats the model's name."""

    stream_id: Any
    model: str = ""


LegacyRequest = LegacyGenerate | LegacyScore | LegacyModelInfo
COMMANDS: tuple[tuple[str, type[LegacyRequest]], ...] = (
    ("GENERATE", LegacyGenerate),
    ("SCORE", LegacyScore),
    ("MODEL_INFO", LegacyModelInfo),
)


def parse(frame: str) -> LegacyRequest:
    """What a client asks. Raises `LegacyError`."""
    command, _, body = frame.partition(" ")
    kind = next((kind for name, kind in COMMANDS if name == command), None)
    if kind is None:
        known = ", ".join(name for name, _ in COMMANDS)
        raise LegacyError(
            stream_id_in(body), f"the frame begins with {command!r:.40}.", remedy=f"Commands: {known}."
        )
    try:
        return msgspec.json.decode(body, type=kind)
    except RecursionError:
        raise LegacyError(None, f"the {command} frame is nested too deeply.") from None
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        raise LegacyError(
            stream_id_in(body), f"the {command} frame cannot be read: {str(error)[:300]}."
        ) from None


def stream_id_in(body: str) -> Any:
    """The number of the stream, from JSON of whatever quality; None where there is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    stream_id = found.get("stream_id") if isinstance(found, dict) else None
    return stream_id if isinstance(stream_id, int) else None


# -- from the server ---------------------------------------------------------------------------------


class LegacyToken(msgspec.Struct, kw_only=True, gc=False):
    """A token of a stream. Even the end of a stream is one: the client waits for ever otherwise."""

    token: int
    stream_id: Any
    logprob: float
    """After the mask."""
    finish_reason: str | None = None
    top_logprobs: dict[int, float]
    """The token that was chosen first, then the likeliest; without those that the mask refuses."""


class LegacyScored(msgspec.Struct, kw_only=True, gc=False):
    """A token of a SCORE."""

    token: int
    stream_id: Any
    logprob: float
    finish_reason: str | None = None


class LegacyFailed(msgspec.Struct, kw_only=True, gc=False):
    """The end of a stream by an error (in a TOKEN frame), or the answer to another question (in MSG)."""

    stream_id: Any
    error: str


class LegacyDescribed(msgspec.Struct, kw_only=True, gc=False):
    """The answer to MODEL_INFO."""

    stream_id: Any
    model_info: Any


def token_frame(items: Sequence[LegacyToken | LegacyScored | LegacyFailed]) -> str:
    """``TOKEN [...]``: any number of items, of any streams."""
    return "TOKEN " + _list(items)


def msg_frame(items: Sequence[LegacyDescribed | LegacyFailed]) -> str:
    """``MSG [...]``."""
    return "MSG " + _list(items)


def _list(items: Sequence[msgspec.Struct]) -> str:
    if all(map(_is_plain, items)):
        return msgspec.json.encode(items).decode()
    # Python's JSON, which LMQL's client reads, knows -Infinity.
    return json.dumps(list(map(_builtins, items)), separators=(",", ":"))


def _is_plain(item: msgspec.Struct) -> bool:
    if isinstance(item, LegacyToken):
        return math.isfinite(item.logprob) and _all_finite(item.top_logprobs.values())
    return not isinstance(item, LegacyScored) or math.isfinite(item.logprob)


def _all_finite(values: Iterable[float]) -> bool:
    return all(map(math.isfinite, values))


def _builtins(item: msgspec.Struct) -> dict[str, Any]:
    """In the order of the fields; keys of objects become texts."""
    return {name: getattr(item, name) for name in item.__struct_fields__}
