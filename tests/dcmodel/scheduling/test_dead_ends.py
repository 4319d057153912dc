"""Constraints whose masks are wider than what can be completed: drawing again, and taking back tokens."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest
from conformance.requests import assert_same, mixed_requests, request, run, run_one
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel import FinishReason, Grammar, JsonSchema, MaskFunction, NotIn, Regex
from dcmodel.errors import DeadEndError
from dcmodel.local import LocalDcModel

DRAWS = 1500


def letters(text: str) -> tuple[int, ...]:
    return tuple(token for char in text for token in small_tokenizer().encode(char))


@pytest.fixture
async def model():
    opened = LocalDcModel(loaded_fake(small_tokenizer(), scale=1.0, max_sequences=64, kv_tokens=20_000))
    yield opened
    await opened.aclose()


@pytest.fixture
def logits(model):
    """The fake model's own logits."""
    return model._runner._engine.model.logits


# Their first letters a, c, e are in both; only c and e lead on.
CLASHING = Grammar('start: "ab" | "cd" | "ef"') & Grammar('start: "ax" | "cd" | "ef" | "gh"')


async def test_a_draw_that_leads_nowhere_is_drawn_again(model):
    requests = [request(model, "yes", constraint=CLASHING, temperature=2.0, seed=i) for i in range(64)]
    for completion in await run(model, requests):
        assert completion.text in ("cd", "ef")
        assert completion.certificate.valid
        assert completion.finish_reason is FinishReason.STOP
        assert len(completion.logprobs) == len(completion.token_ids) == len(completion.forced)


async def test_draws_are_distributed_as_if_dead_ends_had_been_masked(model, logits):
    requests = [
        request(model, "yes", constraint=CLASHING, temperature=1.0, seed=i, logprobs=False)
        for i in range(DRAWS)
    ]
    counts = Counter(completion.text for completion in await run(model, requests))
    row = logits(requests[0].prompt_ids)
    candidates = {text: [i for i in range(len(row)) if is_beginning(i, text)] for text in ("cd", "ef")}
    mass = {text: float(np.exp(row[tokens]).sum()) for text, tokens in candidates.items()}
    expected = mass["cd"] / sum(mass.values())
    spread = (expected * (1 - expected) / DRAWS) ** 0.5
    assert abs(counts["cd"] / DRAWS - expected) < 4 * spread


def is_beginning(token_id: int, text: str) -> bool:
    tokenizer = small_tokenizer()
    piece = tokenizer.token_bytes(token_id)
    return bool(piece) and token_id not in tokenizer.special_token_ids and text.encode().startswith(piece)


async def test_a_batch_with_dead_ends_gives_what_each_request_gives_alone(model):
    rule = Regex("[a-e ]{3,12}") & NotIn(["a", "bc", "dd"])
    requests = [
        *mixed_requests(model, 6, temperature=1.0, seed=3),
        *(request(model, "no", constraint=rule, temperature=1.5, seed=i) for i in range(6)),
        *(request(model, "city", constraint=CLASHING, temperature=1.5, seed=i) for i in range(6)),
    ]
    together = await run(model, requests)
    for item, completion in zip(requests, together, strict=True):
        assert_same(completion, await run_one(model, item), 1e-5)


async def test_a_schema_without_some_words_is_always_valid(model):
    schema = JsonSchema(
        {"type": "object", "properties": {"a": {"type": "string", "maxLength": 6}}, "required": ["a"]}
        | {"additionalProperties": False}
    )
    rule = schema & NotIn(["x", "e", "\\"])
    requests = [
        request(model, "yes", constraint=rule, temperature=1.5, seed=i, max_tokens=60) for i in range(24)
    ]
    for completion in await run(model, requests):
        assert completion.certificate.valid
        assert not set("xe\\") & set(completion.text)
        assert set(completion.parsed) == {"a"}


def only_after(first: str, second: str):
    """Allows any letter at first, but then a way on only after `first`."""
    (good,), (then,) = letters(first), letters(second)

    def allowed(token_ids: tuple[int, ...]):
        if not token_ids:
            return letters("abcdefgh")
        if len(token_ids) == 1:
            return letters("xyz")
        return [then, 1] if token_ids[0] == good else []

    return MaskFunction(allowed)


@pytest.mark.parametrize("logprobs", [True, False])
async def test_tokens_are_taken_back_where_a_function_leaves_no_way_on(model, logprobs):
    rule = only_after("e", "q") & Regex("[a-z]+")
    completion = await run_one(model, request(model, "yes", constraint=rule, max_tokens=3, logprobs=logprobs))
    assert completion.text[0] == "e"
    assert len(completion.text) in (2, 3)
    assert len(completion.forced) == len(completion.token_ids)
    if logprobs:
        assert len(completion.logprobs) == len(completion.token_ids)


async def test_a_stream_shows_nothing_that_is_taken_back(model):
    rule = only_after("e", "q") & Regex("[a-z]+")
    stream = model.generate(request(model, "yes", constraint=rule, max_tokens=3))
    shown = "".join([step.text async for step in stream])
    completion = await stream.completion()
    assert shown == completion.text
    assert shown[0] == "e"


async def test_where_nothing_leads_on_at_all_the_request_fails_and_its_neighbours_do_not(model):
    rule = MaskFunction(lambda ids: letters("ab") if len(ids) < 3 else []) & Regex("[a-z]+")
    bad = request(model, "no", constraint=rule, max_tokens=8)
    good = request(model, "city", max_tokens=8)
    streams = [model.generate(bad), model.generate(good)]
    failed, fine = await asyncio.gather(*(stream.completion() for stream in streams), return_exceptions=True)
    assert isinstance(failed, DeadEndError)
    assert_same(fine, await run_one(model, good), 1e-5)


async def test_what_was_taken_back_leaves_no_trace_in_penalties(model):
    """The same tokens, scored anew, with the same penalties."""
    rule = only_after("e", "q") & Regex("[a-z]+")
    options = {"max_tokens": 3, "presence_penalty": 1.5, "temperature": 0.7, "seed": 5}
    first = await run_one(model, request(model, "yes", constraint=rule, **options))
    again = await run_one(model, request(model, "yes", constraint=rule, **options))
    assert_same(first, again, 1e-6)
