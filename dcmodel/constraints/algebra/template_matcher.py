"""Parts in order whose sampling differs: the joined rule, and a walker that knows the part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dcmodel.constraint import CompiledConstraint, Matcher, Walker
from dcmodel.constraints.algebra.delegating import DelegatingMatcher
from dcmodel.constraints.algebra.walkers import ThenWalker
from dctokenizers import Tokenizer


class SampledTemplate(CompiledConstraint):
    """A compiled rule made of parts, with what differs from the request's sampling in each of them."""

    def __init__(
        self,
        compiled: CompiledConstraint,
        tokenizer: Tokenizer,
        begin: Sequence[Callable[[], Walker]],
        sampling: Sequence[Mapping[str, Any]],
    ) -> None:
        self.compiled = compiled
        self.tokenizer = tokenizer
        self.begin = tuple(begin)
        self.sampling = tuple(sampling)

    def matcher(self) -> SampledTemplateMatcher:
        return SampledTemplateMatcher(self, self.compiled.matcher(), [ThenWalker(self.begin)])

    def walker(self) -> Walker:
        return self.compiled.walker()


class SampledTemplateMatcher(DelegatingMatcher):
    """One sequence; a walker is kept for each token, for `rollback`."""

    __slots__ = ("_compiled", "_walkers")

    def __init__(self, compiled: SampledTemplate, inner: Matcher, walkers: list[ThenWalker]) -> None:
        super().__init__(inner)
        self._compiled = compiled
        self._walkers = walkers

    @property
    def sampling(self) -> Mapping[str, Any]:
        return self._compiled.sampling[self._walkers[-1].part]

    def advance(self, token_ids: Sequence[int]) -> int:
        taken = self._inner.advance(token_ids)
        tokenizer = self._compiled.tokenizer
        for token_id in token_ids[:taken]:
            walker = self._walkers[-1].fork()
            if token_id not in tokenizer.special_token_ids and token_id not in tokenizer.eos_token_ids:
                walker.walk(tokenizer.token_bytes(token_id))
            self._walkers.append(walker)
        return taken

    def rollback(self, count: int) -> None:
        self._inner.rollback(count)
        if count:
            del self._walkers[-count:]

    def fork(self) -> SampledTemplateMatcher:
        return SampledTemplateMatcher(self._compiled, self._inner.fork(), self._walkers.copy())
