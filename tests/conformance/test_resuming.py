"""A stream that goes on behind tokens that exist already gives what the whole stream would have given."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from conformance.requests import is_same, request, run_one

from dcmodel.constraints import Choice, JsonSchema, NotIn, Regex
from dcmodel.errors import ConstraintViolationError, InvalidRequestError, TokenRangeError
from dcmodel.types import FinishReason

pytestmark = pytest.mark.feature("streaming")

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def whole_request(model, kind):
    match kind:
        case "greedy":
            return request(model, "The quick brown fox")
        case "seeded":
            return request(model, "The quick brown fox", temperature=1.0, seed=7, top_p=0.95)
        case "penalties":
            return request(
                model, "city city", temperature=0.9, seed=3, repetition_penalty=1.3, frequency_penalty=0.5
            )
        case "regex":
            return request(model, "yes", constraint=Regex("[a-z ]{5,40}[.]"), temperature=1.0, seed=1)
        case "forced":
            rule = Regex("(The quick brown fox (jumps|sleeps) over the lazy dog. ){2}")
            return request(model, "yes", constraint=rule, temperature=1.0, seed=5, max_tokens=60)
        case "schema":
            return request(
                model, "JSON:", constraint=JsonSchema(SCHEMA), temperature=1.0, seed=2, max_tokens=40
            )
        case "narrowed":
            rule = Regex("[a-z ]{3,20}") & NotIn(["e", "qu"])
            return request(model, "yes", constraint=rule, temperature=1.5, seed=4)
        case "stop":
            free = request(model, "no maybe", temperature=1.0, seed=11, max_tokens=12)
            return replace(free, stop=("e", "zq", "the"))
        case "without-logprobs":
            return request(model, "yes", logprobs=False, constraint=Choice(["maybe not", "maybe so"]))
        case "tops":
            return request(model, "yes", top_logprobs=3, constraint=Regex("[a-z]{4,8}"))
    raise AssertionError(kind)


SEEDED_KINDS = ["seeded", "penalties", "regex", "forced", "schema", "narrowed", "stop"]
UNSEEDED_KINDS = ["greedy", "without-logprobs", "tops"]


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.needs("seeds_of_places")) for kind in SEEDED_KINDS]
    + UNSEEDED_KINDS,
)
async def test_what_follows_is_what_would_have_followed(case, model, kind):
    item = whole_request(model, kind)
    stream = model.generate(item)
    steps = [step async for step in stream]
    whole = await stream.completion()
    assert [step.token_id for step in steps] == list(whole.token_ids)
    for cut in range(1, len(steps) + 1, 1 if len(steps) < 15 else 5):
        resumed = model.generate(replace(item, resumed=whole.token_ids[:cut]))
        rest = [step async for step in resumed]
        assert [(step.token_id, step.text, step.finish_reason) for step in rest] == [
            (step.token_id, step.text, step.finish_reason) for step in steps[cut:]
        ]
        for new, old in zip(rest, steps[cut:], strict=True):
            assert (new.logprobs is None) == (old.logprobs is None)
            if new.logprobs is not None and old.logprobs is not None:
                assert is_same(new.logprobs.raw_logprob, old.logprobs.raw_logprob, 2 * case.tolerance)
                assert is_same(new.logprobs.log_mass, old.logprobs.log_mass, 2 * case.tolerance)
        completion = await resumed.completion()
        assert (completion.text, completion.token_ids) == (whole.text, whole.token_ids)
        assert (completion.finish_reason, completion.stop_reason) == (whole.finish_reason, whole.stop_reason)
        assert completion.certificate == whole.certificate
        assert completion.parsed == whole.parsed
        assert completion.usage.completion_tokens == whole.usage.completion_tokens
        if completion.logprobs is not None:
            assert all(math.isnan(item.raw_logprob) for item in completion.logprobs[:cut])
            assert not any(math.isnan(item.raw_logprob) for item in completion.logprobs[cut:])


async def test_tokens_that_the_constraint_refuses_cannot_be_resumed(model):
    item = request(model, "yes", constraint=Regex("[0-9]+"))
    letters = tuple(model.tokenizer.encode("abc"))
    with pytest.raises(ConstraintViolationError, match="place 0"):
        await model.generate(replace(item, resumed=letters)).completion()


async def test_tokens_behind_the_end_cannot_be_resumed(model):
    item = request(model, "yes", max_tokens=3)
    whole = await run_one(model, replace(item, max_tokens=8, ignore_eos=True))
    with pytest.raises(InvalidRequestError, match="behind its end"):
        await model.generate(replace(item, ignore_eos=True, resumed=whole.token_ids[:4])).completion()


async def test_resumed_token_ids_out_of_range_are_refused(model):
    wrong = model.info.vocab_size
    with pytest.raises(TokenRangeError, match=str(wrong)):
        model.generate(replace(request(model, "yes"), resumed=(wrong,)))


@pytest.mark.feature("cancel")
async def test_a_resumed_stream_can_be_cancelled(model):
    item = request(model, "yes", max_tokens=100, ignore_eos=True, temperature=1.0)
    whole = await run_one(model, replace(item, max_tokens=5))
    stream = model.generate(replace(item, resumed=whole.token_ids))
    await anext(stream)
    stream.cancel()
    completion = await stream.completion()
    assert completion.token_ids[:5] == whole.token_ids
    assert completion.finish_reason in (FinishReason.CANCELLED, FinishReason.LENGTH)


@pytest.mark.feature("sessions")
@pytest.mark.needs("seeds_of_places")
async def test_another_attempt_draws_another_number_and_the_same_one_again(model):
    item = request(model, "The quick brown", temperature=2.0, seed=9, max_tokens=20)
    session = await model.session(item)
    drawn = []
    for attempt in [*range(12), 0]:
        drawn.append((await session.step(attempt=attempt)).token_id)
        session.rollback(1)
    assert drawn[0] == drawn[-1]
    assert len(set(drawn)) > 1
    first = await run_one(model, replace(item, max_tokens=1))
    assert drawn[0] == first.token_ids[0], "attempt 0 is what a stream draws"


@pytest.mark.feature("sessions")
async def test_known_log_probabilities_are_those_of_the_completion(case, model):
    session = await model.session(request(model, "yes"))
    await session.step()
    session.append(model.tokenizer.encode(" maybe"))
    count = len(session.token_ids)
    assert len(session.known(0)) == 1
    await session.settle()
    assert session.known(1) == (session.completion().logprobs or ())[1:count]
