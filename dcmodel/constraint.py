"""The contract between a rule (`Constraint`) and its state on one sequence (`Matcher`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dctokenizers import Tokenizer

MaskRow = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a token is allowed or refused at a matcher's present state."""

    token_id: int
    allowed: bool
    reason: str
    expected: tuple[str, ...] = ()
    """Some texts that may come next, most telling first."""


class Matcher(ABC):
    """The state of a constraint on one sequence of tokens.

    A matcher is owned by one sequence and used by one thread at a time (not always the same one).
    End-of-sequence tokens (`Tokenizer.eos_token_ids`) are allowed exactly where `is_accepting`.
    """

    @abstractmethod
    def fill_mask(self, row: MaskRow) -> None:
        """Write the packed mask of the next token into `row` (see `dcmodel.mask`).

        `row` has at least ``mask_words(tokenizer.vocab_size)`` int32 words and belongs to the caller;
        every word is written, bits past the vocabulary as 0. Does not change the state.
        Raises `DeadEndError` where no token at all is allowed, `ConstraintRuntimeError` where the
        mask cannot be computed. Never returns a wrong mask.
        """

    @abstractmethod
    def advance(self, token_ids: Sequence[int]) -> int:
        """Accept as many of `token_ids`, in order, as the constraint allows; return how many.

        The state moves by the accepted tokens only; a refused token changes nothing.
        Any tokenization of an allowed text is accepted, not only the canonical one.
        """

    @abstractmethod
    def forced(self) -> list[int]:
        """The tokens that must come next whatever the model says (perhaps none); state unchanged.

        Never contains an end-of-sequence token. `advance` accepts all of them.
        """

    @property
    @abstractmethod
    def is_accepting(self) -> bool:
        """Whether the text so far is a complete match."""

    @property
    @abstractmethod
    def is_finished(self) -> bool:
        """Whether the match is complete and nothing but the end can follow, or the end was accepted."""

    @abstractmethod
    def fork(self) -> Self:
        """An independent copy in the same state; what happens to one never shows in the other."""

    @abstractmethod
    def rollback(self, count: int) -> None:
        """Take back the last `count` accepted tokens. Raises `ValueError` where fewer were accepted."""

    @abstractmethod
    def explain(self, token_id: int) -> Explanation:
        """Why `token_id` is allowed or refused now, and what is expected; state unchanged."""


class CompiledConstraint(ABC):
    """A constraint made ready for one vocabulary. Immutable, shared between threads."""

    @abstractmethod
    def matcher(self) -> Matcher:
        """A fresh matcher at the beginning of the text. Cheap (microseconds)."""


class Constraint(ABC):
    """A rule about text: immutable, hashable by `key`, and (mostly) serialisable."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """Equal keys mean the same rule; compiled forms are cached under it."""

    @abstractmethod
    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        """Make it ready for a vocabulary. May take milliseconds; raises `InvalidConstraintError`."""

    @abstractmethod
    def to_dict(self) -> Mapping[str, Any]:
        """The wire form, JSON values only; ``{"kind": ..., ...}``. See `constraints.from_dict`.

        Raises `CapabilityError` for a caller's own function, which cannot travel.
        """

    def parse(self, text: str) -> Any:
        """A complete match as a value: a JSON value, a model instance, a parse tree; else the text."""
        return text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constraint) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)
