"""Texts from a planner over an `ApiModel`."""

from __future__ import annotations

import asyncio
from collections import Counter

from dcmodel.constraints import ConstraintCache
from dcmodel.local.matching import MatcherMaker
from lmql_backends.openai.planner.planning import Planner
from lmql_backends.openai.planner.settings import PlannerSettings


class Planned:
    """A planner with what a model puts around it."""

    def __init__(self, api, **settings) -> None:
        self.api = api
        self.planner = Planner(api, api.tokenizer, PlannerSettings(**settings))
        self._matchers = MatcherMaker(api.tokenizer, ConstraintCache())

    def stream(self, request):
        prepared = self.planner.prepared(request)
        return self.planner.generate(prepared, self._matchers.matcher(prepared))

    async def complete(self, request):
        return await self.stream(request).completion()

    async def counts(self, request, draws, *, at_once=50):
        """How often each output came, and the completions."""
        counts: Counter[tuple[int, ...]] = Counter()
        completions = []
        for begin in range(0, draws, at_once):
            some = min(at_once, draws - begin)
            for item in await asyncio.gather(*(self.complete(request) for _ in range(some))):
                counts[item.token_ids] += 1
                completions.append(item)
        return counts, completions
