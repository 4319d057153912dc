"""Sessions of a connection: the same as in process, in order, batched, and each alone with its troubles."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from fakes.lmtp_peer import HeldCache, HeldEngine, Peer, fake_models

from dcmodel.constraints import Regex
from dcmodel.mask import TokenMask
from dcmodel.types import GenerateRequest, SamplingParams
from lmql_backends.lmtp.protocol import distributions, masks
from lmql_backends.lmtp.protocol.columns import logprobs_of
from lmql_backends.lmtp.protocol.messages import (
    Append,
    Cancel,
    Failed,
    Fork,
    Look,
    Looked,
    Mask,
    Open,
    Opened,
    Request,
    Rollback,
    Settle,
    Step,
    Stepped,
)

FOX = "The quick brown fox"
SEEDED = SamplingParams(temperature=1.0, seed=7)


@pytest.fixture
async def models():
    models = fake_models(max_sequences=40, kv_tokens=40 * 200, idle_tokens=4000)
    yield models
    await models.fake.aclose()


@pytest.fixture
async def peer(models):
    peer = Peer(models)
    yield peer
    await peer.aclose()
    assert models.users == 0


def open_(id_, *, forked=(), **options):
    options.setdefault("sampling", SEEDED)
    options.setdefault("max_tokens", 50)
    return Open(id=id_, request=Request(prompt=FOX, **options), forked=list(forked))


async def local_session(models, **options):
    options.setdefault("sampling", SEEDED)
    options.setdefault("max_tokens", 50)
    prompt = tuple(models.fake.tokenizer.encode_prompt(FOX))
    return await models.fake.session(GenerateRequest(prompt_ids=prompt, **options))


async def test_a_session_is_the_one_of_the_model(models, peer):
    vocab_size = models.fake.tokenizer.vocab_size
    mask = TokenMask.from_ids(range(40, 90), vocab_size)
    local = await local_session(models)
    expected = [await local.step(), await local.step(mask), await local.step(sampling=SamplingParams())]
    local.append([50, 51])
    look = await local.logprobs(mask)
    local.rollback(3)
    expected.append(await local.step(attempt=1))
    peer.say(
        open_(1),
        Step(id=1),
        Step(id=1, mask=masks.to_wire(mask), known=1),
        Step(id=1, sampling=SamplingParams(), known=2),
        Append(id=1, token_ids=[50, 51]),
        Look(id=1, mask=masks.to_wire(mask), known=3),
        Rollback(id=1, count=3),
        Step(id=1, attempt=1, known=2),
    )
    opened, *answers = await peer.answers(1, 6)
    assert opened == Opened(id=1, max_tokens=50)
    looked = answers.pop(3)
    assert isinstance(looked, Looked)
    assert looked.columns.token_ids == [50, 51]
    found = distributions.from_wire(looked.distribution)
    assert np.array_equal(found.masked_logprobs, look.masked_logprobs)
    for step, answer in zip(expected, answers, strict=True):
        assert isinstance(answer, Stepped)
        assert answer.columns.token_ids == [step.token_id]
        assert answer.columns.texts == [step.text]
        assert logprobs_of(answer.columns) == (step.logprobs,)


async def test_appended_tokens_are_scored_with_the_next_step_or_when_settled(models, peer):
    local = await local_session(models)
    local.append([50, 51, 52])
    await local.settle()
    peer.say(open_(1), Append(id=1, token_ids=[50, 51]), Step(id=1))
    _, stepped = await peer.answers(1, 2)
    assert stepped.columns.token_ids[:2] == [50, 51]
    assert len(stepped.columns.raw) == 3
    peer.say(Rollback(id=1, count=1), Append(id=1, token_ids=[52]), Settle(id=1))
    settled = (await peer.answers(1, 3))[2]
    assert settled.columns.token_ids == [50, 51, 52]
    assert logprobs_of(settled.columns) == local.known(0)
    assert settled.stop_reason == settled.finish_reason == ""


async def test_the_end_of_a_session_is_told(peer):
    peer.say(open_(1, constraint=dict(Regex("yes").to_dict())), *[Step(id=1)] * 5)
    answers = (await peer.answers(1, 6))[1:]
    stepped = [answer for answer in answers if isinstance(answer, Stepped)]
    assert (stepped[-1].finish_reason, stepped[-1].stop_reason) == ("stop", "constraint")
    assert all(not answer.finish_reason for answer in stepped[:-1])
    after = answers[len(stepped) :]
    assert after
    assert {answer.code for answer in after} == {"invalid_request"}


async def test_steps_of_one_frame_share_a_forward(models, peer):
    peer.say(*(open_(i) for i in range(1, 17)))
    await asyncio.gather(*(peer.answer(i) for i in range(1, 17)))
    peer.say(*(Step(id=i) for i in range(1, 17)))
    await asyncio.gather(*(peer.answers(i, 2) for i in range(1, 17)))
    before, frames = len(models.engine.batches), len(peer.frames)
    peer.say(*(Step(id=i, known=1) for i in range(1, 17)))
    await asyncio.gather(*(peer.answers(i, 3) for i in range(1, 17)))
    assert len(models.engine.batches) == before + 1
    assert len(peer.frames) == frames + 1


async def test_forks_draw_what_forks_in_process_draw(models, peer):
    local = await local_session(models)
    await local.step()
    one, two = local.fork(), local.fork()
    deep = two.fork()
    expected = [(await session.step()).token_id for session in (local, one, two, deep)]
    peer.say(open_(1), Step(id=1), Fork(id=1, to=2), Fork(id=1, to=3), Fork(id=3, to=4))
    peer.say(*(Step(id=i, known=1) for i in (1, 2, 3, 4)))
    answers = [(await peer.answers(1, 3))[2], *[await peer.answer(i) for i in (2, 3, 4)]]
    assert [answer.columns.token_ids[-1] for answer in answers] == expected


async def test_a_session_that_is_built_anew_draws_the_same_numbers(models, peer):
    local = await local_session(models)
    first = (await local.step()).token_id
    local.fork()
    two = local.fork()
    deep = two.fork()
    later = deep.fork()
    expected = [(await session.step()).token_id for session in (local, two, deep, later)]
    paths = {1: [2], 2: [2, 1], 3: [2, 1, 1], 4: [2, 1, 1, 0]}
    for id_, path in paths.items():
        peer.say(open_(id_, forked=path), Append(id=id_, token_ids=[first]), Step(id=id_))
    assert [(await peer.answers(i, 2))[1].columns.token_ids[-1] for i in paths] == expected
    again = local.fork(), deep.fork()
    peer.say(Fork(id=1, to=11), Fork(id=3, to=13), Step(id=11), Step(id=13))
    expected = [(await session.step()).token_id for session in again]
    assert [(await peer.answer(i)).columns.token_ids[-1] for i in (11, 13)] == expected


# -- what goes wrong ---------------------------------------------------------------------------------


async def test_an_error_is_the_answer_to_the_next_message_that_has_one(models, peer):
    letters = dict(Regex("[a-z]{1,40}").to_dict())
    good = models.fake.tokenizer.encode("a")
    peer.say(open_(1, constraint=letters), Append(id=1, token_ids=good), Step(id=1))
    peer.say(
        Append(id=1, token_ids=[15]),  # no letter
        Append(id=1, token_ids=good),  # not done either
        Rollback(id=1, count=99),
        Fork(id=1, to=2),
        Step(id=1),
        Step(id=1),
        Step(id=2),
        Step(id=2),
    )
    opened, before, failed, after = await peer.answers(1, 4)
    assert isinstance(opened, Opened)
    assert failed.code == "constraint_violation"
    assert len(after.columns.token_ids) == len(before.columns.token_ids) + 1
    failed, forked = await peer.answers(2, 2)
    assert failed.code == "constraint_violation"
    assert len(forked.columns.token_ids) == len(after.columns.token_ids)


async def test_a_session_that_cannot_be_opened_answers_everything_with_its_error(peer):
    peer.say(
        open_(1, constraint={"kind": "regex", "pattern": "("}),
        Append(id=1, token_ids=[5]),
        Step(id=1),
        Fork(id=1, to=2),
        Step(id=2),
    )
    assert {answer.code for answer in await peer.answers(1, 2)} == {"invalid_constraint"}
    assert (await peer.failed(2)).code == "invalid_constraint"
    peer.say(Look(id=1), Look(id=2))
    assert (await peer.answers(1, 3))[2].code == "invalid_constraint"
    peer.say(Cancel(id=1), Cancel(id=2), Look(id=1))
    assert (await peer.answers(1, 4))[3].code == "invalid_request"


NONSENSE = {
    "unknown session": Step(id=99),
    "unknown form of mask": Step(id=1, mask=Mask(form="hex", data=b"1234")),
    "short mask": Step(id=1, mask=Mask(form="bits", data=b"1234")),
    "odd mask": Step(id=1, mask=Mask(form="allow", data=b"123")),
    "mask beyond the vocabulary": Step(id=1, mask=Mask(form="allow", data=b"\xff\xff\xff\x7f")),
    "mask of nothing": Step(id=1, mask=Mask(form="allow", data=b"")),
    "too much known": Step(id=1, known=7),
    "attempt": Step(id=1, attempt=2**30),
    "k of nothing": Look(id=1, k=0),
    "k of too much": Look(id=1, k=10**9),
}


@pytest.mark.parametrize("name", NONSENSE)
async def test_a_bad_question_fails_and_the_session_goes_on(peer, name):
    bad = NONSENSE[name]
    peer.say(open_(1), bad)
    failed = (await peer.answers(bad.id, 1 if bad.id == 99 else 2))[-1]
    assert isinstance(failed, Failed)
    assert failed.code in ("invalid_request", "token_range")
    peer.say(Step(id=1))
    await peer.until(lambda: any(isinstance(message, Stepped) for message in peer.of(1)))


@pytest.mark.parametrize("token_ids", [[99_999], [5, 99_999], [5] * 100])
async def test_a_bad_append_changes_nothing(peer, token_ids):
    peer.say(open_(1), Append(id=1, token_ids=token_ids), Step(id=1), Step(id=1))
    _, failed, stepped = await peer.answers(1, 3)
    assert isinstance(failed, Failed)
    assert len(stepped.columns.token_ids) == 1


async def test_a_number_that_is_taken_is_no_fork(peer):
    peer.say(open_(1), open_(2), Step(id=2), Fork(id=1, to=2), Step(id=1), Step(id=2, known=1))
    assert (await peer.answers(1, 2))[1].code == "invalid_request"
    assert [type(answer) for answer in await peer.answers(2, 3)] == [Opened, Stepped, Stepped]


async def test_a_fork_too_many_is_an_error_of_its_own(models):
    peer = Peer(models, max_streams=2)
    peer.say(open_(1), Fork(id=1, to=2), Fork(id=1, to=3), Step(id=1), Step(id=2), Step(id=3))
    assert (await peer.failed(3)).code == "overloaded"
    assert isinstance((await peer.answers(1, 2))[1], Stepped)
    assert isinstance(await peer.answer(2), Stepped)
    await peer.aclose()


async def test_more_than_may_wait_ends_the_session(models):
    peer = Peer(models, max_queued=10)
    peer.say(open_(1), *[Step(id=1)] * 20, open_(2), Step(id=2))
    assert (await peer.answers(1, 12))[0].code == "overloaded"
    assert isinstance((await peer.answers(2, 2))[1], Stepped)
    await peer.aclose()
    assert models.users == 0


# -- the end -----------------------------------------------------------------------------------------


async def test_a_closed_session_lets_go_of_its_model(models, peer):
    peer.say(open_(1), Fork(id=1, to=2), Step(id=2))
    await peer.answer(2)
    assert models.users == 1
    peer.say(Cancel(id=1), Step(id=2, known=1))
    assert isinstance((await peer.answers(2, 2))[1], Stepped)
    assert models.users == 1
    peer.say(Cancel(id=2))
    await peer.connection.wait_idle()
    assert models.users == 0
    count = len(peer.messages)
    peer.say(Cancel(id=2), Append(id=2, token_ids=[5]), Step(id=2))
    await peer.answers(2, 3)
    assert len(peer.messages) == count + 1


async def test_forks_are_made_before_their_parent_closes(models, peer):
    local = await local_session(models)
    await local.step()
    expected = (await local.fork().step()).token_id
    peer.say(open_(1), Step(id=1), Fork(id=1, to=2), Step(id=1), Cancel(id=1), Step(id=2, known=1))
    assert (await peer.answer(2)).columns.token_ids == [expected]
    assert peer.of(1) == []
    peer.say(Cancel(id=2))
    await peer.connection.wait_idle()
    assert models.users == 0


@pytest.mark.parametrize("is_gone", [False, True])
async def test_a_session_closed_in_the_middle_of_a_step_frees_its_place(is_gone):
    models = fake_models(engine=HeldEngine, hold_at=1, max_sequences=1)
    peer = Peer(models)
    peer.say(open_(1), Step(id=1), Step(id=1))
    await asyncio.to_thread(models.engine.is_held.wait)
    if is_gone:
        closing = asyncio.ensure_future(peer.aclose())
        await asyncio.sleep(0)
        models.engine.may_go.set()
        await closing
        peer = Peer(models)
    else:
        peer.say(Cancel(id=1))
        models.engine.may_go.set()
    peer.say(open_(2), Step(id=2))
    assert isinstance((await peer.answers(2, 2))[1], Stepped)
    assert len([message for message in peer.of(1) if not isinstance(message, Opened)]) <= 1
    await peer.aclose()
    assert models.users == 0
    await models.fake.aclose()


async def test_a_session_that_still_opens_can_be_left():
    cache = HeldCache()
    models = fake_models(cache=cache)
    peer = Peer(models)
    peer.say(open_(1, constraint=dict(Regex("[a-z]+").to_dict())), Fork(id=1, to=2), Step(id=2))
    await asyncio.to_thread(cache.is_held.wait)
    closing = asyncio.ensure_future(peer.aclose())
    await asyncio.sleep(0)
    cache.may_go.set()
    await closing
    assert models.users == 0
    assert peer.of(2) == []
    await models.fake.aclose()


async def test_a_session_between_steps_is_idle(peer):
    peer.say(open_(1), Step(id=1))
    await peer.answers(1, 2)
    await peer.connection.wait_idle()
    assert peer.connection.is_idle
    peer.connection.refuse_new("draining")
    peer.say(Step(id=1), Fork(id=1, to=2), Step(id=2), open_(3))
    assert isinstance((await peer.answers(1, 3))[2], Stepped)
    assert isinstance(await peer.answer(2), Stepped)
    assert (await peer.failed(3)).code == "overloaded"
