"""Every constrained result is valid; masks are exact; forced tokens are not asked for."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from conformance.requests import PROMPTS, assert_same, request, run, run_one

from dcmodel.constraints import (
    Choice,
    Grammar,
    Hole,
    JsonSchema,
    MaskFunction,
    NotIn,
    Regex,
    Template,
    TokenSet,
    Type,
)
from dcmodel.errors import ConstraintRuntimeError, DcModelError, DeadEndError, InvalidConstraintError
from dcmodel.types import FinishReason, ScoreRequest

pytestmark = pytest.mark.feature("constraints")

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
LIST = 'start: "[" NUMBER ("," NUMBER)~0..4 "]"\nNUMBER: /[0-9]{1,3}/'


def is_json_record(text: str) -> bool:
    value = json.loads(text)
    return (
        list(value) == ["name", "age", "tags"]
        and len(value["name"]) <= 12
        and 0 <= value["age"] <= 130
        and set(value["tags"]) <= set("abc")
        and len(value["tags"]) <= 3
    )


KINDS = {
    "choice": (
        Choice(["yes", "no", "yes please", "漢字"]),
        lambda t: t in ("yes", "no", "yes please", "漢字"),
    ),
    "regex": (
        Regex(r"[A-Z][a-z]{2,8} [0-9]{4}"),
        lambda t: bool(re.fullmatch(r"[A-Z][a-z]{2,8} [0-9]{4}", t)),
    ),
    "json": (JsonSchema(SCHEMA), is_json_record),
    "json without phrases": (
        JsonSchema(SCHEMA) & NotIn(["7", "e ", "zz"]),
        lambda t: is_json_record(t) and not any(phrase in t for phrase in ("7", "e ", "zz")),
    ),
    "grammar with a regex": (
        Grammar(LIST) & Regex(r".*[37].{2,20}"),
        lambda t: bool(re.fullmatch(r"\[[0-9]{1,3}(,[0-9]{1,3}){0,4}\]", t) and re.search("[37].{2}", t)),
    ),
    "template": (
        Template.of(
            "{who}, {age}.",
            who=Hole("who", Regex("[A-Z][a-z ]{1,6}"), {"temperature": 1.0}),
            age=Type(int, minimum=1, maximum=130) | Choice(["old"]),
        ),
        lambda t: bool(re.fullmatch(r"[A-Z][a-z ]{1,6}, ([1-9][0-9]?|1[0-2][0-9]|130|old)\.", t)),
    ),
    "grammar": (Grammar(LIST), lambda t: bool(re.fullmatch(r"\[[0-9]{1,3}(,[0-9]{1,3}){0,4}\]", t))),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.0, 1.5])
async def test_constrained_results_are_valid(case, model, kind, temperature):
    constraint, is_valid = KINDS[kind]
    requests = [
        request(model, prompt, constraint=constraint, max_tokens=120, temperature=temperature, seed=seed)
        for seed in range(case.repeats)
        for prompt in PROMPTS[:4]
    ]
    for completion in await run(model, requests):
        assert completion.finish_reason is FinishReason.STOP
        assert is_valid(completion.text), completion.text
        assert completion.certificate.valid is True


@pytest.mark.parametrize("kind", KINDS)
async def test_constrained_batched_equals_alone(case, model, open_model, kind):
    constraint, _ = KINDS[kind]
    options = {"constraint": constraint, "max_tokens": 100, "temperature": 1.0, "seed": 9}
    requests = [request(model, prompt, **options) for prompt in PROMPTS[: 2 * case.repeats]]
    other = open_model()
    for item, completion in zip(requests, await run(model, requests), strict=True):
        assert_same(completion, await run_one(other, item), 2 * case.tolerance)


@pytest.mark.parametrize("logprobs", [pytest.param(True, marks=pytest.mark.needs("forced_logprobs")), False])
async def test_forced_tokens_are_those_that_leave_no_choice(case, model, logprobs):
    constraint = Regex(r"The answer is (yes|no), and that is final\.")
    item = request(model, PROMPTS[0], constraint=constraint, max_tokens=60, logprobs=logprobs)
    completion = await run_one(model, item)
    assert re.fullmatch(r"The answer is (yes|no), and that is final\.", completion.text)
    assert completion.usage.forced_tokens == sum(completion.forced)
    if case.options:
        assert completion.usage.forced_tokens >= len(completion.token_ids) - 3
    if logprobs:
        for is_forced, entry in zip(completion.forced, completion.logprobs, strict=True):
            if is_forced:
                assert (entry.masked_logprob, entry.log_mass) == (0.0, entry.raw_logprob)


@pytest.mark.parametrize("kind", ["regex", pytest.param("json", marks=pytest.mark.needs("forced_logprobs"))])
async def test_the_score_of_a_constrained_text_is_the_sum_of_its_raw_steps(case, model, kind):
    constraint, _ = KINDS[kind]
    item = request(model, PROMPTS[2], constraint=constraint, max_tokens=100, temperature=1.0, seed=1)
    completion = await run_one(model, item)
    request_ = ScoreRequest(prompt_ids=item.prompt_ids, continuations=(completion.token_ids,))
    (scored,) = (await model.score(request_)).continuations
    steps = [entry.raw_logprob for entry in completion.logprobs]
    np.testing.assert_allclose(scored.logprobs, steps, atol=2 * case.tolerance, rtol=0)


@pytest.mark.feature("masks")
async def test_a_callers_function_is_the_mask(case, model):
    allowed = [sorted({40 + step, 50 + step, 60 + step}) for step in range(5)]

    def mask(token_ids):
        if len(token_ids) == 5:
            return model.tokenizer.eos_token_ids
        return allowed[len(token_ids)]

    item = request(model, PROMPTS[0], constraint=MaskFunction(mask), temperature=1.0, seed=2)
    completion = await run_one(model, item)
    for step, token_id in enumerate(completion.token_ids[:5]):
        assert token_id in allowed[step]
    assert len(completion.token_ids) in (5, 6)
    if case.reference is not None and "log_mass" not in case.limits:
        context = list(item.prompt_ids)
        for step, entry in enumerate(completion.logprobs[:5]):
            mass = np.logaddexp.reduce(case.reference(context)[allowed[step]])
            assert abs(entry.log_mass - mass) <= 2 * case.tolerance
            context.append(completion.token_ids[step])


async def test_running_into_max_tokens_is_said(case, model):
    item = request(model, PROMPTS[0], constraint=JsonSchema(SCHEMA), max_tokens=3)
    completion = await run_one(model, item)
    assert completion.finish_reason is FinishReason.LENGTH
    assert completion.certificate.valid is False
    assert completion.parsed is None
    assert len(completion.token_ids) == 3


async def test_parsed_is_the_value(case, model):
    item = request(model, PROMPTS[0], constraint=JsonSchema(SCHEMA), max_tokens=120)
    completion = await run_one(model, item)
    assert completion.parsed == json.loads(completion.text)


async def test_a_failing_constraint_fails_alone(case, model):
    def broken(token_ids):
        raise KeyError("my own mistake")

    def raises_later(token_ids):
        if len(token_ids) == 3:
            raise KeyError("my own mistake")
        return range(40, 60)

    good = request(model, PROMPTS[1], max_tokens=10, ignore_eos=True)
    alone = await run_one(model, good)
    bad = [
        (request(model, "yes", constraint=MaskFunction(broken)), ConstraintRuntimeError, "my own mistake"),
        (request(model, "no", constraint=MaskFunction(raises_later)), ConstraintRuntimeError, "mistake"),
        (request(model, "no", constraint=MaskFunction(lambda ids: [])), DeadEndError, None),
        (
            request(model, "no", constraint=MaskFunction(lambda ids: [10**9])),
            ConstraintRuntimeError,
            str(10**9),
        ),
        (request(model, "no", constraint=Regex("a(")), InvalidConstraintError, None),
    ]
    streams = [model.generate(good), *(model.generate(item) for item, _, _ in bad), model.generate(good)]
    for stream, (_, kind, text) in zip(streams[1:-1], bad, strict=True):
        with pytest.raises(kind, match=text):
            await stream.completion()
        with pytest.raises(DcModelError):
            async for _ in stream:
                pass
    for stream in (streams[0], streams[-1]):
        assert_same(await stream.completion(), alone, 2 * case.tolerance)


@pytest.mark.feature("masks")
async def test_a_token_set_allows_only_its_tokens(case, model):
    constraint = TokenSet(range(40, 60))
    completion = await run_one(model, request(model, "yes", constraint=constraint, temperature=2.0, seed=1))
    eos = set(model.tokenizer.eos_token_ids)
    assert set(completion.token_ids) <= set(range(40, 60)) | eos


@pytest.mark.feature("masks")
@pytest.mark.needs("log_mass", "forced_logprobs")
async def test_log_probabilities_in_a_mixed_batch_equal_the_reference(case, model):
    """Decoding rows, runs of forced tokens and chunks of prompts lie side by side in these steps."""
    if case.reference is None:
        pytest.skip(f"{case.name} has no plain reference")
    constraints = [None, *(constraint for constraint, _ in KINDS.values())]
    requests = [
        request(
            model,
            f"{PROMPTS[i % 8]} {i}" * (1 + i % 4),
            constraint=constraints[i % 5],
            max_tokens=10 + 5 * (i % 7),
            temperature=1.0,
            seed=i,
        )
        for i in range(25)
    ]
    for item, completion in zip(requests, await run(model, requests), strict=True):
        context = list(item.prompt_ids)
        for token_id, entry in zip(completion.token_ids, completion.logprobs, strict=True):
            assert abs(entry.raw_logprob - case.reference(context)[token_id]) <= case.tolerance
            context.append(token_id)
