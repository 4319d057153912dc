"""A vocabulary of single bytes: what a rule is compiled for when no model's vocabulary is at hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from dcmodel.constraint import Constraint, Walker
from dctokenizers import Tokenizer, Vocabulary
from dctokenizers.codec import Codec


class _Bytes(Codec):
    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        return list(text.encode())


@cache
def byte_vocabulary() -> Tokenizer:
    """256 bytes and an end of text."""
    vocabulary = Vocabulary([*(bytes([byte]) for byte in range(256)), b"<|end|>"], [256])
    return Tokenizer(name="bytes", vocabulary=vocabulary, codec=_Bytes(), eos_token_ids=[256])


def walker_maker(constraint: Constraint) -> Callable[[], Walker]:
    """What makes walkers of a rule. Raises `CapabilityError` where it is about tokens."""
    compiled = constraint.compile(byte_vocabulary())
    compiled.walker()
    return compiled.walker
