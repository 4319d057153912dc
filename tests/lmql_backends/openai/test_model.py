"""Text, scores and distributions over our own server are those of the model behind it."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest
from fakes.openai_models import OURS
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import MaskFunction
from dcmodel.errors import CapabilityError, ModelClosedError
from dcmodel.mask import TokenMask
from dcmodel.types import FinishReason, GenerateRequest, SamplingParams, ScoreRequest

PROMPT = tuple(small_tokenizer().encode("The quick brown fox"))
TEXT_ONLY = replace(
    OURS, token_id_prompts=False, returns_token_ids=False, tokens_as_ids=False, prompt_logprobs=False
)


def request(**changes) -> GenerateRequest:
    sampling = changes.pop("sampling", SamplingParams())
    return GenerateRequest(prompt_ids=changes.pop("prompt_ids", PROMPT), sampling=sampling, **changes)


@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(temperature=1.0, seed=7)])
async def test_a_text_is_that_of_the_model_behind_the_endpoint(model, local, sampling) -> None:
    asked = request(sampling=sampling, max_tokens=20, top_logprobs=3)
    theirs = await model.generate(asked).completion()
    ours = await local.generate(asked).completion()
    assert theirs.token_ids == ours.token_ids
    assert theirs.text == ours.text
    assert (theirs.finish_reason, theirs.stop_reason) == (ours.finish_reason, ours.stop_reason)
    for there, here in zip(theirs.logprobs, ours.logprobs, strict=True):
        assert there.raw_logprob == pytest.approx(here.raw_logprob, abs=1e-5)
        assert [item.token_id for item in there.top_raw] == [item.token_id for item in here.top_raw]


async def test_steps_come_one_by_one_and_add_up_to_the_text(model) -> None:
    stream = model.generate(request(max_tokens=12))
    steps = [step async for step in stream]
    completion = await stream.completion()
    assert "".join(step.text for step in steps) == completion.text
    assert tuple(step.token_id for step in steps) == completion.token_ids
    assert steps[-1].finish_reason is completion.finish_reason


async def test_what_it_cost_is_what_the_endpoint_says(model) -> None:
    completion = await model.generate(request(max_tokens=8)).completion()
    assert completion.cost.requests == 1
    assert completion.cost.prompt_tokens == len(PROMPT)
    assert completion.cost.completion_tokens == len(completion.token_ids)
    assert not completion.cost.is_estimated
    assert model.cost == completion.cost


async def test_cached_tokens_are_told_of_streams_too(model) -> None:
    prompt = tuple(small_tokenizer().encode("yes no maybe true false null negative neutral " * 8))
    await model.generate(request(prompt_ids=prompt, max_tokens=4)).completion()
    again = await model.generate(request(prompt_ids=prompt, max_tokens=4)).completion()
    assert again.usage.cached_tokens >= len(prompt) - 1
    assert again.cost.cached_tokens == again.usage.cached_tokens


async def test_a_session_waits_for_a_callers_function_in_the_same_loop(model, local) -> None:
    async def rule(ids):
        await asyncio.sleep(0)
        return range(60, 300) if len(ids) < 5 else [1]

    asked = request(constraint=MaskFunction(rule), max_tokens=8)
    theirs = await model.session(asked)
    while not theirs.is_finished:
        await theirs.step()
    assert theirs.token_ids == (await local.generate(asked).completion()).token_ids


async def test_prices_are_the_users(url, model_at) -> None:
    from lmql_backends.openai.costs import Prices

    model = model_at(url, prices=Prices.of({"prompt": 1.0, "completion": 2.0}))
    cost = (await model.generate(request(max_tokens=8)).completion()).cost
    assert cost.price == pytest.approx((cost.prompt_tokens + 2 * cost.completion_tokens) / 1e6)


async def test_a_stop_string_ends_the_text_and_the_response(model, local) -> None:
    whole = (await local.generate(request(max_tokens=40)).completion()).text
    stop = whole[len(whole) // 2 :][:3]
    theirs = await model.generate(request(max_tokens=40, stop=(stop,))).completion()
    ours = await local.generate(request(max_tokens=40, stop=(stop,))).completion()
    assert (theirs.text, theirs.token_ids, theirs.stop_reason) == (
        ours.text,
        ours.token_ids,
        ours.stop_reason,
    )
    assert theirs.cost.is_estimated


async def test_a_cancelled_text_has_the_tokens_so_far(model) -> None:
    stream = model.generate(request(max_tokens=400))
    first = await anext(stream)
    stream.cancel()
    completion = await stream.completion()
    assert completion.finish_reason is FinishReason.CANCELLED
    assert completion.token_ids[0] == first.token_id


async def test_a_text_is_resumed_behind_the_tokens_that_exist(model, local) -> None:
    whole = await local.generate(request(max_tokens=12)).completion()
    resumed = await model.generate(request(max_tokens=12, resumed=whole.token_ids[:5])).completion()
    assert resumed.token_ids == whole.token_ids
    assert resumed.text == whole.text
    assert math.isnan(resumed.logprobs[0].raw_logprob)


async def test_an_endpoint_that_takes_only_text_gives_the_same_text(url, model_at, local) -> None:
    model = model_at(url, TEXT_ONLY)
    theirs = await model.generate(request(max_tokens=10)).completion()
    ours = await local.generate(request(max_tokens=10)).completion()
    assert (theirs.token_ids, theirs.text) == (ours.token_ids, ours.text)


@pytest.mark.parametrize(
    "able", [OURS, replace(OURS, prompt_logprobs=False)], ids=["prompt_logprobs", "echo"]
)
async def test_scores_are_those_of_the_model_behind_the_endpoint(url, model_at, local, able) -> None:
    model = model_at(url, able)
    asked = ScoreRequest(
        prompt_ids=PROMPT, continuations=((5, 9, 11), (7,), (5, 9)), top_logprobs=2, prompt_logprobs=1
    )
    theirs, ours = await asyncio.gather(model.score(asked), local.score(asked))
    for there, here in zip(
        [*theirs.continuations, theirs.prompt], [*ours.continuations, ours.prompt], strict=True
    ):
        assert there.token_ids == here.token_ids
        assert there.logprobs == pytest.approx(here.logprobs, abs=1e-4)
        assert there.is_greedy == here.is_greedy


async def test_likely_tokens_are_scored_where_there_is_no_echo(url, model_at, local) -> None:
    able = replace(OURS, prompt_logprobs=False, echo_scoring=False, max_top_logprobs=20)
    model = model_at(url, able)
    likely = (await local.next_tokens([PROMPT], k=3))[0].token_ids.tolist()
    asked = ScoreRequest(prompt_ids=PROMPT, continuations=tuple((item,) for item in likely))
    theirs, ours = await asyncio.gather(model.score(asked), local.score(asked))
    assert [item.logprob for item in theirs.continuations] == pytest.approx(
        [item.logprob for item in ours.continuations], abs=1e-5
    )
    unlikely = (await local.next_tokens([PROMPT]))[0].raw_logprobs.argmin()
    with pytest.raises(CapabilityError, match="not among the 20 likeliest"):
        await model.score(ScoreRequest(prompt_ids=PROMPT, continuations=((int(unlikely),),)))


CHAT = replace(OURS, is_chat=True, token_id_prompts=False, continuation=False)


@pytest.mark.parametrize(
    ("able", "changes", "says"),
    [
        (CHAT, {}, r"^a chat route shows no scores of given tokens.*\(chat=False\).*decisions=True"),
        (
            CHAT,
            {"prompt_logprobs": 1},
            r"^a chat route shows no log-probabilities of a prompt\. Use /completions",
        ),
        (replace(CHAT, max_top_logprobs=0), {}, r"shows no log-probabilities\. Use /completions"),
    ],
)
async def test_a_chat_that_scores_nothing_says_so(url, model_at, able, changes, says) -> None:
    asked = ScoreRequest(prompt_ids=PROMPT, continuations=(PROMPT[:2],), **changes)
    with pytest.raises(CapabilityError, match=says):
        await model_at(url, able).score(asked)


async def test_scores_are_refused_where_nothing_is_shown(url, model_at) -> None:
    able = replace(OURS, prompt_logprobs=False, echo_scoring=False, max_top_logprobs=0)
    with pytest.raises(CapabilityError, match="shows no log-probabilities"):
        await model_at(url, able).score(ScoreRequest(prompt_ids=PROMPT, continuations=((5,),)))


async def test_next_tokens_are_those_of_the_model_behind_the_endpoint(model, local) -> None:
    vocab_size = local.tokenizer.vocab_size
    mask = TokenMask.from_ids(range(10, 200), vocab_size)
    for masks, k in [(None, 5), ([mask, None], 5), ([mask, mask], None)]:
        prefixes = [PROMPT, PROMPT[:2]]
        theirs = await model.next_tokens(prefixes, masks, k)
        ours = await local.next_tokens(prefixes, masks, k)
        for there, here in zip(theirs, ours, strict=True):
            assert there.token_ids.tolist() == here.token_ids.tolist()
            assert there.masked_logprobs == pytest.approx(here.masked_logprobs, abs=1e-4)
            assert there.log_mass == pytest.approx(here.log_mass, abs=1e-4)


async def test_a_distribution_that_is_not_shown_is_refused(url, model_at) -> None:
    model = model_at(url, replace(OURS, max_top_logprobs=5))
    assert len((await model.next_tokens([PROMPT], k=5))[0].token_ids) == 5
    with pytest.raises(CapabilityError, match="5 likeliest"):
        await model.next_tokens([PROMPT], k=6)
    with pytest.raises(CapabilityError, match=r"whole mass|allowed tokens"):
        await model.next_tokens([PROMPT], [range(10, 200)], k=1)


@pytest.mark.parametrize(
    "able",
    [OURS, replace(OURS, allowed_token_ids=False, max_bias_entries=300)],
    ids=["allowed_token_ids", "logit_bias"],
)
async def test_a_sessions_steps_are_masked_exactly(url, model_at, local, able) -> None:
    model = model_at(url, able)
    theirs, ours = [await item.session(request(max_tokens=20)) for item in (model, local)]
    for mask in (None, range(30, 300), [40, 41], list(range(150, 381))):
        there, here = await theirs.step(mask), await ours.step(mask)
        assert there.token_id == here.token_id
        assert there.logprobs.raw_logprob == pytest.approx(here.logprobs.raw_logprob, abs=1e-5)
    theirs.append([50, 51])
    ours.append([50, 51])
    await asyncio.gather(theirs.settle(), ours.settle())
    assert theirs.token_logprobs == pytest.approx(ours.token_logprobs, abs=1e-4)
    forked = theirs.fork()
    forked.rollback(2)
    assert (await forked.step()).token_id == (await _forked_step(ours)).token_id


async def _forked_step(session):
    other = session.fork()
    other.rollback(2)
    return await other.step()


async def test_a_mask_that_the_endpoint_cannot_take_is_refused_by_name(url, model_at) -> None:
    model = model_at(url, replace(OURS, allowed_token_ids=False, max_bias_entries=50))
    session = await model.session(request())
    with pytest.raises(CapabilityError, match=r"allows 200 of 381 tokens.*50 logit biases"):
        await session.step(range(100, 300))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sampling": SamplingParams(temperature=1.0, top_k=1)}, "top_k=1.*Leave top_k out"),
        ({"sampling": SamplingParams(temperature=1.0, min_p=0.5)}, "min_p=0.5"),
        ({"sampling": SamplingParams(repetition_penalty=1.3)}, "repetition_penalty=1.3"),
        ({"sampling": SamplingParams(temperature=1.0, seed=3)}, "seed=3"),
        ({"sampling": SamplingParams(logit_bias={5: 101.0})}, "logit_bias of 101"),
        ({"ignore_eos": True}, "ignore_eos"),
    ],
    ids=str,
)
async def test_what_an_endpoint_does_not_take_is_refused_by_name(url, model_at, changes, named) -> None:
    model = model_at(url, replace(OURS, sampling_fields=frozenset(), seed=False))
    with pytest.raises(CapabilityError, match=named):
        model.generate(request(**changes))
    with pytest.raises(CapabilityError, match=named):
        await model.session(request(**changes))


async def test_what_changes_nothing_is_not_refused(url, model_at) -> None:
    model = model_at(url, replace(OURS, sampling_fields=frozenset(), seed=False))
    greedy = SamplingParams(top_k=5, min_p=0.5, seed=3)
    expected = await model.generate(request(max_tokens=4)).completion()
    assert (await model.generate(request(sampling=greedy, max_tokens=4)).completion()).text == expected.text


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=1.5, seed=3, top_k=4),
        SamplingParams(temperature=1.5, seed=3, min_p=0.2),
        SamplingParams(repetition_penalty=1.7),
        SamplingParams(frequency_penalty=1.2, presence_penalty=0.7),
    ],
    ids=["top_k", "min_p", "repetition_penalty", "penalties"],
)
async def test_fields_of_servers_mean_what_they_mean_here(model, local, sampling) -> None:
    asked = request(sampling=sampling, max_tokens=20, ignore_eos=True)
    theirs, ours = [await side.generate(asked).completion() for side in (model, local)]
    assert theirs.token_ids == ours.token_ids
    assert len(theirs.token_ids) == 20


async def test_penalties_of_sessions_count_the_whole_output(model, local) -> None:
    sampling = SamplingParams(frequency_penalty=1.2, presence_penalty=0.7, logit_bias={7: 1.0})
    asked = request(sampling=sampling, max_tokens=16, ignore_eos=True)
    expected = await local.generate(asked).completion()
    session = await model.session(asked)
    for token_id in expected.token_ids:
        assert (await session.step()).token_id == token_id


async def test_a_resumed_text_counts_what_came_before(model, local) -> None:
    counted = request(sampling=SamplingParams(frequency_penalty=1.2), max_tokens=16, ignore_eos=True)
    expected = await local.generate(counted).completion()
    resumed = await model.generate(replace(counted, resumed=expected.token_ids[:7])).completion()
    assert resumed.token_ids == expected.token_ids
    present = replace(counted, sampling=SamplingParams(presence_penalty=0.7), resumed=expected.token_ids[:7])
    with pytest.raises(CapabilityError, match="presence_penalty cannot be resumed"):
        await model.generate(present).completion()


async def test_closing_ends_what_runs(url, model_at) -> None:
    model = model_at(url)
    stream = model.generate(request(max_tokens=400))
    await anext(stream)
    await model.aclose()
    with pytest.raises(ModelClosedError):
        await stream.completion()
