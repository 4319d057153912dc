"""A `Walker` over the mask engine with a vocabulary of single bytes."""

from __future__ import annotations

from functools import cache

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from dcmodel.constraint import Walker
from dcmodel.constraints.llg_engine import LIMITS, engine_error, is_dead_end
from dcmodel.errors import CapabilityError, ConstraintRuntimeError

BYTES = (1 << 256) - 1


@cache
def byte_tokenizer() -> LLTokenizer:
    """The engine's vocabulary of 256 bytes and a few special tokens."""
    return LLTokenizer("byte")


def build_byte_engine(grammar: str) -> LLMatcher:
    """The engine of a grammar over bytes. Raises `CapabilityError` where it names special tokens."""
    engine = LLMatcher(byte_tokenizer(), grammar, log_level=0, limits=LIMITS)
    if message := engine_error(engine):
        raise CapabilityError(f"the grammar cannot be read byte by byte: {message}.")
    return engine


class LlgWalker(Walker):
    """One text under a grammar. Copies share the lexer's cache, and its lock."""

    __slots__ = ("_engine", "_following")

    def __init__(self, engine: LLMatcher) -> None:
        self._engine = engine
        self._following: int | None = None

    def following(self) -> int:
        if self._following is None:
            row = np.zeros(-(-byte_tokenizer().vocab_size // 32), dtype=np.int32)
            # On a copy: a dead end is an error, which is final.
            engine = self._engine.deep_copy()
            engine.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
            if engine.is_error():
                message = engine_error(engine)
                if not is_dead_end(message):
                    raise ConstraintRuntimeError(
                        f"the mask engine gave up: {message}.",
                        remedy="Write the constraint in a simpler way.",
                    )
                row[:] = 0
            self._following = int.from_bytes(row.tobytes()[:32], "little")
        return self._following

    def step(self, byte: int) -> bool:
        # Without a mask before it the engine lives on a budget; see `LlgMatcher._refuel`.
        if not self._engine.try_consume_tokens([byte]) and (
            not (self.following() >> byte) & 1 or not self._engine.try_consume_tokens([byte])
        ):
            return False
        self._following = None
        return True

    @property
    def is_accepting(self) -> bool:
        return bool(self._engine.is_accepting())

    def fork(self) -> LlgWalker:
        twin = LlgWalker(self._engine.deep_copy())
        twin._following = self._following
        return twin
