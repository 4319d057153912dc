"""A connection: its greeting, its questions, its limits, its end, and whatever a client may send."""

from __future__ import annotations

import asyncio
import copy
import json
import random

import msgspec
import numpy as np
import pytest
from fakes.lmtp_peer import FakeModels, HeldEngine, Peer, fake_models, generate

from dcmodel.mask import TokenMask
from dcmodel.types import ScoreRequest
from lmql_backends.lmtp.protocol import distributions, masks, tokenizers
from lmql_backends.lmtp.protocol.codec import JSON, MSGPACK
from lmql_backends.lmtp.protocol.messages import (
    Append,
    BadFrame,
    Cancel,
    Credit,
    Describe,
    Described,
    Distributions,
    Done,
    Failed,
    Fork,
    GetTokenizer,
    GoAway,
    Hello,
    NextTokens,
    Open,
    Request,
    Rollback,
    Score,
    Step,
    Tokens,
    Welcome,
)
from lmql_backends.lmtp.protocol.results import score_result_of

FOX = "The quick brown fox"
LONG = {"max_tokens": 300, "ignore_eos": True}


@pytest.fixture
async def models():
    models = fake_models(max_sequences=40, kv_tokens=40 * 200)
    yield models
    await models.fake.aclose()


@pytest.fixture
async def peer(models):
    peer = Peer(models)
    yield peer
    await peer.aclose()
    assert models.users == 0


# -- the greeting ------------------------------------------------------------------------------------


async def test_a_server_says_who_it_is_and_what_it_takes(models):
    peer = Peer(models, max_streams=7, max_frame_bytes=1000)
    await peer.until(lambda: bool(peer.messages))
    (welcome,) = peer.messages
    assert isinstance(welcome, Welcome)
    assert (welcome.version, welcome.max_streams, welcome.max_frame_bytes) == (2, 7, 1000)
    assert welcome.models == ["fake"]
    assert welcome.server.startswith("dcmodel")


@pytest.mark.parametrize("versions", [[], [1], [3, 4], [10**18]])
async def test_a_client_of_another_version_is_told_so(models, versions):
    peer = Peer(models, greets=False)
    peer.say(Hello(versions=versions), generate(1, FOX))
    await peer.until(lambda: len(peer.messages) == 2)
    assert all(isinstance(message, BadFrame) for message in peer.messages)
    peer.say(Hello(versions=[1, 2, 3]), generate(1, FOX))
    assert isinstance((await peer.answers(1, 2))[1], Done)


async def test_nothing_is_done_before_the_greeting(models):
    peer = Peer(models, greets=False)
    peer.say(generate(1, FOX), Describe(id=2), Step(id=3))
    await peer.until(lambda: len(peer.messages) == 3)
    assert [(type(message), message.id) for message in peer.messages] == [
        (BadFrame, 1),
        (BadFrame, 2),
        (BadFrame, 3),
    ]
    assert models.users == 0


# -- questions ---------------------------------------------------------------------------------------


async def test_a_model_is_described(models, peer):
    peer.say(Describe(id=1), Describe(id=2, model="fake"), Describe(id=3, model="other"))
    described = await peer.answer(1)
    assert isinstance(described, Described)
    assert described.fingerprint == models.fake.tokenizer.fingerprint
    assert (described.name, described.vocab_size) == ("fake", models.fake.info.vocab_size)
    assert (await peer.answer(2)).name == "fake"
    assert (await peer.failed(3)).code == "model_not_found"


async def test_a_tokenizer_travels(models, peer):
    peer.say(GetTokenizer(id=1))
    found = tokenizers.from_wire(await peer.answer(1))
    assert found.fingerprint == models.fake.tokenizer.fingerprint
    assert found.encode_prompt(FOX) == models.fake.tokenizer.encode_prompt(FOX)


async def test_scores_are_those_of_the_model(models, peer):
    request = ScoreRequest(
        prompt_ids=(5, 6, 7), continuations=((8, 9), (8, 10), (8, 9)), top_logprobs=2, prompt_logprobs=1
    )
    expected = await models.fake.score(request)
    peer.say(
        Score(
            id=1, prompt=[5, 6, 7], continuations=[[8, 9], [8, 10], [8, 9]], top_logprobs=2, prompt_logprobs=1
        ),
        Score(id=2, prompt=[5], continuations=[[]]),
        Score(id=3, prompt=[5], continuations=[[99_999]]),
        Score(id=4, prompt=[], continuations=[[5]]),
    )
    found = score_result_of(request, await peer.answer(1))
    assert found.continuations == expected.continuations
    assert found.prompt == expected.prompt
    assert [(await peer.failed(i)).code for i in (2, 3, 4)] == [
        "invalid_request",
        "token_range",
        "invalid_request",
    ]


async def test_distributions_are_those_of_the_model(models, peer):
    mask = TokenMask.from_ids([40, 41, 50], models.fake.tokenizer.vocab_size)
    expected = await models.fake.next_tokens([[5, 6], [7]], [mask, None])
    peer.say(
        NextTokens(id=1, prefixes=[[5, 6], [7]], masks=[masks.to_wire(mask), None]),
        NextTokens(id=2, prefixes=[[5, 6], [7]], masks=[None], k=3),
        NextTokens(id=3, prefixes=[[]], k=3),
        NextTokens(id=4, prefixes=[], k=3),
    )
    answer = await peer.answer(1)
    assert isinstance(answer, Distributions)
    for found, wanted in zip(map(distributions.from_wire, answer.items), expected, strict=True):
        assert np.array_equal(found.raw_logprobs, wanted.raw_logprobs)
        assert np.array_equal(found.masked_logprobs, wanted.masked_logprobs)
    assert (await peer.failed(2)).code == (await peer.failed(3)).code == "invalid_request"
    assert (await peer.answer(4)).items == []


async def test_a_question_can_be_cancelled():
    models = fake_models(engine=HeldEngine, hold_at=0)
    peer = Peer(models)
    peer.say(
        Score(id=1, prompt=[5, 6], continuations=[[7, 8]]), Score(id=2, prompt=[5, 7], continuations=[[7]])
    )
    await asyncio.to_thread(models.engine.is_held.wait)
    peer.say(Cancel(id=1), Cancel(id=1))
    assert (await peer.failed(1)).code == "request_cancelled"
    models.engine.may_go.set()
    await peer.answer(2)
    await peer.connection.wait_idle()
    assert len(peer.of(1)) == 1
    assert models.users == 0
    await peer.aclose()
    await models.fake.aclose()


# -- limits ------------------------------------------------------------------------------------------


async def test_a_number_that_is_live_is_not_given_twice(peer):
    peer.say(
        generate(1, FOX, max_tokens=100, ignore_eos=True),
        generate(1, FOX),
        Open(id=1, request=Request(prompt=FOX)),
    )
    peer.say(Describe(id=1), Score(id=1, prompt=[5], continuations=[[5]]))
    answers = await peer.answers(1, 5)
    assert [type(answer) for answer in answers] == [Failed] * 4 + [Done]
    assert answers[-1].tokens == len(peer.token_ids(1)) == 100


async def test_a_number_is_free_again_after_the_end(peer):
    peer.say(generate(1, FOX))
    await peer.done(1)
    peer.say(Describe(id=1))
    assert isinstance((await peer.answers(1, 2))[1], Described)


async def test_messages_about_nobody_are_ignored(peer):
    peer.say(Cancel(id=5), Credit(id=5, tokens=3), Append(id=5, token_ids=[1]), Rollback(id=5, count=1))
    peer.say(Fork(id=5, to=6), generate(1, FOX), Credit(id=1, tokens=5))
    await peer.done(1)
    assert peer.of(5) == peer.of(6) == []
    peer.say(Step(id=6))
    assert (await peer.failed(6)).code == "invalid_request"


async def test_messages_of_another_kind_of_conversation_are_ignored(peer):
    peer.say(generate(1, FOX, **LONG), Append(id=1, token_ids=[5]), Fork(id=1, to=2), Step(id=1))
    assert (await peer.answers(1, 2))[0].code == "invalid_request"
    assert (await peer.answers(1, 2))[1].tokens == 300


async def test_more_conversations_than_allowed_are_refused(models):
    peer = Peer(models, max_streams=3)
    peer.say(*(generate(i, FOX, credit=0, **LONG) for i in range(1, 4)), generate(4, FOX), Describe(id=5))
    failed = await peer.failed(4)
    assert (failed.code, failed.retryable, failed.retry_after) == ("overloaded", True, 1.0)
    assert (await peer.failed(5)).code == "overloaded"
    peer.say(Cancel(id=1))
    await peer.done(1)
    peer.say(generate(6, FOX))
    await peer.done(6)
    await peer.aclose()


@pytest.mark.parametrize(
    "message",
    [
        generate(1, FOX, stop=["x"] * 300),
        generate(1, FOX, stop=["x" * 70_000]),
        generate(1, FOX, top_logprobs=1001),
        generate(1, "x" * 100_000),
        generate(1, list(range(40, 300)) * 10),
        Open(id=1, request=Request(prompt=FOX), forked=[0, 1]),
        Open(id=1, request=Request(prompt=FOX), forked=[2**30]),
        Score(id=1, prompt=[5], continuations=[[5]] * 70_000),
        Score(id=1, prompt=[5], continuations=[[5] * 100] * 1000, top_logprobs=1000),
        NextTokens(id=1, prefixes=[[5]] * 5000),
        NextTokens(id=1, prefixes=[[5]], k=1001),
    ],
    ids=lambda message: type(message).__name__,
)
async def test_what_is_too_much_is_refused(peer, message):
    peer.say(message, generate(2, FOX))
    assert (await peer.failed(1)).code in ("invalid_request", "context_length")
    await peer.done(2)


# -- the end -----------------------------------------------------------------------------------------


async def test_a_server_that_goes_away_ends_what_runs_and_takes_nothing_new(peer):
    peer.say(generate(1, FOX, **LONG))
    await peer.tokens(1, 1)
    peer.connection.refuse_new("it is being updated", retry_after=2.5)
    peer.say(generate(2, FOX), Score(id=3, prompt=[5], continuations=[[5]]), Cancel(id=77))
    for id_ in (2, 3):
        failed = await peer.failed(id_)
        assert (failed.code, failed.retry_after) == ("overloaded", 2.5)
    assert GoAway(reason="it is being updated", retry_after=2.5) in peer.messages
    assert not peer.connection.is_idle
    await peer.connection.wait_idle()
    assert (await peer.done(1)).tokens == 300
    assert peer.connection.is_idle


async def test_nothing_is_heard_or_said_after_the_end(models):
    peer = Peer(models)
    peer.say(generate(1, FOX, **LONG), Describe(id=2))
    await peer.aclose()
    await peer.aclose()
    peer.say(generate(3, FOX), Hello(versions=[2]))
    assert peer.frames == []
    assert peer.connection.is_idle
    assert models.users == 0


class BrokenModels(FakeModels):
    """Fails in ways that nobody foresaw."""

    def use(self, name):
        raise OSError("the disk with /secret/path is gone")


async def test_an_unforeseen_error_is_logged_and_tells_the_client_nothing_of_the_inside(models, caplog):
    peer = Peer(BrokenModels(models.fake, models.engine))
    peer.say(generate(1, FOX), Describe(id=2), Open(id=3, request=Request(prompt=FOX)))
    for id_ in (1, 2, 3):
        failed = await peer.failed(id_)
        assert failed.code == "engine"
        assert "secret" not in failed.message
    assert "secret" in caplog.text
    await peer.aclose()


# -- whatever a client sends -------------------------------------------------------------------------

VALUES = [-1, 0, 1, 2**31, 2**53, 2**64, 0.5, 1e308, True, None, "", "x", "\ud800", b"\xff", [], [[]], {}]
VALUES += [[-1], [2**40], ["x"], [None], {"kind": "regex"}, {"a": {"b": [1]}}, "\u0000", [5] * 600]
FIELDS = {
    "hello": {"versions": [2]},
    "describe": {"id": 1},
    "gettokenizer": {"id": 1},
    "generate": {"id": 1, "request": {"prompt": [5, 6], "max_tokens": 3}},
    "score": {"id": 1, "prompt": [5], "continuations": [[6]]},
    "nexttokens": {"id": 1, "prefixes": [[5]], "k": 2},
    "open": {"id": 1, "request": {"prompt": [5, 6], "max_tokens": 3}},
    "append": {"id": 7, "token_ids": [5]},
    "rollback": {"id": 7, "count": 1},
    "fork": {"id": 7, "to": 8},
    "step": {"id": 7},
    "look": {"id": 7},
    "settle": {"id": 7},
    "cancel": {"id": 1},
    "credit": {"id": 1, "tokens": 3},
}
OPTIONAL = ("sampling", "constraint", "stop", "include_stop", "max_tokens", "logprobs", "top_logprobs")
OPTIONAL += ("healed", "canonical", "ignore_eos", "model", "fingerprint", "received", "credit", "forked")
OPTIONAL += (
    "mask",
    "masks",
    "k",
    "known",
    "attempt",
    "prompt",
    "prefixes",
    "continuations",
    "id",
    "type",
    "to",
)
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "logit_bias", "seed")


def nonsense(rng):
    """A message with one wrong thing in it, as plain values."""
    kind = rng.choice(list(FIELDS))
    message = copy.deepcopy({"type": kind, **FIELDS[kind]})
    if "id" in message and message["id"] == 1:
        message["id"] = rng.randrange(1000, 2**40)
    target = message
    if "request" in message and rng.random() < 0.8:
        target = message["request"]
    if rng.random() < 0.2:
        target["sampling"] = {rng.choice(SAMPLING): rng.choice(VALUES)}
    else:
        target[rng.choice(OPTIONAL)] = rng.choice(VALUES)
    if kind in ("generate", "open"):
        message["request"].setdefault("max_tokens", 3)
    return message


@pytest.mark.parametrize("seed", range(6))
async def test_no_nonsense_ends_the_connection_or_another_stream(models, seed):
    rng = random.Random(seed)
    peer = Peer(models, codec=JSON)
    good = generate(1, FOX, max_tokens=150, ignore_eos=True)
    peer.say(good)
    expected = (await peer.done(1)) and peer.token_ids(1)
    peer.say(generate(2, FOX, max_tokens=150, ignore_eos=True, credit=1))
    peer.say(Open(id=7, request=Request(prompt=FOX)))
    for _ in range(60):
        items = [nonsense(rng) for _ in range(4)]
        items.insert(2, {"type": "credit", "id": 2, "tokens": 2})
        peer.say_raw(json.dumps(items, default=repr))
        await asyncio.sleep(0)
    peer.say(Credit(id=2, tokens=1000))
    await peer.done(2)
    assert peer.token_ids(2) == expected
    peer.say(generate(3, FOX))
    await peer.done(3)
    ends = [message.id for message in peer.messages if isinstance(message, Done)]
    assert len(ends) == len(set(ends))
    for place, message in enumerate(peer.messages):
        if isinstance(message, Done):
            later = peer.messages[place + 1 :]
            assert not any(isinstance(other, Tokens) and other.id == message.id for other in later)
    await peer.aclose()
    assert models.users == 0
    assert peer.connection.is_idle


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=lambda codec: codec.name)
async def test_what_cannot_be_read_is_told_and_the_rest_is_done(models, codec):
    peer = Peer(models, codec=codec)
    good = msgspec.to_builtins(generate(1, [5, 6]))
    frame = [{"type": "generate", "id": 9, "request": 5}, good, {"type": "dance"}, 17]
    encode = msgspec.json.encode if codec is JSON else msgspec.msgpack.encode
    peer.say_raw(encode(frame))
    await peer.done(1)
    complaints = [message for message in peer.messages if isinstance(message, BadFrame)]
    assert [complaint.id for complaint in complaints] == [9, None, None]
    await peer.aclose()
