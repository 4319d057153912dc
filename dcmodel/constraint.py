"""The contract between a rule (`Constraint`) and its state on one sequence (`Matcher`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import NDArray

from dcmodel.errors import CapabilityError
from dctokenizers import Tokenizer

MaskRow = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a token is allowed or refused at a matcher's present state."""

    token_id: int
    allowed: bool
    reason: str
    expected: tuple[str, ...] = ()
    """Some texts and classes of characters that may come next, most telling first."""
    allowed_count: int = 0
    """Tokens of the vocabulary that are allowed now."""


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

    @property
    def is_exact(self) -> bool:
        """Whether `advance` accepts every token of the mask.

        Where False (what no grammar can say, an intersection), the mask may also hold tokens after which
        no complete text exists. `advance` refuses those; the caller bans the token and draws again.
        """
        return True

    @property
    def may_dead_end(self) -> bool:
        """Whether a state may be reached, unseen, from which no complete text exists.

        Where True (a caller's own function takes part), the caller keeps its text back, and takes back
        tokens when a mask comes out empty.
        """
        return False

    @property
    def may_wait(self) -> bool:
        """Whether `fill_mask` may wait for something, as a caller's function does: it gets its own thread."""
        return False

    @property
    def was_narrowed(self) -> bool:
        """Whether a token was refused although nobody showed that no complete text exists after it."""
        return False

    @property
    def releasable(self) -> int | None:
        """How many bytes of the text so far are surely part of the result; None = all.

        Fewer where a stop string was found that is dropped, or may just have begun.
        """
        return None

    @property
    def lock_key(self) -> object | None:
        """Matchers with equal keys compute their masks under one lock; None where there is none."""
        return None

    @property
    def is_spent(self) -> bool:
        """Whether everything is allowed from here on: the caller may go on without the matcher."""
        return False

    def ways_out(self) -> list[int]:
        """Where `is_exact` is False: some tokens that `advance` surely accepts; perhaps none are known."""
        return []

    @property
    def sampling(self) -> Mapping[str, Any]:
        """Fields of `SamplingParams` that differ from the request's for the next token (in a template)."""
        return {}


class Walker(ABC):
    """The state of a constraint on one text, byte by byte: what looks ahead for a completion.

    Slower than a `Matcher` for a long text, and free of any vocabulary. Special tokens are no text.
    """

    @abstractmethod
    def following(self) -> int:
        """The bytes that may come next, as 256 bits (bit b for byte b). State unchanged.

        Exactly those that keep the text a beginning of a complete one, or (`is_exact` False) perhaps more.
        """

    @abstractmethod
    def step(self, byte: int) -> bool:
        """Move over one byte; False, and the state unchanged, where it is refused."""

    @property
    @abstractmethod
    def is_accepting(self) -> bool:
        """Whether the text so far is a complete match."""

    @abstractmethod
    def fork(self) -> Self:
        """An independent copy."""

    @property
    def is_exact(self) -> bool:
        """Whether `following` holds no byte after which no complete text exists."""
        return True

    def walk(self, text: bytes) -> int:
        """Move over as many bytes of `text` as are allowed; return how many."""
        for count, byte in enumerate(text):
            if not self.step(byte):
                return count
        return len(text)


class CompiledConstraint(ABC):
    """A constraint made ready for one vocabulary. Immutable, shared between threads."""

    @abstractmethod
    def matcher(self) -> Matcher:
        """A fresh matcher at the beginning of the text. Cheap (microseconds)."""

    def walker(self) -> Walker:
        """A fresh walker at the beginning of the text.

        Raises `CapabilityError` where the rule is about tokens, not text.
        """
        raise CapabilityError(
            f"{type(self).__name__} is a rule about tokens, which cannot be looked ahead byte by byte."
        )


class Constraint(ABC):
    """A rule about text: immutable, hashable by `key`, and (mostly) serialisable."""

    kind: ClassVar[str]

    @property
    def is_about_tokens(self) -> bool:
        """Whether it counts or names tokens, so that it makes no sense for a text by itself."""
        return False

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

    def terminal(self) -> str | None:
        """The rule as an expression inside a terminal of llguidance's Lark, in parentheses where needed.

        None where it is not regular, or where it is kept apart for speed. Terminals compose exactly.
        """
        return None

    def __and__(self, other: Constraint) -> Constraint:
        """The text satisfies both."""
        return _combined("And", self, other)

    def __or__(self, other: Constraint) -> Constraint:
        """The text satisfies at least one."""
        return _combined("Or", self, other)

    def __add__(self, other: Constraint) -> Constraint:
        """A text of this one, then one of the other."""
        return _combined("Then", self, other)

    def __invert__(self) -> Constraint:
        """Any text that does not satisfy it."""
        return _combined("Not", self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constraint) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _combined(name: str, *parts: object) -> Constraint:
    # Combinations stand a layer above: they know the kinds.
    if not all(isinstance(part, Constraint) for part in parts):
        return cast(Constraint, NotImplemented)
    combination = getattr(import_module("dcmodel.constraints.algebra"), name)
    return cast(Constraint, combination(*parts))
