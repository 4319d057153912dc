"""How long a text is, in characters, words or tokens."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, get_args
from typing import Literal as OneOf

import numpy as np

from dcmodel.constraint import CompiledConstraint, Constraint, Explanation, MaskRow, Walker
from dcmodel.constraints.counting import MAX_SPACES, CountingAutomaton, counting_automaton, read_tokens
from dcmodel.constraints.plain import PlainMatcher, no_end_token
from dcmodel.constraints.walking import TextTokens, WalkingMatcher
from dcmodel.errors import InvalidConstraintError
from dctokenizers import Tokenizer

Unit = OneOf["characters", "words", "tokens"]


class Length(Constraint):
    """Any text of `minimum` to `maximum` characters, words or tokens.

    Characters are those of Unicode. Words are what white space (of Unicode) parts; there may be white
    space before the first and after the last one, nowhere more than 20 characters of it. Tokens are
    those of the model, the end-of-sequence ones not counted: a rule that no text has by itself, and that
    cannot be looked ahead byte by byte. Special tokens are no text, and not allowed. Texts are valid
    UTF-8, but with ``unit="tokens"``, where that is not looked at.
    """

    kind = "length"

    def __init__(self, minimum: int = 0, maximum: int | None = None, unit: Unit = "characters") -> None:
        if unit not in get_args(Unit):
            raise InvalidConstraintError(
                f"the unit is {unit!r:.40}.", remedy=f"Give one of {', '.join(get_args(Unit))}."
            )
        for number in (minimum, maximum):
            if number is not None and type(number) is not int:
                raise InvalidConstraintError(f"a length is {number!r:.40}.", remedy="Give a whole number.")
        if minimum is None or minimum < 0 or (maximum is not None and maximum < max(minimum, 1)):
            raise InvalidConstraintError(
                f"no length is at least {minimum} and at most {maximum} {unit}.",
                remedy="Give 0 <= minimum <= maximum, and a maximum of at least 1.",
            )
        if not minimum and maximum is None:
            raise InvalidConstraintError("every text has this length.", remedy="Give a minimum or a maximum.")
        self.minimum = minimum
        self.maximum = maximum
        self.unit = unit

    @property
    def is_about_tokens(self) -> bool:
        return self.unit == "tokens"

    @property
    def key(self) -> Hashable:
        return (self.kind, self.minimum, self.maximum, self.unit)

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        if self.unit == "tokens":
            return CompiledTokenCount(self, tokenizer)
        return CompiledLength(self, counting_automaton(self.unit), tokenizer)

    def to_dict(self) -> Mapping[str, Any]:
        return {"kind": self.kind, "minimum": self.minimum, "maximum": self.maximum, "unit": self.unit}

    def terminal(self) -> str | None:
        if self.unit == "tokens":
            return None
        if self.unit == "characters":
            return f"/(?s:.{_repeat(self.minimum, self.maximum)})/"
        first = max(self.minimum, 1) - 1
        more = _repeat(first, None if self.maximum is None else self.maximum - 1)
        space = rf"\s{{0,{MAX_SPACES}}}"
        words = rf"\S+(?:\s{{1,{MAX_SPACES}}}\S+){more}{space}"
        return rf"/{space}{words}/" if self.minimum else rf"/{space}(?:{words})?/"


def _repeat(low: int, high: int | None) -> str:
    return f"{{{low},{'' if high is None else high}}}"


class CompiledLength(CompiledConstraint):
    """A `Length` in characters or words for one vocabulary."""

    def __init__(self, rule: Length, automaton: CountingAutomaton, tokenizer: Tokenizer) -> None:
        self.rule = rule
        self.automaton = automaton
        self.shared = TextTokens(tokenizer)
        for state in automaton.whole:
            # The others have few tokens, and are read when they come.
            read_tokens(self.shared.vocabulary, automaton, state)

    def matcher(self) -> LengthMatcher:
        return LengthMatcher(self)

    def walker(self) -> LengthWalker:
        return LengthWalker(self.rule, self.automaton, self.automaton.start, 0)

    def is_accepting(self, state: int, count: int) -> bool:
        """Whether a text is complete in this state with this count."""
        return count >= self.rule.minimum and state in self.automaton.whole

    def mask(self, state: int, count: int) -> MaskRow:
        """The mask after a text of `count` units."""
        reading = read_tokens(self.shared.vocabulary, self.automaton, state)
        most = self.rule.maximum
        budget = reading.most if most is None else min(most - count, reading.most)
        accepting = self.is_accepting(state, count)
        key = (state, budget, accepting)
        row = self.shared.masks.get(key)
        if row is None:
            row = self.shared.mask(reading.within(budget), accepting=accepting)
            self.shared.masks.put(key, row)
        return row


class LengthMatcher(WalkingMatcher[tuple[int, int]]):
    """One sequence under a `Length` in characters or words."""

    __slots__ = ("_compiled",)

    def __init__(self, compiled: CompiledLength) -> None:
        super().__init__(compiled.shared, (compiled.automaton.start, 0))
        self._compiled = compiled

    def _moved(self, state: tuple[int, int], text: bytes) -> tuple[int, int] | None:
        number, count = state
        number, more = self._compiled.automaton.walk(number, text)
        maximum = self._compiled.rule.maximum
        if number == self._compiled.automaton.dead or (maximum is not None and count + more > maximum):
            return None
        return number, count + more

    def _mask(self, state: tuple[int, int]) -> MaskRow:
        return self._compiled.mask(*state)

    @property
    def is_accepting(self) -> bool:
        return self._ends > 0 or self._compiled.is_accepting(*self._states[-1])

    @property
    def is_finished(self) -> bool:
        if self._ends:
            return True
        state = self._states[-1]
        if state[1] != self._compiled.rule.maximum or not self._compiled.is_accepting(*state):
            return False
        return not self._shared.has_text(self._compiled.mask(*state))

    def fork(self) -> LengthMatcher:
        return self._copy_to(LengthMatcher(self._compiled))

    def explain(self, token_id: int) -> Explanation:
        rule = self._compiled.rule
        return _with_count(super().explain(token_id), self._states[-1][1], rule)


class LengthWalker(Walker):
    """One text under a `Length` in characters or words, byte by byte."""

    __slots__ = ("_automaton", "_count", "_rule", "_state")

    def __init__(self, rule: Length, automaton: CountingAutomaton, state: int, count: int) -> None:
        self._rule = rule
        self._automaton = automaton
        self._state = state
        self._count = count

    def following(self) -> int:
        cells = self._automaton.table[self._state // 256]
        fine = (cells & -256) != self._automaton.dead
        if self._count == self._rule.maximum:
            fine &= (cells & 1) == 0
        return int.from_bytes(np.packbits(fine, bitorder="little").tobytes(), "little")

    def step(self, byte: int) -> bool:
        cell = self._automaton.cells[self._state + byte]
        if cell == self._automaton.dead or (cell & 1 and self._count == self._rule.maximum):
            return False
        self._state, self._count = cell & -256, self._count + (cell & 1)
        return True

    @property
    def is_accepting(self) -> bool:
        return self._count >= self._rule.minimum and self._state in self._automaton.whole

    def fork(self) -> LengthWalker:
        return LengthWalker(self._rule, self._automaton, self._state, self._count)


class CompiledTokenCount(CompiledConstraint):
    """A `Length` in tokens for one vocabulary."""

    def __init__(self, rule: Length, tokenizer: Tokenizer) -> None:
        self.rule = rule
        self.shared = TextTokens(tokenizer)
        text = self.shared.vocabulary.text_row
        self.text_row = self.shared.mask(text, accepting=False)
        self.open_row = self.shared.mask(text, accepting=True)

    def matcher(self) -> TokenCountMatcher:
        return TokenCountMatcher(self)


class TokenCountMatcher(PlainMatcher):
    """One sequence under a `Length` in tokens."""

    __slots__ = ("_compiled",)

    def __init__(self, compiled: CompiledTokenCount) -> None:
        super().__init__(compiled.shared.tokenizer)
        self._compiled = compiled

    @property
    def remaining(self) -> int | None:
        """How many tokens of text may still come; None where there is no maximum."""
        maximum = self._compiled.rule.maximum
        return None if maximum is None else maximum - len(self._token_ids)

    def _allows(self, token_id: int) -> bool:
        return self.remaining != 0 and bool(self._compiled.shared.text_of(token_id))

    def _fill(self, row: MaskRow) -> None:
        if self.remaining != 0:
            row[:] = self._compiled.open_row if self.is_accepting else self._compiled.text_row
        elif self._eos:
            row[:] = self._compiled.shared.end_row
        else:
            raise no_end_token()

    @property
    def is_accepting(self) -> bool:
        return len(self._token_ids) >= self._compiled.rule.minimum

    @property
    def is_finished(self) -> bool:
        return self._ends > 0 or self.remaining == 0

    def fork(self) -> TokenCountMatcher:
        twin = TokenCountMatcher(self._compiled)
        twin._token_ids, twin._ends = self._token_ids.copy(), self._ends
        return twin

    def explain(self, token_id: int) -> Explanation:
        return _with_count(super().explain(token_id), len(self._token_ids), self._compiled.rule)


def _with_count(explanation: Explanation, count: int, rule: Length) -> Explanation:
    """A refusal that says how long the text is, and how long it may be."""
    if explanation.allowed:
        return explanation
    bounds = f"at least {rule.minimum}" if rule.minimum else ""
    if rule.maximum is not None:
        bounds = f"{bounds}{' and ' if bounds else ''}at most {rule.maximum}"
    reason = f"{explanation.reason} It has {count} {rule.unit} of {bounds}."
    return Explanation(explanation.token_id, False, reason, explanation.expected)
