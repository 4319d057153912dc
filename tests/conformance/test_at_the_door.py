"""What can never work is refused before any compute, by name and with a remedy."""

from __future__ import annotations

import asyncio
import math

import pytest
from conformance.requests import Gate, prompt_ids, request, run_one

from dcmodel.errors import ContextLengthError, InvalidRequestError, ModelClosedError, TokenRangeError
from dcmodel.types import GenerateRequest, SamplingParams

pytestmark = pytest.mark.feature("generate")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2.0}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"temperature": 1e300}, "temperature"),
        ({"repetition_penalty": 1e-40}, "repetition_penalty"),
        ({"frequency_penalty": -1e30}, "frequency_penalty"),
        ({"logit_bias": {3: -1e300}}, "logit_bias"),
        ({"logit_bias": {3: math.inf}}, "logit_bias"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"stop": ("",)}, "stop"),
    ],
    ids=str,
)
def test_bad_parameters_are_named(case, model, options, named):
    with pytest.raises(InvalidRequestError, match=named):
        request(model, "yes", **options)


async def test_token_ids_out_of_range_are_refused(case, model):
    size = model.info.vocab_size
    for wrong in (-1, size, 10**12):
        with pytest.raises(TokenRangeError, match=str(wrong)):
            model.generate(GenerateRequest(prompt_ids=(3, wrong)))
    with pytest.raises(TokenRangeError, match=str(size)):
        model.generate(GenerateRequest(prompt_ids=(3,), sampling=SamplingParams(logit_bias={size: 1.0})))


def test_an_empty_prompt_is_refused(case, model):
    with pytest.raises(InvalidRequestError, match="prompt is empty"):
        GenerateRequest(prompt_ids=())


async def test_a_prompt_beyond_the_context_is_refused(case, open_model):
    model = open_model(max_context=32)
    with pytest.raises(ContextLengthError, match="32"):
        model.generate(GenerateRequest(prompt_ids=(3,) * 32))
    fits = GenerateRequest(prompt_ids=(3,) * 31, max_tokens=5, ignore_eos=True)
    assert len((await run_one(model, fits)).token_ids) == 1


async def test_a_closed_model_says_so(case, open_model):
    model = open_model()
    gate = Gate(after=2)
    running = model.generate(request(model, "yes", max_tokens=300, constraint=gate.constraint()))
    await anext(running)
    closing = asyncio.ensure_future(model.aclose())
    await asyncio.sleep(0.05)  # lets the closing begin; the request is held at its gate meanwhile
    gate.open()
    await closing
    with pytest.raises(ModelClosedError):
        await running.completion()
    with pytest.raises(ModelClosedError):
        await model.generate(GenerateRequest(prompt_ids=prompt_ids(model, "yes"))).completion()
    await model.aclose()
