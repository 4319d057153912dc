"""`And`, `Or`, `Not` and `Then`: rules made of rules."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from dcmodel.constraint import CompiledConstraint, Constraint, Walker
from dcmodel.constraints.algebra import regular
from dcmodel.constraints.algebra.compiling import (
    accepts,
    compile_all_of,
    compile_in_order,
    compile_not,
    compile_one_of,
)
from dcmodel.constraints.byte_vocabulary import walker_maker
from dcmodel.constraints.phrases.not_in import NotIn
from dcmodel.constraints.phrases.stop import Stop
from dcmodel.constraints.until import Until
from dcmodel.errors import CapabilityError, InvalidConstraintError, UnsatisfiableConstraintError
from dctokenizers import Tokenizer

MAX_PARTS = 1_000
MAX_DEPTH = 50
MAX_PHRASES = 16
"""Of which one must appear, as one terminal; more are looked for byte by byte."""


class _Combination(Constraint):
    """Several rules under one operator."""

    def __init__(self, *parts: Constraint) -> None:
        self.parts: tuple[Constraint, ...] = tuple(self._flattened(_checked(parts, self.kind)))
        self.depth = 1 + max(getattr(part, "depth", 0) for part in self.parts)
        if self.depth > MAX_DEPTH or len(self.parts) > MAX_PARTS:
            raise InvalidConstraintError(
                f"the `{self.kind}` constraint has {len(self.parts)} parts, {self.depth} deep.",
                remedy=f"At most {MAX_PARTS} parts and a depth of {MAX_DEPTH} are supported.",
            )

    def _flattened(self, parts: Iterable[Constraint]) -> Iterable[Constraint]:
        for part in parts:
            if type(part) is type(self):
                yield from part.parts
            else:
                yield part

    @property
    def key(self) -> Hashable:
        return (self.kind, tuple(part.key for part in self.parts))

    @property
    def is_about_tokens(self) -> bool:
        return any(part.is_about_tokens for part in self.parts)

    def to_dict(self) -> Mapping[str, Any]:
        return {"kind": self.kind, "parts": [dict(part.to_dict()) for part in self.parts]}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.parts))})"

    def _terminals(self) -> list[str] | None:
        """The parts' terminals, if all of them have one."""
        found = [part.terminal() for part in self.parts]
        terminals = [terminal for terminal in found if terminal is not None]
        return terminals if len(terminals) == len(found) else None


class And(_Combination):
    """The text satisfies every part.

    Regular parts are joined in one terminal, exactly; a list of options is filtered by the others. What
    is left is joined by intersecting masks, with a look ahead (see `algebra.live`): never invalid, never
    in a dead end. `compile` raises `UnsatisfiableConstraintError` where no text satisfies all parts.
    """

    kind = "and"

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        return compile_all_of(self.parts, tokenizer)

    def terminal(self) -> str | None:
        terminals = self._terminals()
        return regular.all_of(terminals) if terminals is not None else None

    def parse(self, text: str) -> Any:
        """The first part's value that is more than the text itself."""
        for part in self.parts:
            value = part.parse(text)
            if not isinstance(value, str):
                return value
        return text


class Or(_Combination):
    """The text satisfies at least one part."""

    kind = "or"

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        return compile_one_of(self.parts, tokenizer)

    def terminal(self) -> str | None:
        terminals = self._terminals()
        return regular.one_of(terminals) if terminals is not None else None

    def parse(self, text: str) -> Any:
        """The value of the first part that the text satisfies."""
        for part, begin in zip(self.parts, self._begin, strict=True):
            if begin is not None and accepts(begin(), text.encode()):
                return part.parse(text)
        return text

    @cached_property
    def _begin(self) -> list[Callable[[], Walker] | None]:
        """What makes a walker of each part; None for a rule about tokens, or that nothing satisfies."""
        found: list[Callable[[], Walker] | None] = []
        for part in self.parts:
            try:
                found.append(walker_maker(part))
            except (CapabilityError, UnsatisfiableConstraintError):
                found.append(None)
        return found


class Then(_Combination):
    """A text of each part, one after the other; `parse` gives the whole text."""

    kind = "then"

    def _flattened(self, parts: Iterable[Constraint]) -> Iterable[Constraint]:
        flat = list(super()._flattened(parts))
        return [*map(_in_the_middle, flat[:-1]), *flat[-1:]]

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        return compile_in_order(self.parts, tokenizer)

    def terminal(self) -> str | None:
        terminals = self._terminals()
        return regular.one_after_the_other(terminals) if terminals is not None else None


def _in_the_middle(part: Constraint) -> Constraint:
    """A stop string ends the whole text; before other parts it can only end its own."""
    if not isinstance(part, Stop):
        return part
    return Until(part.strings) if part.include else NotIn(part.strings)


class Not(Constraint):
    """Any text that does not satisfy `part`."""

    kind = "not"

    def __init__(self, part: Constraint) -> None:
        (self.part,) = _checked((part,), self.kind)
        self.depth = 1 + getattr(self.part, "depth", 0)
        if self.depth > MAX_DEPTH:
            raise InvalidConstraintError(f"the constraint is {self.depth} deep, more than {MAX_DEPTH}.")

    @property
    def key(self) -> Hashable:
        return (self.kind, self.part.key)

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        return compile_not(self.part, tokenizer)

    def terminal(self) -> str | None:
        if isinstance(self.part, Not):
            return self.part.part.terminal()
        if isinstance(self.part, NotIn) and len(self.part.phrases) <= MAX_PHRASES:
            return regular.containing(self.part.phrases)
        terminal = self.part.terminal()
        return regular.none_of(terminal) if terminal is not None else None

    @property
    def is_about_tokens(self) -> bool:
        return self.part.is_about_tokens

    def to_dict(self) -> Mapping[str, Any]:
        return {"kind": self.kind, "part": dict(self.part.to_dict())}

    def __repr__(self) -> str:
        return f"Not({self.part!r})"


def _checked(parts: Sequence[object], kind: str) -> list[Constraint]:
    if not parts:
        raise InvalidConstraintError(f"the `{kind}` constraint has no parts.", remedy="Give at least one.")
    found = []
    for part in parts:
        if not isinstance(part, Constraint):
            raise InvalidConstraintError(
                f"a part of `{kind}` is {part!r:.60}, no constraint.",
                remedy='Give constraints, for example Regex("[0-9]+") or Choice(["yes"]).',
            )
        found.append(part)
    return found
