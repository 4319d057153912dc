"""Streams of a connection: the same tokens as in process, resumed, bounded by credit, cancelled anywhere."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import asynccontextmanager

import pytest
from fakes.lmtp_peer import FakeModels, HeldCache, HeldEngine, Peer, fake_models, generate
from fakes.scripted_model import ScriptedModel
from fakes.served import ServedModels

from dcmodel.constraints import JsonSchema, Regex
from dcmodel.types import GenerateRequest, SamplingParams
from lmql_backends.lmtp.protocol.codec import JSON, MSGPACK
from lmql_backends.lmtp.protocol.messages import (
    Cancel,
    Credit,
    Done,
    Failed,
    Fork,
    Open,
    Request,
    Score,
    Step,
    Tokens,
)
from lmql_backends.lmtp.protocol.results import completion_of
from lmql_backends.lmtp.server.streams import MAX_GATHERED

FOX = "The quick brown fox"
LONG = {"max_tokens": 300, "ignore_eos": True}
WORDS = Regex("([a-z]{2,6} ){20,30}[.]")


@pytest.fixture
async def models():
    models = fake_models(max_sequences=40, kv_tokens=40 * 400)
    yield models
    await models.fake.aclose()


@pytest.fixture
async def peer(models):
    peer = Peer(models)
    yield peer
    await peer.aclose()
    assert models.users == 0


def local_request(models, prompt, **options):
    """The same request as `generate` makes it, for the model itself."""
    options.setdefault("max_tokens", 12)
    if isinstance(prompt, str):
        prompt = models.fake.tokenizer.encode_prompt(prompt)
    if isinstance(options.get("constraint"), dict):
        raise AssertionError("give the constraint itself")
    return GenerateRequest(prompt_ids=tuple(prompt), **options)


def sent(options):
    """Options of a local request as those of a message."""
    found = dict(options)
    if "constraint" in found:
        found["constraint"] = dict(found["constraint"].to_dict())
    if "stop" in found:
        found["stop"] = list(found["stop"])
    return found


SCHEMA = JsonSchema(
    {
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}},
        "required": ["a"],
        "additionalProperties": False,
    }
)
SEEDED = SamplingParams(temperature=1.0, seed=7)
KINDS = {
    "greedy": {},
    "sampled": {"sampling": SamplingParams(temperature=1.0, seed=7, top_p=0.9)},
    "constrained": {"constraint": Regex("[a-z ]{3,9}[.]"), "sampling": SEEDED},
    "forced": {"constraint": Regex("The quick (brown|lazy) fox jumps over."), "max_tokens": 40},
    "schema": {"constraint": SCHEMA, "max_tokens": 30},
    "stop": {"stop": ("e", "qu"), "sampling": SEEDED, "max_tokens": 30},
    "tops": {"top_logprobs": 3},
    "no logprobs": {"logprobs": False},
}


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=lambda codec: codec.name)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_gives_what_the_model_gives(models, kind, codec):
    peer = Peer(models, codec=codec)
    options = KINDS[kind]
    request = local_request(models, FOX, **options)
    stream = models.fake.generate(request)
    steps = [step async for step in stream]
    expected = await stream.completion()
    peer.say(generate(1, FOX, **sent(options)))
    done = await peer.done(1)
    found = peer.steps(1)
    assert [(step.token_id, step.text, step.forced) for step in found] == [
        (step.token_id, step.text, step.forced) for step in steps
    ]
    assert [step.logprobs for step in found] == [step.logprobs for step in steps]
    completion = completion_of(request, found, done)
    assert completion.text == expected.text
    assert completion.parsed == expected.parsed
    assert completion.certificate == expected.certificate
    assert (completion.finish_reason, completion.stop_reason) == (
        expected.finish_reason,
        expected.stop_reason,
    )
    await peer.aclose()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_goes_on_behind_what_the_client_has(models, peer, kind):
    options = KINDS[kind]
    peer.say(generate(0, FOX, **sent(options)))
    whole = await peer.done(0)
    ids = peer.token_ids(0)
    text = "".join(step.text for step in peer.steps(0)) + whole.text
    for received in range(1, len(ids) + 1):
        peer.say(generate(received, FOX, received=ids[:received], **sent(options)))
        done = await peer.done(received)
        assert peer.token_ids(received) == ids[received:]
        assert (done.tokens, done.stop_reason) == (len(ids), whole.stop_reason)
        assert done.whole_text == text


async def test_tokens_of_one_step_leave_in_one_frame(models):
    peer = Peer(models)
    peer.say(*(generate(i, [40 + i, 60], **LONG) for i in range(1, 33)))
    await asyncio.gather(*(peer.done(i) for i in range(1, 33)))
    frames = [frame for frame in peer.frames if any(isinstance(message, Tokens) for message in frame)]
    assert len(frames) < 500  # of 9,600 tokens
    full = [frame for frame in frames if sum(isinstance(message, Tokens) for message in frame) == 32]
    assert len(full) > len(frames) / 2
    for frame in frames:
        ids = [message.id for message in frame if isinstance(message, Tokens)]
        assert len(ids) == len(set(ids))
    await peer.aclose()


async def test_no_more_tokens_come_than_were_granted(peer):
    peer.say(generate(1, FOX, max_tokens=50, ignore_eos=True, credit=3), generate(2, FOX))
    await peer.done(2)
    await peer.tokens(1, 3)
    assert len(peer.token_ids(1)) == 3
    peer.say(Credit(id=1, tokens=4))
    await peer.tokens(1, 7)
    peer.say(generate(3, FOX))
    await peer.done(3)
    assert len(peer.token_ids(1)) == 7
    peer.say(Credit(id=1, tokens=1000))
    assert (await peer.done(1)).tokens == 50
    assert len(peer.token_ids(1)) == 50


async def test_a_stream_that_needs_no_more_credit_ends(peer):
    peer.say(generate(1, FOX, max_tokens=5, ignore_eos=True, credit=5))
    assert (await peer.done(1)).tokens == 5


async def test_a_stream_without_credit_can_be_cancelled(peer):
    peer.say(generate(1, FOX, credit=0, **LONG), generate(2, FOX))
    await peer.done(2)
    assert not peer.token_ids(1)
    peer.say(Cancel(id=1))
    done = await peer.done(1)
    assert done.finish_reason == "cancelled"
    assert done.tokens == len(peer.token_ids(1))


async def test_a_slow_reader_holds_up_nobody(models):
    slow, quick = Peer(models), Peer(models)
    slow.say(generate(1, FOX, **LONG))
    await slow.tokens(1, 1)
    slow.connection.pause()
    before = len(slow.frames)
    quick.say(*(generate(i, FOX, max_tokens=30) for i in range(1, 6)))
    await asyncio.gather(*(quick.done(i) for i in range(1, 6)))
    assert len(slow.frames) == before
    slow.connection.resume()
    assert (await slow.done(1)).tokens == len(slow.token_ids(1)) == 300
    await asyncio.gather(slow.aclose(), quick.aclose())


# -- cancelling --------------------------------------------------------------------------------------


class SlowModels(FakeModels):
    """A model that is being loaded."""

    def __init__(self, inner):
        super().__init__(inner.fake, inner.engine)
        self.asked = asyncio.Event()
        self.loaded = asyncio.Event()

    @asynccontextmanager
    async def use(self, name):
        async with super().use(name) as served:
            self.asked.set()
            await self.loaded.wait()
            yield served


async def held(phase):
    """A peer whose stream 1 stands in a phase, its models, and what lets it go on."""
    rule = dict(WORDS.to_dict())
    if phase == "load":
        models = SlowModels(fake_models(max_sequences=1))
        peer = Peer(models)
        peer.say(generate(1, FOX, **LONG))
        await models.asked.wait()
        return peer, models, models.loaded.set
    if phase == "compile":
        cache = HeldCache()
        models = fake_models(cache=cache, max_sequences=1)
        peer = Peer(models)
        peer.say(generate(1, FOX, constraint=rule, max_tokens=300))
        await asyncio.to_thread(cache.is_held.wait)
        return peer, models, cache.may_go.set
    hold_at = {"prefill": 0, "decode": 5}.get(phase, -1)
    models = fake_models(engine=HeldEngine, hold_at=hold_at, max_sequences=1)
    engine = models.engine
    peer = Peer(models)
    peer.say(generate(1, FOX, **LONG))
    if phase in ("prefill", "decode"):
        await asyncio.to_thread(engine.is_held.wait)
    if phase == "end":
        await peer.done(1)
    return peer, models, engine.may_go.set


PHASES = ("start", "load", "compile", "prefill", "decode", "end")


@pytest.mark.parametrize("phase", PHASES)
async def test_a_cancelled_stream_ends_once_and_frees_its_place(phase):
    peer, models, go = await held(phase)
    peer.say(Cancel(id=1), Cancel(id=1))
    if phase in ("load", "compile"):
        await peer.done(1)  # nothing has to be waited for
    go()
    done = await peer.done(1)
    assert done.finish_reason == ("length" if phase == "end" else "cancelled")
    assert done.tokens == len(peer.token_ids(1))
    assert phase == "end" or done.tokens <= 6
    peer.say(Cancel(id=1), generate(2, FOX))  # the engine has one place
    await peer.done(2)
    assert [type(message) for message in peer.of(1) if not isinstance(message, Tokens)] == [Done]
    assert isinstance(peer.of(1)[-1], Done)
    await peer.connection.wait_idle()
    assert models.users == 0
    await peer.aclose()
    await models.fake.aclose()


@pytest.mark.parametrize("phase", PHASES)
async def test_a_client_that_is_gone_frees_its_place(phase):
    peer, models, go = await held(phase)
    closing = asyncio.ensure_future(peer.aclose())
    await asyncio.sleep(0)
    go()
    await closing
    count = len(peer.frames)
    assert models.users == 0
    assert peer.connection.is_idle
    other = Peer(models)
    other.say(generate(1, FOX))
    await other.done(1)
    assert len(peer.frames) == count
    await other.aclose()
    await models.fake.aclose()


async def test_a_task_of_a_closed_connection_is_gone(models):
    before = asyncio.all_tasks()
    peer = Peer(models)
    peer.say(*(generate(i, FOX, **LONG) for i in range(1, 9)))
    await peer.tokens(1, 2)
    await peer.aclose()
    assert asyncio.all_tasks() == before
    connection = weakref.ref(peer.connection)
    del peer
    other = Peer(models)
    other.say(generate(1, FOX))
    await other.done(1)  # the engine's next step has let go of the rest
    await other.aclose()
    gc.collect()
    assert connection() is None


# -- failures ----------------------------------------------------------------------------------------


async def test_a_request_that_fails_leaves_its_neighbours_their_tokens():
    poison = 300
    models = fake_models(max_sequences=16, kv_tokens=16 * 200, nan_token=poison, crash_token=301)
    peer = Peer(models)
    never = SamplingParams(logit_bias={poison: -1000.0, 301: -1000.0})
    good = [generate(i, [50 + i, 60], max_tokens=20, sampling=never) for i in range(1, 9)]
    peer.say(*good)
    await asyncio.gather(*(peer.done(i) for i in range(1, 9)))
    bad = [generate(100 + i, [50, [poison, 301, 383, 99_999][i % 4]], max_tokens=20) for i in range(12)]
    bad += [generate(200, FOX, constraint={"kind": "regex"}), generate(201, FOX, constraint={"kind": "no"})]
    bad += [generate(202, []), generate(203, FOX, max_tokens=0), generate(204, FOX, model="other")]
    bad += [generate(205, FOX, fingerprint="0" * 64), generate(206, FOX, received=[99_999])]
    bad += [generate(207, FOX, received=[2], constraint=dict(Regex("[a-z]+").to_dict()))]
    again = [generate(300 + i, [50 + i, 60], max_tokens=20, sampling=never) for i in range(1, 9)]
    peer.say(
        *(message for pair in zip(bad, [*again, *[None] * 99], strict=False) for message in pair if message)
    )
    await asyncio.gather(*(peer.done(300 + i) for i in range(1, 9)))
    for i in range(1, 9):
        assert peer.token_ids(300 + i) == peer.token_ids(i)
    failures = {message.id: (await peer.answer(message.id)) for message in bad}
    assert failures[100].code == "non_finite_logits"
    assert failures[101].code == "engine"
    assert failures[103].code == "token_range"
    assert failures[200].code == failures[201].code == "invalid_constraint"
    assert failures[202].code == failures[203].code == failures[205].code == "invalid_request"
    assert failures[204].code == "model_not_found"
    assert failures[206].code == "token_range"
    assert failures[207].code == "constraint_violation"
    assert all(type(failures[id_]) in (Done, Failed) for id_ in failures)
    await peer.aclose()
    assert models.users == 0
    await models.fake.aclose()


async def test_a_stream_that_cannot_be_watched_is_iterated():
    model = ScriptedModel(lambda prompt: "x1y2z3 " * 60)
    peer = Peer(ServedModels({"scripted": model}))
    peer.say(generate(1, "hello", max_tokens=2 * MAX_GATHERED, credit=10))
    await peer.tokens(1, 10)
    peer.say(generate(2, "fail", max_tokens=5))
    assert (await peer.failed(2)).code == "engine"
    assert len(peer.token_ids(2)) == 1  # before its error
    assert len(peer.token_ids(1)) == 10
    peer.say(Credit(id=1, tokens=1000))
    done = await peer.done(1)
    assert "".join(step.text for step in peer.steps(1)) + done.text == model.tokenizer.decode(
        peer.token_ids(1)
    )
    peer.say(generate(3, "hello", max_tokens=2 * MAX_GATHERED, credit=1))
    await peer.tokens(3, 1)
    peer.say(Cancel(id=3))
    assert (await peer.done(3)).finish_reason == "cancelled"
    await peer.aclose()


async def test_a_defect_in_reading_one_stream_fails_that_one(models, peer, monkeypatch, caplog):
    stream_class = type(models.fake.generate(local_request(models, FOX)))
    real = stream_class.ready

    def ready(self, limit=None):
        if self._request.max_tokens == 13:
            raise RuntimeError("a defect")
        return real(self, limit)

    monkeypatch.setattr(stream_class, "ready", ready)
    peer.say(generate(1, FOX, max_tokens=13), generate(2, FOX))
    failed = await peer.failed(1)
    assert failed.code == "engine"
    assert "a defect" not in failed.message
    assert (await peer.done(2)).tokens
    assert "a defect" in caplog.text


async def test_a_thousand_streams_end(models):
    peer = Peer(models)
    peer.say(
        *(generate(i, [40 + i % 300, 50 + i % 7], max_tokens=5, ignore_eos=True) for i in range(1, 1001))
    )
    await asyncio.gather(*(peer.done(i) for i in range(1, 1001)))
    assert all(len(peer.token_ids(i)) == 5 for i in range(1, 1001))
    assert models.users == 0
    await peer.aclose()


class GivingUpModel(ScriptedModel):
    """Cancels what was never to be cancelled."""

    def generate(self, request):
        raise asyncio.CancelledError

    async def session(self, request):
        raise asyncio.CancelledError

    async def score(self, request):
        raise asyncio.CancelledError


async def test_a_request_that_somebody_else_cancels_is_answered_too():
    peer = Peer(ServedModels({"scripted": GivingUpModel()}))
    peer.say(generate(1, "hello"), Score(id=2, prompt=[5], continuations=[[5]]))
    peer.say(Open(id=3, request=Request(prompt="hello")), Step(id=3), Fork(id=3, to=4), Step(id=4))
    for id_ in (1, 2, 3, 4):
        assert (await peer.failed(id_)).code == "engine"
    assert [failed.code for failed in await peer.answers(3, 2)] == ["engine", "engine"]
    await peer.aclose()
    assert peer.models.users == 0
