"""Text in which certain phrases never appear."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmodel.constraint import CompiledConstraint, Constraint, Explanation, MaskRow, Walker
from dcmodel.constraints.checked_texts import checked_texts
from dcmodel.constraints.explain import show
from dcmodel.constraints.phrases.aho_corasick import AhoCorasick, levels
from dcmodel.constraints.sorted_vocabulary import SortedVocabulary
from dcmodel.constraints.walking import TextTokens, WalkingMatcher
from dcmodel.errors import UnsatisfiableConstraintError
from dctokenizers import Tokenizer


class NotIn(Constraint):
    """Any text in which none of `phrases` appears, across token borders neither.

    The text may end anywhere, so every state is live and there is no dead end; where each further
    token would complete a phrase, it is finished. Special tokens are not text, and not allowed.
    Whether the text is valid UTF-8 is not its business. `compile` raises
    `UnsatisfiableConstraintError` where the phrases leave nothing but the empty text.
    """

    kind = "not_in"

    def __init__(self, phrases: Iterable[str]) -> None:
        self.phrases = checked_texts(phrases, what="phrase")

    @property
    def key(self) -> Hashable:
        return (self.kind, frozenset(self.phrases))

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        return CompiledNotIn(self.phrases, tokenizer)

    def to_dict(self) -> Mapping[str, Any]:
        return {"kind": self.kind, "phrases": list(self.phrases)}


class CompiledNotIn(CompiledConstraint):
    """A `NotIn` for one vocabulary."""

    def __init__(self, phrases: Iterable[str], tokenizer: Tokenizer) -> None:
        self.automaton = AhoCorasick(phrase.encode() for phrase in phrases)
        self.shared = TextTokens(tokenizer)
        self.banned = BannedTokens(self.automaton, self.shared.vocabulary)
        base = self.shared.vocabulary.text_row & ~self.banned.by_themselves
        self.base = self.shared.mask(base, accepting=True)
        self.base.flags.writeable = False
        if not self.shared.has_text(self.base):
            raise UnsatisfiableConstraintError(
                "no token is without one of the phrases: only the empty text is left.",
                remedy="Remove phrases of a single character.",
            )
        self._open = self._surely_open()

    def matcher(self) -> NotInMatcher:
        return NotInMatcher(self)

    def walker(self) -> NotInWalker:
        return NotInWalker(self.automaton, self.automaton.start)

    def mask(self, state: int) -> MaskRow:
        """The mask of a state; made once for all states with the same one."""
        source = self.banned.source(state)
        if source == self.automaton.start:
            return self.base
        row = self.shared.masks.get(source)
        if row is None:
            row = self.base & ~self.banned.after(source) | self.shared.end_row
            self.shared.masks.put(source, row)
        return row

    def is_closed(self, state: int) -> bool:
        """Whether every token is banned in a state."""
        return not self._open[state // self.automaton.width] and not self.shared.has_text(self.mask(state))

    def _surely_open(self) -> NDArray[np.bool_]:
        """For each state, whether a token of a single byte is allowed: nearly always, and cheap to know."""
        ends = b"".join(map(self.shared.tokenizer.token_bytes, self.shared.tokenizer.eos_token_ids))
        single = self.shared.vocabulary.single_bytes.translate(self.automaton.classes, ends)
        numbers = np.frombuffer(single, dtype=np.uint8)
        nearest: NDArray[np.int32] = self.automaton.table[:, numbers].min(
            axis=1, initial=self.automaton.first_match
        )
        return nearest < self.automaton.first_match


class BannedTokens:
    """The tokens that complete a phrase, by the state in which they come.

    A token completes a phrase either by itself, whatever came before; or it begins with the rest of a
    phrase whose beginning the text ends with. Those are tokens side by side in the sorted vocabulary.
    """

    def __init__(self, automaton: AhoCorasick, vocabulary: SortedVocabulary) -> None:
        self._automaton = automaton
        self._vocabulary = vocabulary
        self.by_themselves = self._by_themselves()
        ranges = [
            vocabulary.beginning_with(phrase[place:])
            for phrase in automaton.phrases
            for place in range(1, len(phrase) + 1)
        ]
        bounds = np.array(ranges, dtype=np.int64)
        # The rest after the whole phrase is empty: nothing, and not everything, begins with it.
        bounds[automaton.offsets + [len(phrase) - 1 for phrase in automaton.phrases]] = 0
        self._low, self._high = bounds[:, 0], bounds[:, 1]
        self._sources = self._find_sources().data

    def _by_themselves(self) -> MaskRow:
        automaton = self._automaton
        flat = automaton.table.reshape(-1)
        classes = np.frombuffer(automaton.classes, dtype=np.uint8)
        order, columns = self._vocabulary.all_columns
        states = np.full(order.size, automaton.start, dtype=np.int32)
        for column in columns:
            states[: column.size] = flat[states[: column.size] + classes[column]]
        return self._vocabulary.row(order[states >= automaton.first_match])

    def _find_sources(self) -> NDArray[np.int32]:
        """For each state, the nearest of it and its ends that bans tokens of its own; else the start."""
        automaton = self._automaton
        bans = np.zeros(len(automaton.table), dtype=np.bool_)
        bans[automaton.path[self._low < self._high] // automaton.width] = True
        sources = np.full(len(automaton.table), automaton.start, dtype=np.int32)
        for here in levels(automaton.depth)[1:]:
            inherited = sources[automaton.fail[here] // automaton.width]
            sources[here] = np.where(bans[here], here * automaton.width, inherited)
        return sources

    def source(self, state: int) -> int:
        """The state, perhaps another one, that bans the same tokens and stands for all that do."""
        return self._sources[state // self._automaton.width]

    def after(self, source: int) -> MaskRow:
        """The tokens that are banned in a state, but for those that are banned by themselves. A new row."""
        automaton = self._automaton
        lows, highs = [], []
        while source != automaton.start:
            number = source // automaton.width
            places = automaton.offsets[automaton.first[number] : automaton.last[number]]
            places = places + (automaton.depth[number] - 1)
            low, high = self._low[places], self._high[places]
            lows.append(low[low < high])
            highs.append(high[low < high])
            source = self.source(int(automaton.fail[number]))
        return self._vocabulary.row(_members(np.concatenate(lows), np.concatenate(highs)))


def _members(low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.int64]:
    """All numbers of the ranges ``[low, high)``, which are not empty; some perhaps more than once."""
    counts = high - low
    ends = np.cumsum(counts)
    members: NDArray[np.int64] = np.arange(ends[-1]) + np.repeat(low - ends + counts, counts)
    return members


class NotInMatcher(WalkingMatcher[int]):
    """One sequence under a `NotIn`."""

    __slots__ = ("_compiled",)

    def __init__(self, compiled: CompiledNotIn) -> None:
        super().__init__(compiled.shared, compiled.automaton.start)
        self._compiled = compiled

    def _moved(self, state: int, text: bytes) -> int | None:
        automaton = self._compiled.automaton
        after = automaton.walk(state, text)
        return after if after < automaton.first_match else None

    def _mask(self, state: int) -> MaskRow:
        return self._compiled.mask(state)

    @property
    def is_accepting(self) -> bool:
        return True

    @property
    def is_finished(self) -> bool:
        return self._ends > 0 or self._compiled.is_closed(self._states[-1])

    def fork(self) -> NotInMatcher:
        return self._copy_to(NotInMatcher(self._compiled))

    def explain(self, token_id: int) -> Explanation:
        explanation = super().explain(token_id)
        if explanation.allowed or self._ends or not 0 <= token_id < self._tokenizer.vocab_size:
            return explanation
        text = self._shared.text_of(token_id)
        if not text or token_id in self._tokenizer.eos_token_ids:
            return explanation
        _, phrase = self._compiled.automaton.find(self._states[-1], text)
        reason = f"{explanation.reason} The phrase {show(phrase)} would be in the text."
        return Explanation(token_id, False, reason, explanation.expected)


class NotInWalker(Walker):
    """One text under a `NotIn`, byte by byte."""

    __slots__ = ("_automaton", "_state")

    def __init__(self, automaton: AhoCorasick, state: int) -> None:
        self._automaton = automaton
        self._state = state

    def following(self) -> int:
        return self._automaton.following(self._state)

    def step(self, byte: int) -> bool:
        after = self._automaton.walk(self._state, bytes((byte,)))
        if after >= self._automaton.first_match:
            return False
        self._state = after
        return True

    @property
    def is_accepting(self) -> bool:
        return True

    def fork(self) -> NotInWalker:
        return NotInWalker(self._automaton, self._state)
