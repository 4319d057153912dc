"""What the messages of LMTP version 2 consist of."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from dcmodel.types import SamplingParams

Id = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class Part(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """Base of what messages consist of."""


class Mask(Part):
    """Which tokens a caller allows; the shortest of three forms."""

    form: str
    """``bits``: packed int32 words, lowest bit first, 1 = allowed. ``allow``, ``ban``: ids."""
    data: bytes
    """Little-endian; ids are uint32."""


class Top(Part):
    """The likeliest tokens of one place, likeliest first."""

    token_ids: list[int]
    logprobs: list[float]


class Columns(Part):
    """What is known of consecutive tokens of an output; lists have one item per token, or are empty."""

    token_ids: list[int]
    texts: list[str] = []
    """What each adds to the text: whole characters only. Empty where none adds anything."""
    forced: list[int] = []
    """Offsets, ascending, of those that the constraint left no choice about."""
    raw: list[float] = []
    """Nats; ``numbers.py`` says what stands for minus infinity and NaN, here and below."""
    masked: list[float] = []
    """Empty where they are those in `raw`."""
    log_mass: list[float] = []
    """Empty where all are 0."""
    top_raw: list[Top] = []
    top_masked: list[Top] = []
    """Empty where they are those in `top_raw`."""


class Scores(Part):
    """Of one continuation."""

    logprobs: list[float]
    ranks: list[int]
    tops: list[Top] = []


class Distribution(Part):
    """Of one next token; arrays as bytes, little-endian."""

    raw: bytes
    """float32 [k]"""
    log_mass: float
    token_ids: bytes = b""
    """int32 [k]; empty: the whole vocabulary in the order of the ids."""
    allowed: bytes = b""
    """Of the whole vocabulary: bits of what the mask allows; empty: everything."""
    masked: bytes = b""
    """float32 [k]; empty where it is, to the bit, ``raw - float32(log_mass)``, and -inf where not allowed."""


class Adapter(Part):
    """A mounted adapter."""

    name: str
    source: str = ""
    rank: int = 0
    kind: str = "lora"


class Request(Part):
    """What a stream or a session is to be; the fields of `GenerateRequest`."""

    prompt: list[TokenId] | str
    """Token ids, or a text that the server encodes."""
    sampling: SamplingParams = SamplingParams()
    constraint: dict[str, Any] | str | None = None
    """As `Constraint.to_dict` has it, or as the text of `constraints.to_json` (which has longer numbers)."""
    stop: list[str] = []
    include_stop: bool = False
    max_tokens: Count = 256
    logprobs: bool = True
    top_logprobs: Count = 0
    healed: str = ""
    canonical: bool = False
    ignore_eos: bool = False
    adapter: str = ""
    """Empty: the model as it is (or the one that ``MODEL:ADAPTER`` names)."""
    model: str = ""
    fingerprint: str = ""
    """Of the client's vocabulary, where token ids are sent: another one than the server's is an error."""
