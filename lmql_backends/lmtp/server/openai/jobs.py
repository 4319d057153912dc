"""From the fields of a body to requests of the model; nothing here waits or computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from dcmodel.constraint import Constraint
from dcmodel.constraints.healing import heal
from dcmodel.llm.completions import seed_of_draw
from dcmodel.model import DcModel
from dcmodel.types import GenerateRequest, SamplingParams, ScoreRequest
from lmql_backends.lmtp.server.contracts import ServedModel
from lmql_backends.lmtp.server.openai.errors import FieldError
from lmql_backends.lmtp.server.openai.fields import Generation

MAX_REQUESTS = 2048
"""Texts that one HTTP request may ask for: prompts times draws."""
UNKNOWN_ROOM = 1024
"""Tokens of an answer where neither the client nor the model says how long it may become."""
DEFAULT_TEMPERATURE = 1.0
"""OpenAI's; `LLM.generate` is greedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptJob:
    """One prompt and what is asked about it."""

    prompt_ids: tuple[int, ...]
    text: str
    """As the client wrote it, for `echo`."""
    draws: tuple[GenerateRequest, ...]
    """None where no token is wanted."""
    score: ScoreRequest | None = None
    """Where the prompt's own log-probabilities are wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All of one HTTP request."""

    prompts: tuple[PromptJob, ...]
    constraint_field: str = ""
    """What errors of the constraint are about."""


def make_draws(
    body: Generation,
    model: DcModel,
    prompt_ids: tuple[int, ...],
    *,
    constraint: Constraint | None,
    index: int,
    draws: int,
    max_tokens: int,
    logprobs: bool,
    top_logprobs: int,
    heals: bool = False,
) -> tuple[GenerateRequest, ...]:
    """The requests for prompt number `index`; their seeds are those of `LLM.generate`."""
    sampling = sampling_of(body)
    if sampling.seed is not None and index:
        sampling = dataclasses.replace(sampling, seed=sampling.seed + index)
    count, healed = len(prompt_ids), ""
    if heals and model.can_heal and (constraint is None or not constraint.is_about_tokens):
        prompt_ids, healed = heal(model.tokenizer, prompt_ids)
    request = GenerateRequest(
        prompt_ids=prompt_ids,
        sampling=sampling,
        constraint=constraint,
        stop=stops_of(body),
        include_stop=bool(body.include_stop_str_in_output),
        # The tokens that come again are not taken from what was asked for.
        max_tokens=max_tokens + count - len(prompt_ids),
        logprobs=logprobs,
        top_logprobs=top_logprobs,
        healed=healed,
        canonical=bool(body.canonical),
        ignore_eos=bool(body.ignore_eos),
    )
    seeds = [seed_of_draw(sampling.seed, number) for number in range(draws)]
    return tuple(
        dataclasses.replace(request, sampling=dataclasses.replace(sampling, seed=seed)) for seed in seeds
    )


def sampling_of(body: Generation) -> SamplingParams:
    """Fields that are left out have OpenAI's defaults."""
    return SamplingParams(
        temperature=DEFAULT_TEMPERATURE if body.temperature is None else body.temperature,
        top_k=max(body.top_k or 0, 0),  # -1 is vLLM's word for all
        top_p=1.0 if body.top_p is None else body.top_p,
        min_p=body.min_p or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=_bias(body.logit_bias or {}),
        seed=body.seed,
    )


def stops_of(body: Generation) -> tuple[str, ...]:
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if "" in stops:
        raise FieldError("stop", "a stop string is empty.", remedy="Remove it from `stop`.")
    return stops


def check_common(body: Generation, *, prompts: int, draws: int) -> None:
    """What no type can say. Raises `FieldError`."""
    if prompts * draws > MAX_REQUESTS:
        raise FieldError(
            "n" if draws > 1 else "prompt",
            f"{prompts} prompts with {draws} texts each are more than {MAX_REQUESTS}.",
            remedy="Send several requests.",
        )
    if not body.stream:
        if body.stream_options is not None:
            raise FieldError(
                "stream_options",
                "there are stream_options, and nothing is streamed.",
                remedy="Send stream=true too.",
            )
        return
    if body.prompt_logprobs is not None:
        raise FieldError(
            "prompt_logprobs", "prompt_logprobs does not go with stream.", remedy="Leave one of them out."
        )


def score_request(prompt_ids: tuple[int, ...], tops: int | None) -> ScoreRequest | None:
    """For the log-probabilities of a prompt's tokens; None where none are wanted, or none exist."""
    if tops is None or len(prompt_ids) < 2:
        return None
    return ScoreRequest(prompt_ids=prompt_ids, prompt_logprobs=tops)


def check_room(served: ServedModel, prompt_ids: tuple[int, ...], max_tokens: int) -> None:
    """Raise `FieldError` where prompt and answer do not fit the context: nothing is cut silently."""
    context = served.model.info.max_positions
    wanted = len(prompt_ids) + max_tokens
    if wanted > context > 0:
        raise FieldError(
            "max_tokens" if max_tokens and len(prompt_ids) < context else "prompt",
            f"the model's context is {context} tokens, and {wanted} were asked for: "
            f"{len(prompt_ids)} in the prompt and {max_tokens} for the answer.",
            remedy="Shorten the prompt, or ask for fewer tokens.",
            code="context_length_exceeded",
        )


def room_left(served: ServedModel, prompt_ids: tuple[int, ...]) -> int:
    """How many tokens the context leaves; at least 1, so that the model itself says what does not fit."""
    context = served.model.info.max_positions
    return max(context - len(prompt_ids), 1) if context > 0 else UNKNOWN_ROOM


def _bias(given: Mapping[str, float]) -> dict[int, float]:
    bias = {}
    for key, value in given.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 10):
            raise FieldError(
                "logit_bias", f"logit_bias has the key {key!r:.40}.", remedy="Keys are token ids, as texts."
            )
        bias[int(key)] = value
    return bias
