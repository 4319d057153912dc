"""What a body of /v1/completions asks for: prompts as texts or token ids, draws of each, scores."""

from __future__ import annotations

from collections.abc import Sequence

from dcmodel.constraint import Constraint
from dcmodel.errors import InvalidRequestError
from dcmodel.llm.prompts import prompt_ids as encoded_prompt
from dcmodel.llm.prompts import text_ids
from dcmodel.types import GenerateRequest
from dctokenizers import Tokenizer
from lmql_backends.lmtp.server.contracts import ServedModel
from lmql_backends.lmtp.server.openai.constraints import constraint_of
from lmql_backends.lmtp.server.openai.errors import FieldError
from lmql_backends.lmtp.server.openai.fields import CompletionBody
from lmql_backends.lmtp.server.openai.jobs import (
    Job,
    PromptJob,
    check_common,
    check_room,
    make_draws,
    room_left,
    score_request,
)

DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""


def make_job(body: CompletionBody, served: ServedModel) -> Job:
    """Everything that one body asks for. Raises `InvalidRequestError`, mostly as a `FieldError`."""
    prompts = _prompts(body)
    _check(body, len(prompts))
    constraint, field = constraint_of(body, served.model.tokenizer.vocab_size)
    jobs = [_prompt_job(body, served, constraint, index, item) for index, item in enumerate(prompts)]
    return Job(prompts=tuple(jobs), constraint_field=field)


def _prompt_job(
    body: CompletionBody,
    served: ServedModel,
    constraint: Constraint | None,
    index: int,
    prompt: str | Sequence[int],
) -> PromptJob:
    tokenizer = served.model.tokenizer
    try:
        ids = _encoded(tokenizer, prompt, add_special=body.add_special_tokens is not False)
    except FieldError:
        raise
    except InvalidRequestError as error:
        raise FieldError.about("prompt", error) from error
    max_tokens = body.max_tokens
    check_room(served, ids, max_tokens or 0)
    draws: tuple[GenerateRequest, ...] = ()
    if max_tokens != 0:
        draws = make_draws(
            body,
            served.model,
            ids,
            constraint=constraint,
            index=index,
            draws=body.best_of or body.n or 1,
            max_tokens=min(DEFAULT_MAX_TOKENS, room_left(served, ids)) if max_tokens is None else max_tokens,
            # The best of several is chosen by them.
            logprobs=body.logprobs is not None or (body.best_of or 1) > (body.n or 1),
            top_logprobs=body.logprobs or 0,
            heals=bool(body.heal) and isinstance(prompt, str),
        )
    return PromptJob(
        prompt_ids=ids,
        text=_shown(tokenizer, prompt) if body.echo else "",
        draws=draws,
        score=score_request(ids, _tops_of_prompt(body)),
    )


def _prompts(body: CompletionBody) -> list[str | list[int]]:
    """The prompts one by one, whichever of its four forms the field has."""
    given = body.prompt
    if given is None:
        raise FieldError("prompt", "the field 'prompt' is missing.", code="missing_required_parameter")
    if isinstance(given, str):
        return [given]
    numbers = [item for item in given if isinstance(item, int)]
    if numbers and len(numbers) == len(given):
        return [numbers]
    prompts = [item for item in given if not isinstance(item, int)]
    kinds = {isinstance(item, str) for item in prompts}
    if not prompts or numbers or len(kinds) > 1 or [] in prompts:
        what = "empty" if not given or [] in prompts else "a mixture of texts and token ids"
        raise FieldError(
            "prompt", f"the prompt is {what}.", remedy="Send a text, texts, token ids, or lists of token ids."
        )
    return prompts


def _encoded(tokenizer: Tokenizer, prompt: str | Sequence[int], *, add_special: bool) -> tuple[int, ...]:
    if prompt == "":
        # As OpenAI's: the beginning of a text.
        if tokenizer.adds_bos:
            return tuple(tokenizer.encode_prompt(""))
        if tokenizer.bos_token_id is not None:
            return (tokenizer.bos_token_id,)
        raise FieldError(
            "prompt",
            "the prompt is empty, and the model has no token for the beginning of a text.",
            remedy="Send at least one character.",
        )
    if isinstance(prompt, str) and not add_special:
        return text_ids(tokenizer, prompt)
    return encoded_prompt(tokenizer, prompt)


def _shown(tokenizer: Tokenizer, prompt: str | Sequence[int]) -> str:
    return prompt if isinstance(prompt, str) else tokenizer.decode(prompt)


def _tops_of_prompt(body: CompletionBody) -> int | None:
    """How many likeliest tokens are wanted at each place of the prompt; None: nothing about it."""
    wanted = [body.prompt_logprobs, body.logprobs if body.echo else None]
    return max((item for item in wanted if item is not None), default=None)


def _check(body: CompletionBody, prompts: int) -> None:
    """What no type can say. Raises `FieldError`."""
    count = body.n or 1
    if body.best_of is not None and body.best_of < count:
        raise FieldError(
            "best_of",
            f"best_of is {body.best_of} and n is {count}: there are not so many texts to keep.",
            remedy="Send a larger best_of, or leave it out.",
        )
    if body.stream and (body.best_of or 1) > count:
        raise FieldError(
            "best_of",
            "best_of does not go with stream: the end tells the best.",
            remedy="Leave it out.",
        )
    if body.stream and body.max_tokens == 0:
        raise FieldError("max_tokens", "max_tokens is 0: there is nothing to stream.")
    if body.suffix:
        raise FieldError(
            "suffix", "texts are not filled in before a suffix here.", code="unsupported_parameter"
        )
    if body.echo and body.heal:
        raise FieldError("heal", "heal does not go with echo: the prompt's end would be shown twice.")
    check_common(body, prompts=prompts, draws=body.best_of or count)
