"""The part of `LLM` that chooses among given texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from dcmodel.adapted import through_adapter
from dcmodel.llm.choices import ChoiceRule, EndOfText, choose_all
from dcmodel.llm.loading import ModelHolder
from dcmodel.llm.prompts import Continuations, Prompt, Prompts
from dcmodel.llm.results import ChoiceResult, Normalizer
from dcmodel.loop import run


class Choosing(ModelHolder):
    """`choose` and `distribution`, and their asynchronous forms."""

    @overload
    def choose(  # type: ignore[overload-overlap]
        self,
        prompts: Prompt,
        options: Sequence[str],
        *,
        normalizer: Normalizer = ...,
        unconditional: Prompt | None = ...,
        end_of_text: EndOfText = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> ChoiceResult: ...
    @overload
    def choose(
        self,
        prompts: Prompts,
        options: Continuations,
        *,
        normalizer: Normalizer = ...,
        unconditional: Prompt | None = ...,
        end_of_text: EndOfText = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> list[ChoiceResult]: ...
    def choose(
        self,
        prompts: Prompt | Prompts,
        options: Continuations,
        *,
        normalizer: Normalizer = "sum",
        unconditional: Prompt | None = None,
        end_of_text: EndOfText = "auto",
        adapter: str | None = None,
        progress: bool | None = None,
    ) -> ChoiceResult | list[ChoiceResult]:
        """The likeliest of some texts after a prompt, with a probability for each.

        Probabilities are a softmax over the options' weights. Lists of prompts and options as in `score`.

        normalizer       what is an option's weight: "sum" of its tokens' log-probabilities (the model's own
                         odds between the texts), their "mean", the sum per "byte" (these two do not favour
                         short options), or "pmi", the sum less that after the `unconditional` prompt (which
                         does not favour texts that are common anyway); see `results.Normalizer`
        end_of_text      whether the weight has the probability that the text ends after the option, over
                         all of the model's end-of-sequence tokens. Where the tokens of one option are the
                         beginning of another's, the shorter one's sum holds the longer one's mass too, so
                         that it would be counted twice. "auto" therefore scores the end after every option
                         just in that case (for "sum" and "pmi": means are no probabilities of texts);
                         `ChoiceResult.ended` says whether it did.
        adapter          the name of a mounted adapter (see `mount`); None: the model as it is

        With "sum" and "auto", `probabilities` are the model's own, given that the continuation is one of
        these texts: followed by the end where they are `ended`, and by anything else.
        """
        rule = ChoiceRule(normalizer=normalizer, unconditional=unconditional, end_of_text=end_of_text)
        return run(choose_all(through_adapter(self.model, adapter), prompts, options, rule, progress))

    @overload
    async def achoose(  # type: ignore[overload-overlap]
        self,
        prompts: Prompt,
        options: Sequence[str],
        *,
        normalizer: Normalizer = ...,
        unconditional: Prompt | None = ...,
        end_of_text: EndOfText = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> ChoiceResult: ...
    @overload
    async def achoose(
        self,
        prompts: Prompts,
        options: Continuations,
        *,
        normalizer: Normalizer = ...,
        unconditional: Prompt | None = ...,
        end_of_text: EndOfText = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> list[ChoiceResult]: ...
    async def achoose(
        self,
        prompts: Prompt | Prompts,
        options: Continuations,
        *,
        normalizer: Normalizer = "sum",
        unconditional: Prompt | None = None,
        end_of_text: EndOfText = "auto",
        adapter: str | None = None,
        progress: bool | None = None,
    ) -> ChoiceResult | list[ChoiceResult]:
        """`choose`, awaited."""
        rule = ChoiceRule(normalizer=normalizer, unconditional=unconditional, end_of_text=end_of_text)
        return await choose_all(
            through_adapter(await self._ready(), adapter), prompts, options, rule, progress
        )

    @overload
    def distribution(  # type: ignore[overload-overlap]
        self,
        prompts: Prompt,
        options: Sequence[str],
        *,
        normalizer: Normalizer = ...,
        unconditional: Prompt | None = ...,
        end_of_text: EndOfText = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> dict[str, float]: ...
    @overload
    def distribution(
        self,
        prompts: Prompts,
        options: Continuations,
        *,
        normalizer: Normalizer = ...,
        unconditional: Prompt | None = ...,
        end_of_text: EndOfText = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> list[dict[str, float]]: ...
    def distribution(
        self,
        prompts: Prompt | Prompts,
        options: Continuations,
        *,
        normalizer: Normalizer = "sum",
        unconditional: Prompt | None = None,
        end_of_text: EndOfText = "auto",
        adapter: str | None = None,
        progress: bool | None = None,
    ) -> dict[str, float] | list[dict[str, float]]:
        """The probabilities of `choose`, option to probability; a list of them for a list of prompts."""
        rule = ChoiceRule(normalizer=normalizer, unconditional=unconditional, end_of_text=end_of_text)
        return _probabilities(
            run(choose_all(through_adapter(self.model, adapter), prompts, options, rule, progress))
        )

    @overload
    async def adistribution(  # type: ignore[overload-overlap]
        self,
        prompts: Prompt,
        options: Sequence[str],
        *,
        normalizer: Normalizer = ...,
        unconditional: Prompt | None = ...,
        end_of_text: EndOfText = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> dict[str, float]: ...
    @overload
    async def adistribution(
        self,
        prompts: Prompts,
        options: Continuations,
        *,
        normalizer: Normalizer = ...,
        unconditional: Prompt | None = ...,
        end_of_text: EndOfText = ...,
        adapter: str | None = ...,
        progress: bool | None = ...,
    ) -> list[dict[str, float]]: ...
    async def adistribution(
        self,
        prompts: Prompt | Prompts,
        options: Continuations,
        *,
        normalizer: Normalizer = "sum",
        unconditional: Prompt | None = None,
        end_of_text: EndOfText = "auto",
        adapter: str | None = None,
        progress: bool | None = None,
    ) -> dict[str, float] | list[dict[str, float]]:
        """`distribution`, awaited."""
        rule = ChoiceRule(normalizer=normalizer, unconditional=unconditional, end_of_text=end_of_text)
        return _probabilities(
            await choose_all(through_adapter(await self._ready(), adapter), prompts, options, rule, progress)
        )


def _probabilities(result: ChoiceResult | list[ChoiceResult]) -> dict[str, float] | list[dict[str, float]]:
    if isinstance(result, ChoiceResult):
        return result.probabilities
    return [item.probabilities for item in result]
