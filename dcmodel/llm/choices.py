"""Distributions over options against a loaded model: the core of `LLM.choose` and `distribution`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from dcmodel.errors import CapabilityError, InvalidRequestError, NonFiniteLogitsError
from dcmodel.llm.batches import run_all
from dcmodel.llm.endings import has_prefixes
from dcmodel.llm.prompts import (
    Continuation,
    Continuations,
    Prompt,
    Prompts,
    check_texts,
    continuations_per_prompt,
    prompt_ids,
    scoring_request,
    split_prompts,
)
from dcmodel.llm.results import ChoiceResult, Normalizer, Scored, check_normalizer
from dcmodel.llm.scores import scored
from dcmodel.llm.unconditional import UnconditionalScores, unconditional_scores
from dcmodel.model import DcModel, Judgement
from dcmodel.types import ScoreRequest

EndOfText = bool | Literal["auto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceRule:
    """How `choose` weighs its options; checked."""

    normalizer: Normalizer
    unconditional: Prompt | None
    end_of_text: EndOfText

    def __post_init__(self) -> None:
        check_normalizer(self.normalizer, has_unconditional=self.unconditional is not None)
        if not isinstance(self.end_of_text, bool) and self.end_of_text != "auto":
            raise InvalidRequestError(
                f"end_of_text is {self.end_of_text!r:.40}.", remedy='Give True, False or "auto".'
            )


async def choose_all(
    model: DcModel,
    prompts: Prompt | Prompts,
    options: Continuations,
    rule: ChoiceRule,
    progress: bool | None,
) -> ChoiceResult | list[ChoiceResult]:
    """A distribution over options after one prompt, or after each of a batch."""
    items, is_batch = split_prompts(prompts)
    lists = continuations_per_prompt(options, len(items), is_batch)
    async with unconditional_scores(model, rule.unconditional) as baseline:
        jobs = [
            partial(_choose, model, prompt, own, rule, baseline)
            for prompt, own in zip(items, lists, strict=True)
        ]
        return await run_all(jobs, is_batch=is_batch, progress=progress)


async def _choose(
    model: DcModel,
    prompt: Prompt,
    options: Sequence[Continuation],
    rule: ChoiceRule,
    baseline: UnconditionalScores | None,
) -> ChoiceResult:
    texts = _checked_options(options)
    request = scoring_request(model.tokenizer, prompt, texts)
    if rule.normalizer == "sum" and rule.unconditional is None and rule.end_of_text is not True:
        judgement = await model.judge(prompt_ids(model.tokenizer, prompt), texts)
        if judgement is not None:
            return _judged(request, texts, judgement)
    eos_token_ids = _endings(model, request, rule)
    results = await scored(model, request, texts, baseline, eos_token_ids)
    return _distribution(results, rule.normalizer, is_ended=bool(eos_token_ids))


def _judged(request: ScoreRequest, texts: Sequence[str], judgement: Judgement) -> ChoiceResult:
    """Probabilities that come from no tokens."""
    results = tuple(
        Scored(
            text=text,
            logprob=math.nan,
            probability=probability,
            token_ids=ids,
            logprobs=(math.nan,) * len(ids),
            ranks=(),
            is_greedy=False,
        )
        for text, ids, probability in zip(texts, request.continuations, judgement.probabilities, strict=True)
    )
    return ChoiceResult(results=results, normalizer="sum", certificate=judgement.certificate)


def _checked_options(options: Sequence[Continuation]) -> list[str]:
    texts = [item for item in options if isinstance(item, str)]
    if len(texts) < len(options):
        raise InvalidRequestError(
            "options are texts, and one of these is not.", remedy="Use score for token ids."
        )
    check_texts(texts)
    option, count = Counter(texts).most_common(1)[0]
    if count > 1:
        raise InvalidRequestError(f"the option {option!r} was given {count} times.", remedy="Give it once.")
    return texts


def _endings(model: DcModel, request: ScoreRequest, rule: ChoiceRule) -> tuple[int, ...]:
    """The tokens that may end an option, where its end counts; else none.

    Means over tokens or bytes are no probabilities of texts: there is nothing to count twice.
    """
    is_ended = rule.end_of_text
    if is_ended == "auto":
        is_ended = rule.normalizer in ("sum", "pmi") and has_prefixes(request.continuations)
    if not is_ended:
        return ()
    if not model.tokenizer.eos_token_ids:
        raise CapabilityError(
            f"the tokenizer of {model.info.name!r} has no end-of-sequence token: the end of an option cannot "
            "be scored" + ("." if rule.end_of_text is True else ", and one option is another's beginning."),
            remedy="Give end_of_text=False.",
        )
    return model.tokenizer.eos_token_ids


def _distribution(results: Sequence[Scored], normalizer: Normalizer, *, is_ended: bool) -> ChoiceResult:
    """A softmax over the options' weights."""
    weights = [_weight(item, normalizer) for item in results]
    top = max(weights)
    if top == -math.inf:
        raise NonFiniteLogitsError("the model gives every option the probability 0.")
    if math.isinf(top):
        raise NonFiniteLogitsError(
            "the model gives an option the probability 0 after the unconditional prompt."
        )
    shares = [math.exp(weight - top) for weight in weights]
    total = math.fsum(shares)
    return ChoiceResult(
        results=tuple(
            replace(item, probability=share / total) for item, share in zip(results, shares, strict=True)
        ),
        normalizer=normalizer,
        ended=is_ended,
    )


def _weight(item: Scored, normalizer: Normalizer) -> float:
    total = item.logprob + (item.end_logprob or 0.0)
    match normalizer:
        case "sum":
            return total
        case "mean":
            return total / (len(item.token_ids) + (item.end_logprob is not None))
        case "byte":
            return total / len(item.text.encode())
        case "pmi":
            assert item.pmi is not None
            return item.pmi
