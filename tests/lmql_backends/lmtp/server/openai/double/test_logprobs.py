"""Log-probabilities: raw, after the bias, cut to the ranks that are shown; against the closed form."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.fake_engine import FakeModel
from fakes.small_tokenizer import small_tokenizer

from lmql_backends.lmtp.server.openai.double import Double, OpenAILimits

openai = pytest.importorskip("openai")

BIAS = {20: 8.0, 30: -3.0, 40: 5.0, 50: -100.0}
PROMPT = [5, 6, 7]


def row(ids, bias=None):
    logits = FakeModel(small_tokenizer().vocab_size).logits(ids).astype(np.float64)
    for token_id, value in (bias or {}).items():
        logits[token_id] += value
    return logits - np.logaddexp.reduce(logits)


async def complete(client, **fields):
    given = {"model": "fake", "prompt": PROMPT, "max_tokens": 3, "logprobs": 5, "temperature": 0}
    body = {"return_token_ids": True, **fields.pop("extra_body", {})}
    return await client.completions.create(**{**given, "extra_body": body, **fields})


@pytest.mark.parametrize("mode", ["raw", "processed"])
async def test_they_are_those_of_the_model_or_those_after_the_bias(serve, mode):
    limits = OpenAILimits(logprobs=mode, token_ids="honoured")
    bias = {str(token_id): value for token_id, value in BIAS.items()}
    async with serve(Double(limits)) as client:
        choice = (await complete(client, logit_bias=bias)).choices[0]
        stream = [c.choices[0] async for c in await complete(client, logit_bias=bias, stream=True)]
    ids = list(PROMPT)
    for token_id, logprob, tops in zip(
        choice.token_ids, choice.logprobs.token_logprobs, choice.logprobs.top_logprobs, strict=True
    ):
        biased = row(ids, BIAS)
        assert token_id == int(biased.argmax())
        expected = biased if mode == "processed" else row(ids)
        assert logprob == pytest.approx(expected[token_id], abs=1e-4)
        assert max(tops.values()) == pytest.approx(expected.max(), abs=1e-4)
        ids.append(token_id)
    streamed = [value for chunk in stream if chunk.logprobs for value in chunk.logprobs.token_logprobs]
    assert streamed == pytest.approx(choice.logprobs.token_logprobs, abs=1e-5)


async def test_a_chats_log_probabilities_after_the_bias(serve, llm):
    limits = OpenAILimits(logprobs="processed")
    messages = [{"role": "user", "content": "hello"}]
    async with serve(Double(limits)) as client:
        answer = await client.chat.completions.create(
            model="fake",
            messages=messages,
            max_tokens=1,
            temperature=0,
            logprobs=True,
            top_logprobs=2,
            logit_bias={"20": 30},
        )
    entry = answer.choices[0].logprobs.content[0]
    biased = row(llm.chat_prompt(messages), {20: 30.0})
    assert entry.logprob == pytest.approx(biased[20], abs=1e-4)
    assert [item.logprob for item in entry.top_logprobs] == pytest.approx(sorted(biased)[:-3:-1], abs=1e-4)


async def test_a_mask_counts_as_processed_too(serve):
    limits = OpenAILimits(logprobs="processed", allowed_token_ids="honoured", token_ids="honoured")
    async with serve(Double(limits)) as client:
        answer = await complete(client, max_tokens=1, extra_body={"allowed_token_ids": [9, 10]})
    assert sum(np.exp(list(answer.choices[0].logprobs.top_logprobs[0].values()))) == pytest.approx(1)


async def test_an_unlikely_token_of_a_chat_is_minus_9999(serve):
    unlikely = int(row([5]).argmin())
    async with serve(Double()) as client:
        answer = await client.chat.completions.create(
            model="fake",
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=4,
            logprobs=True,
            top_logprobs=1,
            logit_bias={str(unlikely): 100},
        )
    content = answer.choices[0].logprobs.content
    assert any(entry.logprob == -9999 for entry in content)
    assert all(len(entry.top_logprobs) == 1 for entry in content)


async def test_a_model_that_shows_none_refuses_the_fields(serve):
    async with serve(Double(OpenAILimits(logprobs="none", token_ids="honoured"))) as client:
        for count in (0, 3):
            with pytest.raises(openai.BadRequestError) as caught:
                await complete(client, logprobs=count)
            assert (caught.value.param, caught.value.code) == ("logprobs", "unsupported_parameter")


async def test_what_the_double_cannot_compute_is_refused(serve):
    limits = OpenAILimits(logprobs="processed", token_ids="honoured", other_grammars="honoured")
    async with serve(Double(limits)) as client:
        with pytest.raises(openai.BadRequestError, match="both a bias and a form"):
            await complete(client, logit_bias={"20": 1}, extra_body={"regex": "[0-9]"})
        await complete(client, extra_body={"regex": "[0-9]"})
