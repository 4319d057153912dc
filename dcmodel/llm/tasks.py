"""Prompts against a loaded model: text in front, token ids behind. The one core of both faces of `LLM`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

from dcmodel.errors import InvalidRequestError
from dcmodel.llm.batches import raise_first, run_batch
from dcmodel.llm.options import RequestTemplate
from dcmodel.llm.prompts import (
    Continuations,
    Prompt,
    Prompts,
    check_texts,
    continuations_per_prompt,
    scoring_request,
    split_prompts,
)
from dcmodel.llm.results import ChoiceResult, Normalizer, Scored, distribution, scored
from dcmodel.model import DcModel, GenerateStream
from dcmodel.types import Completion


def start(model: DcModel, template: RequestTemplate, prompt: Prompt, index: int = 0) -> GenerateStream:
    """Start the request of prompt number `index`; call it inside a running event loop."""
    return model.generate(template.fill(model.tokenizer, prompt, index, can_heal=model.can_heal))


async def generate_all(
    model: DcModel,
    template: RequestTemplate,
    prompts: Prompt | Prompts,
    progress: bool | None,
    return_exceptions: bool,
) -> Completion | list[Completion] | list[Completion | Exception]:
    """One prompt or a batch, to the end."""
    items, is_batch = split_prompts(prompts)
    jobs = [partial(_complete, model, template, prompt, index) for index, prompt in enumerate(items)]
    if not is_batch:
        return await jobs[0]()
    results = await run_batch(jobs, progress=progress)
    return results if return_exceptions else raise_first(results)


async def score_all(
    model: DcModel, prompts: Prompt | Prompts, continuations: Continuations, progress: bool | None
) -> list[Scored] | list[list[Scored]]:
    """Score texts after one prompt, or after each of a batch."""
    items, is_batch = split_prompts(prompts)
    lists = continuations_per_prompt(continuations, len(items), is_batch)
    jobs = [partial(_score, model, prompt, own) for prompt, own in zip(items, lists, strict=True)]
    return raise_first(await run_batch(jobs, progress=progress)) if is_batch else await jobs[0]()


async def choose_all(
    model: DcModel,
    prompts: Prompt | Prompts,
    options: Continuations,
    normalizer: Normalizer,
    progress: bool | None,
) -> ChoiceResult | list[ChoiceResult]:
    """A distribution over options after one prompt, or after each of a batch."""
    items, is_batch = split_prompts(prompts)
    lists = continuations_per_prompt(options, len(items), is_batch)
    jobs = [
        partial(_choose, model, prompt, own, normalizer) for prompt, own in zip(items, lists, strict=True)
    ]
    return raise_first(await run_batch(jobs, progress=progress)) if is_batch else await jobs[0]()


async def _complete(model: DcModel, template: RequestTemplate, prompt: Prompt, index: int) -> Completion:
    stream = start(model, template, prompt, index)
    try:
        return await stream.completion()
    finally:
        stream.cancel()  # if whoever awaited this was cancelled; nothing happens to a finished request


async def _score(model: DcModel, prompt: Prompt, continuations: Sequence[str]) -> list[Scored]:
    result = await model.score(scoring_request(model.tokenizer, prompt, continuations))
    return [scored(text, item) for text, item in zip(continuations, result.continuations, strict=True)]


async def _choose(
    model: DcModel, prompt: Prompt, options: Sequence[str], normalizer: Normalizer
) -> ChoiceResult:
    check_texts(options)
    option, count = Counter(options).most_common(1)[0]
    if count > 1:
        raise InvalidRequestError(f"the option {option!r} was given {count} times.", remedy="Give it once.")
    result = await model.score(scoring_request(model.tokenizer, prompt, options))
    return distribution(options, result.continuations, normalizer)
