"""One prompt against one model: text in front, token ids behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dcmodel.errors import InvalidRequestError
from dcmodel.llm.options import fill_template
from dcmodel.llm.prompts import Prompt, check_texts, prompt_ids, scoring_request
from dcmodel.llm.results import ChoiceResult, Normalizer, Scored, distribution, scored
from dcmodel.model import DcModel, GenerateStream
from dcmodel.types import Completion, GenerateRequest


def start(model: DcModel, template: GenerateRequest, prompt: Prompt, index: int = 0) -> GenerateStream:
    """Start the request of prompt number `index`; call it inside a running event loop."""
    return model.generate(fill_template(template, prompt_ids(model.tokenizer, prompt), index))


async def complete(model: DcModel, template: GenerateRequest, prompt: Prompt, index: int) -> Completion:
    """Generate to the end; cancelled together with the task that awaits it."""
    stream = start(model, template, prompt, index)
    try:
        return await stream.completion()
    finally:
        stream.cancel()


async def score(model: DcModel, prompt: Prompt, continuations: Sequence[str]) -> list[Scored]:
    """Score texts after a prompt."""
    result = await model.score(scoring_request(model.tokenizer, prompt, continuations))
    return [scored(text, item) for text, item in zip(continuations, result.continuations, strict=True)]


async def choose(
    model: DcModel, prompt: Prompt, options: Sequence[str], normalizer: Normalizer
) -> ChoiceResult:
    """A distribution over options after a prompt."""
    check_texts(options)
    option, count = Counter(options).most_common(1)[0]
    if count > 1:
        raise InvalidRequestError(f"the option {option!r} was given {count} times.", remedy="Give it once.")
    result = await model.score(scoring_request(model.tokenizer, prompt, options))
    return distribution(options, result.continuations, normalizer)
