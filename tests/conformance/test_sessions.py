"""A session's steps are those of a generation; forks, appends and rollbacks are nothing but other prompts."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from conformance.requests import PROMPTS, is_same, prompt_ids, request, run_one

from dcmodel.constraints import Choice, Length, MaskFunction, Regex
from dcmodel.errors import ConstraintViolationError, InvalidRequestError, TokenRangeError
from dcmodel.mask import TokenMask
from dcmodel.session import Session
from dcmodel.types import FinishReason, GenerateRequest, SamplingParams, ScoreRequest

pytestmark = pytest.mark.feature("sessions")

REQUESTS = {
    "greedy": {},
    "seeded": {"temperature": 1.0, "seed": 11},
    "regex": {"constraint": Regex("(yes|no|maybe)( and (yes|no))?"), "temperature": 1.0, "seed": 4},
    "choice": {"constraint": Choice(["yes", "yes and no", "no"])},
    "intersection": {
        "constraint": Regex("[a-z ]+") & ~Regex(".*a.*") & Length(3, 9),
        "temperature": 1.5,
        "seed": 2,
    },
    "stop": {"stop": ("e", "an"), "temperature": 1.0, "seed": 9, "max_tokens": 30},
    "penalties": {"temperature": 0.7, "seed": 3, "repetition_penalty": 1.3, "presence_penalty": 0.5},
    "likeliest": {"temperature": 1.0, "seed": 8, "top_k": 5, "top_p": 0.8, "top_logprobs": 3},
}


WARM_AND_COLD = pytest.mark.parametrize(
    "temperature", [pytest.param(1.0, marks=pytest.mark.needs("seeds_of_places")), 0.0]
)


async def run_to_the_end(session: Session) -> str:
    parts = []
    while not session.is_finished:
        parts.append((await session.step()).text)
    return "".join(parts)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.needs("seeds_of_places")) if "seed" in options else name
        for name, options in REQUESTS.items()
    ],
)
async def test_steps_are_those_of_a_generation(case, model, name):
    item = request(model, PROMPTS[0], **REQUESTS[name])
    expected = await run_one(model, item)
    session = await model.session(item)
    text = await run_to_the_end(session)
    found = session.completion()
    assert found.token_ids == expected.token_ids
    assert text == found.text == expected.text == session.text
    assert (found.finish_reason, found.stop_reason) == (expected.finish_reason, expected.stop_reason)
    assert found.certificate == expected.certificate
    for left, right in zip(found.logprobs, expected.logprobs, strict=True):
        assert is_same(left.raw_logprob, right.raw_logprob, 2 * case.tolerance)
        assert is_same(left.log_mass, right.log_mass, 2 * case.tolerance)
    assert is_same(session.raw_logprob, expected.raw_logprob, 2e-3)


async def test_what_was_appended_is_scored(case, model):
    prompt = prompt_ids(model, PROMPTS[1])
    given = tuple(model.tokenizer.encode(" yes and no"))
    (scored,) = (await model.score(ScoreRequest(prompt_ids=prompt, continuations=(given,)))).continuations
    session = await model.session(GenerateRequest(prompt_ids=prompt))
    session.append(given[:1])
    session.append(given[1:])
    assert session.token_logprobs == ()
    await session.settle()
    np.testing.assert_allclose(session.token_logprobs, scored.logprobs, atol=2 * case.tolerance, rtol=0)
    other = await model.session(GenerateRequest(prompt_ids=prompt))
    other.append(given)
    step = await other.step()
    np.testing.assert_allclose(other.token_logprobs[:-1], scored.logprobs, atol=2 * case.tolerance, rtol=0)
    assert step.logprobs.raw_logprob == other.token_logprobs[-1]
    longer = await model.session(GenerateRequest(prompt_ids=prompt + given))
    assert (await longer.step()).token_id == step.token_id


@pytest.mark.feature("masks")
async def test_distributions_are_the_reference(case, model):
    if case.reference is None:
        pytest.skip(f"{case.name} has no plain reference")
    prompt = prompt_ids(model, PROMPTS[3])
    session = await model.session(GenerateRequest(prompt_ids=prompt))
    vocab_size = model.tokenizer.vocab_size
    for context in (prompt, (*prompt, 7), (*prompt, 7, 9)):
        reference = case.reference(context)
        whole = await session.logprobs()
        np.testing.assert_allclose(whole.raw_logprobs, reference, atol=case.tolerance, rtol=0)
        assert whole.log_mass == 0.0
        allowed = np.zeros(vocab_size, dtype=bool)
        allowed[5:300:3] = True
        masked = await session.logprobs(allowed)
        kept = reference[:vocab_size][allowed]
        log_mass = np.log(np.exp(kept).sum())
        assert masked.log_mass == pytest.approx(log_mass, abs=case.tolerance)
        assert (masked.masked_logprobs[:vocab_size][~allowed] == -np.inf).all()
        found = masked.masked_logprobs[:vocab_size][allowed]
        np.testing.assert_allclose(found, kept - log_mass, atol=2 * case.tolerance, rtol=0)
        likeliest = await session.logprobs(TokenMask.from_bools(allowed), k=4)
        best = np.flatnonzero(allowed)[np.argsort(-kept, kind="stable")[:4]]
        assert likeliest.token_ids.tolist() == best.tolist()
        np.testing.assert_allclose(likeliest.raw_logprobs, reference[best], atol=2 * case.tolerance, rtol=0)
        few = await session.logprobs([3, 4], k=10)
        assert sorted(few.token_ids.tolist()) == [3, 4]
        session.append([(7, 9, 11)[len(session.token_ids)]])


@pytest.mark.feature("masks")
async def test_a_constraint_and_a_mask_hold_together(model):
    session = await model.session(request(model, PROMPTS[0], constraint=Choice(["yes", "no"])))
    tokenizer = model.tokenizer
    beginnings = [
        token_id
        for token_id in range(tokenizer.vocab_size)
        if token_id not in tokenizer.special_token_ids and tokenizer.token_bytes(token_id) in (b"n", b"no")
    ]
    found = await session.logprobs(beginnings)
    assert np.flatnonzero(found.masked_logprobs > -np.inf).tolist() == beginnings
    assert (await session.step(beginnings)).token_id in beginnings
    await run_to_the_end(session)
    assert session.completion().text == "no"


async def test_forks_and_rollbacks_never_touch_each_other(case, model, open_model):
    item = request(model, PROMPTS[2], temperature=1.0, seed=5, max_tokens=40, ignore_eos=True)
    session = await model.session(item)
    for _ in range(6):
        await session.step()
    before = session.token_ids, session.token_logprobs
    forks = [session.fork() for _ in range(5)]
    await asyncio.gather(*(fork.step() for fork in forks for _ in range(1)))
    for fork in forks[:3]:
        fork.rollback(4)
        await fork.step()
    assert (session.token_ids, session.token_logprobs) == before
    assert len({fork.token_ids for fork in forks}) > 1
    # Each of them is what a fresh session with the same tokens is.
    other = open_model()
    for fork in [session, *forks]:
        expected = await other.next_tokens([(*fork.prompt_ids, *fork.token_ids)])
        found = await fork.logprobs()
        np.testing.assert_allclose(
            found.raw_logprobs, expected[0].raw_logprobs, atol=2 * case.tolerance, rtol=0
        )
        given = ScoreRequest(prompt_ids=fork.prompt_ids, continuations=(fork.token_ids,))
        (scored,) = (await other.score(given)).continuations
        np.testing.assert_allclose(fork.token_logprobs, scored.logprobs, atol=2 * case.tolerance, rtol=0)


async def test_the_same_forks_draw_the_same(model):
    item = request(model, PROMPTS[0], temperature=1.0, seed=5, max_tokens=30, ignore_eos=True)

    async def drawn() -> list[tuple[int, ...]]:
        session = await model.session(item)
        await session.step()
        forks = [session.fork(), session.fork()]
        forks.append(forks[0].fork())
        for _ in range(8):
            await asyncio.gather(*(fork.step() for fork in forks))
        return [fork.token_ids for fork in forks]

    first = await drawn()
    assert first == await drawn()
    assert len(set(first)) == 3


@WARM_AND_COLD
async def test_thousands_of_idle_sessions_cost_no_kv(case, open_model, temperature):
    """Far more sessions than sequences or KV: all of them go on where they were."""
    model = open_model(max_sequences=4, kv_tokens=512)
    prompts = [prompt_ids(model, f"{PROMPTS[0]} {number}") for number in range(40)]
    sampling = SamplingParams(temperature=temperature, seed=1)
    requests = [
        GenerateRequest(prompt_ids=prompt, sampling=sampling, max_tokens=8, ignore_eos=True)
        for prompt in prompts
    ]
    sessions = [await model.session(item) for item in requests]
    idle = [sessions[place % 40].fork() for place in range(2000)]
    for _ in range(3):
        await asyncio.gather(*(session.step() for session in sessions))
    for item, session in zip(requests, sessions, strict=True):
        alone = await run_one(model, item)
        assert session.token_ids == alone.token_ids[:3]
    assert all(session.token_ids == () for session in idle)
    late = await idle[777].logprobs(k=1)
    expected = await model.next_tokens([prompts[777 % 40]], k=1)
    assert late.token_ids.tolist() == expected[0].token_ids.tolist()


@pytest.mark.feature("masks")
async def test_next_tokens_each_under_its_own_mask(case, model):
    prefixes = [prompt_ids(model, text) for text in PROMPTS] * 2
    masks = [None if place % 3 == 0 else [place, place + 20, 200 + place] for place in range(16)]
    whole = await model.next_tokens(prefixes, masks)
    likeliest = await model.next_tokens(prefixes, masks, k=2)
    for prefix, mask, row, top in zip(prefixes, masks, whole, likeliest, strict=True):
        if case.reference is not None:
            np.testing.assert_allclose(row.raw_logprobs, case.reference(prefix), atol=case.tolerance, rtol=0)
        allowed = np.arange(len(row.raw_logprobs)) if mask is None else np.array(mask)
        assert np.isfinite(row.masked_logprobs).sum() == len(allowed)
        assert np.exp(row.masked_logprobs.astype(float)).sum() == pytest.approx(1, abs=1e-4)
        best = allowed[np.argsort(-row.raw_logprobs[allowed], kind="stable")[:2]]
        assert top.token_ids.tolist() == best.tolist()
        assert top.log_mass == pytest.approx(row.log_mass, abs=2 * case.tolerance)
    assert await model.next_tokens([]) == []


@pytest.mark.feature("cancel")
@WARM_AND_COLD
async def test_a_cancelled_step_leaves_the_session_as_it_was(model, temperature):
    item = request(model, PROMPTS[4] * 3, temperature=temperature, seed=6, ignore_eos=True)
    expected = await run_one(model, item)
    session = await model.session(item)
    while not session.is_finished:
        task = asyncio.ensure_future(session.step())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await session.step()
    assert session.token_ids == expected.token_ids


async def test_what_ends_a_session_can_be_taken_back(model):
    (eos, *_) = sorted(model.tokenizer.eos_token_ids)
    session = await model.session(request(model, PROMPTS[0], stop=("zzz",), max_tokens=5))
    session.append([5, 6, eos])
    assert session.is_finished
    with pytest.raises(InvalidRequestError, match="ended"):
        session.append([5])
    with pytest.raises(InvalidRequestError, match="ended"):
        await session.step()
    with pytest.raises(InvalidRequestError, match="settle"):
        session.completion()
    await session.settle()
    assert session.completion().finish_reason is FinishReason.STOP
    assert len(session.token_logprobs) == 3
    session.rollback(1)
    assert not session.is_finished
    session.append([7, 8, 9])
    assert session.is_finished
    await session.settle()
    assert session.completion().finish_reason is FinishReason.LENGTH


@pytest.mark.feature("masks")
async def test_a_callers_own_function_may_be_a_constraint(model):
    digits = model.tokenizer.encode("123")

    async def asynchronous(token_ids):
        await asyncio.sleep(0)
        return digits[: 1 + len(token_ids) % 2]

    def plain(token_ids):
        return digits[: 1 + len(token_ids) % 2]

    found = []
    for function in (plain, asynchronous):
        session = await model.session(
            request(model, PROMPTS[0], constraint=MaskFunction(function), max_tokens=5)
        )
        await run_to_the_end(session)
        fork = session.fork()
        fork.rollback(2)
        await fork.step()
        assert fork.token_ids == session.token_ids[:4]
        found.append(session.token_ids)
    assert found[0] == found[1]
    assert set(found[0]) <= set(digits[:2])


async def test_bad_calls_change_nothing(case, model, open_model):
    session = await model.session(request(model, PROMPTS[0], constraint=Regex("[0-9]{4}"), max_tokens=9))
    digits = model.tokenizer.encode("12")
    session.append(digits)
    state = session.token_ids
    letter = model.tokenizer.encode("a")
    with pytest.raises(ConstraintViolationError, match=str(letter[0])):
        session.append([*model.tokenizer.encode("3"), *letter])
    with pytest.raises(TokenRangeError, match=str(10**7)):
        session.append([10**7])
    with pytest.raises(InvalidRequestError, match="token ids"):
        session.append(["a"])
    with pytest.raises(InvalidRequestError, match="log-probabilities"):
        session.append(digits, logprobs=[])
    with pytest.raises(InvalidRequestError, match="taken back"):
        session.rollback(len(state) + 1)
    with pytest.raises(InvalidRequestError, match="count"):
        session.rollback(-1)
    with pytest.raises(InvalidRequestError, match="allows no token"):
        await session.step([])
    with pytest.raises(InvalidRequestError, match="mask"):
        await session.logprobs("abc")
    with pytest.raises(InvalidRequestError, match="k is 0"):
        await session.logprobs(k=0)
    task = asyncio.ensure_future(session.step())
    await asyncio.sleep(0)
    with pytest.raises(InvalidRequestError, match="middle of a step"):
        session.append(digits)
    await task
    session.rollback(1)
    assert session.token_ids == state
    session.append(model.tokenizer.encode("34"))
    assert session.is_finished
    await session.settle()
    assert session.completion().text == "1234"
    with pytest.raises(InvalidRequestError, match="2 prefixes and 1 masks"):
        await model.next_tokens([[1], [2]], [None])
    with pytest.raises(InvalidRequestError, match="prompt is empty"):
        await model.next_tokens([[]])
