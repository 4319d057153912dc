"""What each request of the load must give, computed one after the other, without a server."""

from __future__ import annotations

from dataclasses import dataclass

from conformance.requests import run_one
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import Regex
from dcmodel.local import LocalDcModel
from dcmodel.types import GenerateRequest, SamplingParams

NAN_TOKEN, CRASH_TOKEN = 300, 301
"""Prompts that hold one of these fail in the engine, alone."""
NO_POISON = {NAN_TOKEN: -100.0, CRASH_TOKEN: -100.0}
NUM_PROMPTS = 60
MAX_TOKENS = 20


@dataclass(frozen=True)
class Expected:
    """A request and its only right answer."""

    request: GenerateRequest
    token_ids: tuple[int, ...]
    text: str


def open_model() -> LocalDcModel:
    """The model of server and reference: closed-form logits, and faults on demand."""
    return LocalDcModel(
        loaded_fake(small_tokenizer(), nan_token=NAN_TOKEN, crash_token=CRASH_TOKEN, max_sequences=64)
    )


async def expectations() -> list[Expected]:
    """Greedy, seeded and constrained requests, some of them sharing long prefixes."""
    model = open_model()
    try:
        found = []
        for number in range(NUM_PROMPTS):
            completion = await run_one(model, item := _request(number))
            found.append(Expected(item, completion.token_ids, completion.text))
        return found
    finally:
        await model.aclose()


def poison(number: int) -> GenerateRequest:
    """A request that fails in the engine in the middle of everybody else's step."""
    bad = NAN_TOKEN if number % 2 else CRASH_TOKEN
    return GenerateRequest(prompt_ids=(3, 4 + number % 50, bad), max_tokens=MAX_TOKENS, ignore_eos=True)


def _request(number: int) -> GenerateRequest:
    shared = tuple(range(3, 3 + 10 * (number % 5)))
    prompt = (*shared, 60 + number, 61 + number % 7)
    if number % 3 == 0:
        sampling = SamplingParams(logit_bias=NO_POISON)
        return GenerateRequest(prompt_ids=prompt, sampling=sampling, max_tokens=MAX_TOKENS, ignore_eos=True)
    sampling = SamplingParams(temperature=1.0, seed=number, logit_bias=NO_POISON)
    if number % 3 == 1:
        return GenerateRequest(
            prompt_ids=prompt, sampling=sampling, max_tokens=MAX_TOKENS, ignore_eos=True, logprobs=False
        )
    rule = Regex(f"[a-z ]{{{MAX_TOKENS}}}")
    return GenerateRequest(prompt_ids=prompt, sampling=sampling, constraint=rule, max_tokens=60)
