"""The scoring methods of `LLM` on a real model: they say the same of the same text."""

from __future__ import annotations

import asyncio
import math

import pytest

from dcmodel import LLM


@pytest.fixture(scope="module")
def llm():
    with LLM() as llm:
        yield llm


def close(value):
    return pytest.approx(value, abs=1e-4)


TEXT = "Text: Mira is 34 and lives in Velden.\nFields: name, age\nJSON:"


def test_a_prompt_a_continuation_and_a_rolling_window_have_the_same_scores(llm):
    tokens = llm.score_prompt(TEXT)
    logprobs = [item.logprob for item in tokens[1:]]
    ids = [item.token_id for item in tokens]
    (scored,) = llm.score(ids[:1], [ids[1:]])
    assert list(scored.logprobs) == close(logprobs)
    assert list(scored.ranks) == [item.rank for item in tokens[1:]]
    start = llm.tokenizer.bos_token_id
    prefix = start if start is not None else llm.tokenizer.eos_token_ids[0]
    rolling = llm.rolling(TEXT)
    whole = [item.logprob for item in llm.score_prompt([prefix, *rolling.token_ids])[1:]]
    assert list(rolling.logprobs) == close(whole)


def test_windows_with_the_whole_context_are_one_window(llm):
    """Overlap so large that each window holds all that came before."""
    ids = llm.rolling(TEXT).token_ids
    one = llm.rolling(TEXT, window=len(ids))
    assert llm.rolling(TEXT).logprob == close(one.logprob)
    assert llm.rolling(TEXT, window=8, overlap=8).logprob != close(one.logprob)


async def test_a_distribution_over_nested_options_is_what_sessions_say(llm):
    options = [" 7", " 70", " 701"]
    found = llm.distribution("3 + 4 =", options)

    async def whole(text):
        session = await llm.asession("3 + 4 =")
        session.append(text)
        row = await session.alogprobs()
        ends = [float(row.raw_logprobs[token]) for token in llm.tokenizer.eos_token_ids]
        return session.raw_logprob + math.log(math.fsum(map(math.exp, ends)))

    weights = [math.exp(item) for item in await asyncio.gather(*map(whole, options))]
    assert list(found.values()) == close([weight / math.fsum(weights) for weight in weights])


def test_next_tokens_are_what_scores_say(llm):
    best = llm.next_tokens("3 + 4 =", k=3)
    scored = llm.score("3 + 4 =", [[token] for token in best.token_ids.tolist()])
    assert best.raw_logprobs.tolist() == close([item.logprob for item in scored])
    assert [item.ranks for item in scored] == [(0,), (1,), (2,)]


def test_beams_score_as_score_does(llm):
    best = llm.generate("3 + 4 =", regex=" [0-9]{1,2}", beams=4, n=3, heal=False)
    for item in (best, *best.alternatives):
        (scored,) = llm.score(llm.tokenizer.encode_prompt("3 + 4 ="), [item.token_ids])
        assert item.score == close(scored.logprob)


async def test_cancelling_a_search_leaves_the_model_usable(llm):
    for options in ({"beams": 8}, {"n": 8, "temperature": 1.0}, {"sampling": "exact"}):
        task = asyncio.create_task(llm.agenerate(["Once upon a time"] * 2, max_tokens=400, **options))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await llm.achoose("3 + 4 =", [" 7", " Paris"])).text == " 7"
