"""The part of `LLM` that scores: given continuations, and prompts themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from dcmodel.adapted import through_adapter
from dcmodel.llm.loading import ModelHolder
from dcmodel.llm.prompts import Continuation, Continuations, Prompt, Prompts
from dcmodel.llm.results import Scored, ScoredToken
from dcmodel.llm.scores import score_all, score_prompts
from dcmodel.loop import run


class Scoring(ModelHolder):
    """`score` and `score_prompt`, and their asynchronous forms."""

    @overload
    def score(  # type: ignore[overload-overlap]
        self,
        prompts: Prompt,
        continuations: Sequence[Continuation],
        *,
        unconditional: Prompt | None = ...,
        top_logprobs: int = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> list[Scored]: ...
    @overload
    def score(
        self,
        prompts: Prompts,
        continuations: Continuations,
        *,
        unconditional: Prompt | None = ...,
        top_logprobs: int = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> list[list[Scored]]: ...
    def score(
        self,
        prompts: Prompt | Prompts,
        continuations: Continuations,
        *,
        unconditional: Prompt | None = None,
        top_logprobs: int = 0,
        adapter: str | None = None,
        progress: bool | None = None,
    ) -> list[Scored] | list[list[Scored]]:
        """How likely the model finds each continuation of a prompt, in the order given.

        A continuation is a text or a list of token ids, which are scored as they are. For a list of
        prompts, `continuations` is one list for all of them or one list for each. Whitespace at the end of a
        prompt counts to the continuation (see `prompts.scoring_request`).

        unconditional    a prompt without what the continuations depend on ("Answer:"): each result's `pmi`
                         compares with it; it is asked once for each text, whatever the number of prompts
        top_logprobs     so many of the likeliest tokens at each place
        adapter          the name of a mounted adapter (see `mount`); None: the model as it is
        """
        return run(
            score_all(
                through_adapter(self.model, adapter),
                prompts,
                continuations,
                unconditional,
                top_logprobs,
                progress,
            )
        )

    @overload
    async def ascore(  # type: ignore[overload-overlap]
        self,
        prompts: Prompt,
        continuations: Sequence[Continuation],
        *,
        unconditional: Prompt | None = ...,
        top_logprobs: int = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> list[Scored]: ...
    @overload
    async def ascore(
        self,
        prompts: Prompts,
        continuations: Continuations,
        *,
        unconditional: Prompt | None = ...,
        top_logprobs: int = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> list[list[Scored]]: ...
    async def ascore(
        self,
        prompts: Prompt | Prompts,
        continuations: Continuations,
        *,
        unconditional: Prompt | None = None,
        top_logprobs: int = 0,
        adapter: str | None = None,
        progress: bool | None = None,
    ) -> list[Scored] | list[list[Scored]]:
        """`score`, awaited."""
        model = through_adapter(await self._ready(), adapter)
        return await score_all(model, prompts, continuations, unconditional, top_logprobs, progress)

    @overload
    def score_prompt(  # type: ignore[overload-overlap]
        self,
        prompts: Prompt,
        *,
        top_logprobs: int = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> list[ScoredToken]: ...
    @overload
    def score_prompt(
        self,
        prompts: Prompts,
        *,
        top_logprobs: int = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> list[list[ScoredToken]]: ...
    def score_prompt(
        self,
        prompts: Prompt | Prompts,
        *,
        top_logprobs: int = 0,
        adapter: str | None = None,
        progress: bool | None = None,
    ) -> list[ScoredToken] | list[list[ScoredToken]]:
        """The tokens of a prompt (or of each of a list), with how likely the model finds each after the
        ones before it, and so many of the likeliest in its place. The first has nothing before it."""
        return run(score_prompts(through_adapter(self.model, adapter), prompts, top_logprobs, progress))

    @overload
    async def ascore_prompt(  # type: ignore[overload-overlap]
        self,
        prompts: Prompt,
        *,
        top_logprobs: int = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> list[ScoredToken]: ...
    @overload
    async def ascore_prompt(
        self,
        prompts: Prompts,
        *,
        top_logprobs: int = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> list[list[ScoredToken]]: ...
    async def ascore_prompt(
        self,
        prompts: Prompt | Prompts,
        *,
        top_logprobs: int = 0,
        adapter: str | None = None,
        progress: bool | None = None,
    ) -> list[ScoredToken] | list[list[ScoredToken]]:
        """`score_prompt`, awaited."""
        model = through_adapter(await self._ready(), adapter)
        return await score_prompts(model, prompts, top_logprobs, progress)
