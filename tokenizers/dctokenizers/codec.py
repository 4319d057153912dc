"""What a tokenizer family does itself: turn text into ids. Everything else is common to all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class PortableCodec:
    """An encoder as data, from which `portable.unpack` makes an equal one elsewhere."""

    form: str
    """Which family reads it."""
    data: bytes = b""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """JSON values."""


class Codec(ABC):
    """The encoder of one vocabulary. Immutable after construction; called from any thread.

    Callers pass text that has a UTF-8 form (no lone surrogates).
    """

    is_lossless: bool = True
    """Whether the bytes of `encode(text)` are `text` itself, for every text."""

    drops_unknown: bool = False
    """Whether bytes without a token would vanish from otherwise unchanged text (the caller checks)."""

    unknown_token_id: int | None = None
    """What stands for characters without a token, where the family has such an id."""

    @abstractmethod
    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Ids of `text` as a continuation: no BOS, no dummy prefix."""

    def encode_start(self, text: str, *, parse_special: bool) -> list[int]:
        """Ids of `text` at the start of a prompt: no BOS, but the family's dummy prefix, if any."""
        return self.encode(text, parse_special=parse_special)

    @property
    def has_prefix(self) -> bool:
        """Whether `encode_start` puts a space before the text."""
        return False

    def native_ll_tokenizer(self, eos_token_ids: Sequence[int]) -> Any | None:
        """An exact `llguidance.LLTokenizer` that needs no call back into Python, or None."""
        return None

    def portable(self) -> PortableCodec | None:
        """The encoder as data; None where it cannot leave this process."""
        return None
