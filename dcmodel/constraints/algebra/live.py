"""An intersection that never runs into a dead end: masks are joined, and a witness is kept.

The mask is the intersection of the parts' masks. That is sound, but it may allow a token after which the
parts have no text in common. So each state keeps a *witness*: a text that completes all parts from here.
A token that goes along with the witness is safe. For any other, `advance` looks for a new witness, and
refuses the token where there is none (or none is found within a budget: then the old witness is still a
way out). Whatever has been accepted can therefore always be completed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dcmodel.constraint import CompiledConstraint, Explanation, MaskRow, Matcher, Walker
from dcmodel.constraints.algebra.search import Search, find_completion, move_over
from dcmodel.constraints.algebra.walker_matcher import WalkerCompiled
from dcmodel.constraints.algebra.walkers import AndWalker
from dcmodel.constraints.explain import explain_from_mask, join_bytes, show
from dcmodel.constraints.plain import PlainMatcher, no_end_token, row_of
from dcmodel.errors import CapabilityError, DeadEndError, InvalidConstraintError, UnsatisfiableConstraintError
from dctokenizers import Tokenizer, TokenizerError

FIRST_STEPS = 40_000
"""Moves of walkers that the first witness may cost (a second or less), and each later one."""
NEXT_STEPS = 2_000
OLD_WITNESS_STARTS = 12
WITNESS_SHOWN = 24


@dataclass(frozen=True, slots=True)
class _State:
    """Where the text stands. Walkers are never moved in place, so states are shared freely."""

    walkers: tuple[Walker, ...]
    pending: bytes
    """Text that the walkers have not been moved over yet; it went along with the witness."""
    witness: bytes


class LiveCompiled(CompiledConstraint):
    """Several compiled rules of which all must hold, for one vocabulary.

    `parts` that are `WalkerCompiled` only check; at least one is another, and gives masks. Raises
    `UnsatisfiableConstraintError` where no text satisfies all, `InvalidConstraintError` where none was
    found in reasonable time. `hints` are texts that a match may well have to hold.
    """

    def __init__(
        self,
        parts: Sequence[CompiledConstraint],
        tokenizer: Tokenizer,
        *,
        labels: Sequence[str] = (),
        hints: Sequence[bytes] = (),
        first_steps: int = FIRST_STEPS,
    ) -> None:
        self.tokenizer = tokenizer
        self.parts = tuple(parts)
        self.hints = tuple(hints)
        self.labels = tuple(labels) or tuple(type(part).__name__ for part in parts)
        self.masking = tuple(part for part in parts if not isinstance(part, WalkerCompiled))
        self.end_row = row_of(tokenizer.eos_token_ids, tokenizer.vocab_size)
        walkers: list[Walker] = []
        self.is_open = False
        for part in parts:
            try:
                walkers.append(part.walker())
            except CapabilityError:
                # A count of tokens can be looked ahead, a caller's own choice of tokens cannot.
                self.is_open |= not hasattr(part.matcher(), "remaining")
        self.first = _State(tuple(walkers), b"", b"")
        is_wanted = self.matcher().is_wanted
        found = find_completion(walkers, steps=first_steps, hints=self.hints, is_wanted=is_wanted)
        if found.completion is None:
            raise self._clash(found, walkers)
        self.first = replace(self.first, witness=found.completion)

    def matcher(self) -> LiveMatcher:
        return LiveMatcher(self, [part.matcher() for part in self.masking], [self.first])

    def walker(self) -> Walker:
        return AndWalker([part.walker() for part in self.parts])

    def _clash(self, found: Search, walkers: list[Walker]) -> InvalidConstraintError:
        names = " and ".join(self.labels)
        place = f"after {show(found.deepest)} " if found.deepest else ""
        if found.is_exhaustive:
            return UnsatisfiableConstraintError(
                f"no text satisfies {names} together: {place}they have nothing in common.",
                remedy="Drop or widen one of them.",
            )
        return InvalidConstraintError(
            f"no text was found that satisfies {names} together ({found.steps} steps, "
            f"the longest beginning was {show(found.deepest, tail=True)}).",
            remedy="Say the same in one regex or grammar, or widen one of them.",
        )


class LiveMatcher(PlainMatcher):
    """One sequence under a `LiveCompiled`."""

    __slots__ = ("_compiled", "_finished", "_is_narrowed", "_matchers", "_scratch", "_states")

    def __init__(self, compiled: LiveCompiled, matchers: list[Matcher], states: list[_State]) -> None:
        super().__init__(compiled.tokenizer)
        self._compiled = compiled
        self._matchers = matchers
        self._states = states
        self._scratch: MaskRow | None = None
        self._finished: bool | None = None
        self._is_narrowed = False

    def _fill(self, row: MaskRow) -> None:
        if self._scratch is None:
            self._scratch = np.empty(self._words, dtype=np.int32)
        first, *others = self._matchers
        first.fill_mask(row)
        for matcher in others:
            matcher.fill_mask(self._scratch)
            row &= self._scratch
        if not self.is_accepting:
            row &= ~self._compiled.end_row
        self._allow_witness(row)
        if not row.any():
            if self.is_accepting and not self._compiled.tokenizer.eos_token_ids:
                raise no_end_token()
            raise self._dead_end()

    def forced(self) -> list[int]:
        if self._ends:
            return []
        runs = (matcher.forced() for matcher in self._matchers)
        longest = max(runs, key=len, default=[])
        if not longest:
            return []
        twin = self.fork()
        return longest[: twin.advance(longest)]

    @property
    def is_accepting(self) -> bool:
        if self._ends:
            return True
        if not all(matcher.is_accepting for matcher in self._matchers):
            return False
        return all(walker.is_accepting for walker in self._in_step().walkers)

    @property
    def is_finished(self) -> bool:
        if self._ends or not self.is_accepting:
            return self._ends > 0
        if self._finished is None:
            self._finished = any(matcher.is_finished for matcher in self._matchers) or (
                not self._compiled.is_open and not self._may_go_on()
            )
        return self._finished

    @property
    def is_exact(self) -> bool:
        return False

    @property
    def may_dead_end(self) -> bool:
        return self._compiled.is_open or any(matcher.may_dead_end for matcher in self._matchers)

    @property
    def lock_key(self) -> object | None:
        return next((matcher.lock_key for matcher in self._matchers if matcher.lock_key), None)

    @property
    def was_narrowed(self) -> bool:
        return self._is_narrowed or any(matcher.was_narrowed for matcher in self._matchers)

    @property
    def releasable(self) -> int | None:
        ends = [end for matcher in self._matchers if (end := matcher.releasable) is not None]
        return min(ends, default=None)

    @property
    def may_wait(self) -> bool:
        return any(matcher.may_wait for matcher in self._matchers)

    @property
    def sampling(self) -> Mapping[str, Any]:
        return next((matcher.sampling for matcher in self._matchers if matcher.sampling), {})

    def fork(self) -> LiveMatcher:
        twin = LiveMatcher(
            self._compiled, [matcher.fork() for matcher in self._matchers], self._states.copy()
        )
        twin._token_ids, twin._ends, twin._finished = self._token_ids.copy(), self._ends, self._finished
        twin._is_narrowed = self._is_narrowed
        return twin

    def _popped(self, count: int) -> None:
        for matcher in self._matchers:
            matcher.rollback(count)
        del self._states[-count:]
        self._finished = None

    def explain(self, token_id: int) -> Explanation:
        text = join_bytes(self._compiled.tokenizer, self._token_ids)
        walker = self._compiled.walker
        explanation = explain_from_mask(self, self._compiled.tokenizer, token_id, text, walker=walker)
        if not explanation.allowed or self.fork().advance([token_id]):
            return explanation
        rest = show(self._states[-1].witness)
        return replace(
            explanation,
            allowed=False,
            reason=f"after it no complete text would be left; one that there is now goes on with {rest}.",
        )

    def is_wanted(self, witness: bytes) -> bool:
        """Whether the rules about tokens leave room for a completion."""
        counting = [matcher for matcher in self._matchers if hasattr(matcher, "remaining")]
        if not counting:
            return True
        return any(
            all(_takes(matcher, token_ids) for matcher in counting)
            for token_ids in _tokenizations(self._compiled.tokenizer, witness)
        )

    def _allow_witness(self, row: MaskRow) -> None:
        """Allow the first token of the witness.

        A part that forces its text allows the usual tokens only, and the usual tokens of two parts may
        differ; `advance` accepts any.
        """
        for token_id in self.ways_out():
            row.view(np.uint32)[token_id // 32] |= np.uint32(1 << (token_id % 32))

    def ways_out(self) -> list[int]:
        witness = self._states[-1].witness
        if self._compiled.is_open or self._ends:
            return []
        if not witness:
            return list(self._compiled.tokenizer.eos_token_ids)
        tokenizer = self._compiled.tokenizer
        text = witness[:WITNESS_SHOWN]
        while len(text) < len(witness) and text[-1:] > b"\x7f" and len(text) > WITNESS_SHOWN - 4:
            text = text[:-1]  # not in the middle of a character
        try:
            return tokenizer.encode_bytes(text)[:1]
        except TokenizerError:
            return []

    # -- the witness -------------------------------------------------------------------------------

    def _allows(self, token_id: int) -> bool:
        """Moves the parts, if all take the token and a witness is found."""
        tokenizer = self._compiled.tokenizer
        if token_id in tokenizer.special_token_ids and not self._compiled.is_open:
            return False
        for place, matcher in enumerate(self._matchers):
            if not matcher.advance([token_id]):
                for before in self._matchers[:place]:
                    before.rollback(1)
                return False
        state = self._after(tokenizer.token_bytes(token_id))
        if state is None:
            for matcher in self._matchers:
                matcher.rollback(1)
            return False
        self._states.append(state)
        self._finished = None
        return True

    def _after(self, text: bytes) -> _State | None:
        """The state after `text`, the parts' matchers having accepted it; None where no witness is left."""
        state = self._states[-1]
        witness = state.witness
        if witness.startswith(text) and self.is_wanted(witness[len(text) :]):
            return _State(state.walkers, state.pending + text, witness[len(text) :])
        walkers = move_over(self._in_step().walkers, text)
        if walkers is None:
            return None
        found = self._old_witness(walkers, witness)
        if found is None:
            hints = self._compiled.hints
            search = find_completion(walkers, steps=NEXT_STEPS, hints=hints, is_wanted=self.is_wanted)
            found = search.completion
            self._is_narrowed |= found is None and not search.is_exhaustive
        return None if found is None else _State(walkers, b"", found)

    def _old_witness(self, walkers: tuple[Walker, ...], witness: bytes) -> bytes | None:
        """The old witness, or what it ends with, often completes the new text as well."""
        for start in range(min(len(witness), OLD_WITNESS_STARTS)):
            rest = witness[start:]
            moved = move_over(walkers, rest)
            if moved is not None and all(walker.is_accepting for walker in moved) and self.is_wanted(rest):
                return rest
        return None

    def _in_step(self) -> _State:
        """The state with its walkers moved over all of the text."""
        state = self._states[-1]
        if state.pending:
            walkers = move_over(state.walkers, state.pending)
            assert walkers is not None, "the text went along with a witness"
            state = self._states[-1] = _State(walkers, b"", state.witness)
        return state

    def _may_go_on(self) -> bool:
        """Whether a longer text satisfies all parts, as far as that is found out."""
        found = find_completion(
            self._in_step().walkers, steps=NEXT_STEPS, is_wanted=self.is_wanted, at_least=1
        )
        return not found.is_exhaustive

    def _dead_end(self) -> DeadEndError:
        text = show(join_bytes(self._compiled.tokenizer, self._token_ids), tail=True)
        names = " and ".join(self._compiled.labels)
        return DeadEndError(f"{names} have no token in common after {text}.")


def _takes(matcher: Matcher, token_ids: list[int]) -> bool:
    twin = matcher.fork()
    return twin.advance(token_ids) == len(token_ids) and twin.is_accepting


def _tokenizations(tokenizer: Tokenizer, text: bytes) -> list[list[int]]:
    """The usual tokens of a text, and the most there can be."""
    try:
        usual = tokenizer.encode_bytes(text)
        single = [token for byte in text for token in tokenizer.encode_bytes(bytes([byte]))]
    except TokenizerError:
        return []
    return [usual, single]
