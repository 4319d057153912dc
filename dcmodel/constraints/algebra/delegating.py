"""A base for matchers that add something to another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from dcmodel.constraint import Explanation, MaskRow, Matcher


class DelegatingMatcher(Matcher):
    """Hands everything on to `_inner`."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Matcher) -> None:
        self._inner = inner

    def fill_mask(self, row: MaskRow) -> None:
        self._inner.fill_mask(row)

    def advance(self, token_ids: Sequence[int]) -> int:
        return self._inner.advance(token_ids)

    def forced(self) -> list[int]:
        return self._inner.forced()

    @property
    def is_accepting(self) -> bool:
        return self._inner.is_accepting

    @property
    def is_finished(self) -> bool:
        return self._inner.is_finished

    def fork(self) -> Self:
        return type(self)(self._inner.fork())

    def rollback(self, count: int) -> None:
        self._inner.rollback(count)

    def explain(self, token_id: int) -> Explanation:
        return self._inner.explain(token_id)

    @property
    def is_exact(self) -> bool:
        return self._inner.is_exact

    @property
    def may_dead_end(self) -> bool:
        return self._inner.may_dead_end

    @property
    def was_narrowed(self) -> bool:
        return self._inner.was_narrowed

    @property
    def releasable(self) -> int | None:
        return self._inner.releasable

    @property
    def may_wait(self) -> bool:
        return self._inner.may_wait

    @property
    def lock_key(self) -> object | None:
        return self._inner.lock_key

    def ways_out(self) -> list[int]:
        return self._inner.ways_out()

    @property
    def sampling(self) -> Mapping[str, Any]:
        return self._inner.sampling
