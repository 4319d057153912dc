"""A union: every part that is still possible runs beside the others, and masks are joined. Exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dcmodel.constraint import CompiledConstraint, MaskRow, Matcher, Walker
from dcmodel.constraints.algebra.walkers import OrWalker
from dcmodel.constraints.plain import PlainMatcher
from dcmodel.errors import DeadEndError
from dctokenizers import Tokenizer


class UnionCompiled(CompiledConstraint):
    """Several compiled rules of which one must hold."""

    def __init__(self, parts: Sequence[CompiledConstraint], tokenizer: Tokenizer) -> None:
        self.parts = tuple(parts)
        self.tokenizer = tokenizer

    def matcher(self) -> UnionMatcher:
        return UnionMatcher(self, [part.matcher() for part in self.parts])

    def walker(self) -> Walker:
        return OrWalker([part.walker() for part in self.parts])


class UnionMatcher(PlainMatcher):
    """One sequence under a `UnionCompiled`.

    A part is alive while it has taken all tokens; a part that was left behind keeps its place, so that
    `rollback` can bring it back.
    """

    __slots__ = ("_compiled", "_parts", "_scratch", "_taken")

    def __init__(self, compiled: UnionCompiled, parts: list[Matcher]) -> None:
        super().__init__(compiled.tokenizer)
        self._compiled = compiled
        self._parts = parts
        self._taken = [0] * len(parts)
        self._scratch: MaskRow | None = None

    def _alive(self) -> list[Matcher]:
        count = len(self._token_ids)
        return [part for part, taken in zip(self._parts, self._taken, strict=True) if taken == count]

    def _fill(self, row: MaskRow) -> None:
        if self._scratch is None:
            self._scratch = np.empty(self._words, dtype=np.int32)
        error: DeadEndError | None = None
        row[:] = 0
        for part in self._alive():
            try:
                part.fill_mask(self._scratch)
            except DeadEndError as dead_end:
                error = dead_end
            else:
                row |= self._scratch
        if error is not None and not row.any():
            raise error

    def _allows(self, token_id: int) -> bool:
        """Moves the parts that take the token."""
        count = len(self._token_ids)
        moved = False
        for place, part in enumerate(self._parts):
            if self._taken[place] == count and part.advance([token_id]):
                self._taken[place] += 1
                moved = True
        return moved

    def _walker_maker(self) -> Callable[[], Walker]:
        return self._compiled.walker

    def _popped(self, count: int) -> None:
        left = len(self._token_ids)
        for place, part in enumerate(self._parts):
            if self._taken[place] > left:
                part.rollback(self._taken[place] - left)
                self._taken[place] = left

    def forced(self) -> list[int]:
        alive = self._alive()
        if self._ends or any(part.is_accepting for part in alive):
            return []
        common = alive[0].forced()
        for part in alive[1:]:
            if not common:
                break
            other = part.forced()
            same = [one == two for one, two in zip(common, other, strict=False)]
            common = common[: same.index(False) if False in same else len(same)]
        return common

    @property
    def is_accepting(self) -> bool:
        return self._ends > 0 or any(part.is_accepting for part in self._alive())

    @property
    def is_finished(self) -> bool:
        return self._ends > 0 or all(part.is_finished for part in self._alive())

    @property
    def is_exact(self) -> bool:
        return all(part.is_exact for part in self._alive())

    @property
    def may_dead_end(self) -> bool:
        # A part that cannot may be left behind.
        return any(part.may_dead_end for part in self._parts)

    def ways_out(self) -> list[int]:
        return sorted({token_id for part in self._alive() for token_id in part.ways_out()})

    @property
    def was_narrowed(self) -> bool:
        return any(part.was_narrowed for part in self._parts)

    @property
    def releasable(self) -> int | None:
        ends = [end for part in self._alive() if (end := part.releasable) is not None]
        return min(ends, default=None)

    @property
    def may_wait(self) -> bool:
        return any(part.may_wait for part in self._alive())

    @property
    def sampling(self) -> Mapping[str, Any]:
        return self._alive()[0].sampling

    def fork(self) -> UnionMatcher:
        twin = UnionMatcher(self._compiled, [part.fork() for part in self._parts])
        twin._taken, twin._token_ids, twin._ends = self._taken.copy(), self._token_ids.copy(), self._ends
        return twin
