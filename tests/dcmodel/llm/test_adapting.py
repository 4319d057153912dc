"""Adapters through `LLM`, on the fake engine: every method asks through the adapter that it is told."""

from __future__ import annotations

import math

import pytest
from fakes.fake_engine import FakeModel, loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel import LLM
from dcmodel.adapted import through_adapter
from dcmodel.errors import AdapterLoadError, AdapterNotFoundError, InvalidRequestError
from dcmodel.local import LocalDcModel

PROMPT = list(range(3, 30))


class Both(FakeModel):
    """The base model (seed 0) and the adapter ``seed:7`` together."""

    def __init__(self):
        self._parts = [FakeModel(small_tokenizer().vocab_size, seed=seed) for seed in (0, 7)]

    def logits(self, token_ids):
        return self._parts[0].logits(token_ids) + self._parts[1].logits(token_ids)


@pytest.fixture
def adapted(make_llm):
    with make_llm() as llm:
        llm.mount("a", "seed:7")
        yield llm


@pytest.fixture
def truth(plain):
    return type(plain)(Both())


def greedy(truth, context, count):
    context = list(context)
    for _ in range(count):
        context.append(int(truth.row(context).argmax()))
    return tuple(context[-count:])


def test_generate_and_stream_ask_through_the_adapter(adapted, truth):
    expected = greedy(truth, PROMPT, 6)
    assert adapted.generate(PROMPT, max_tokens=6, adapter="a").token_ids == expected
    with adapted.stream(PROMPT, max_tokens=6, adapter="a") as stream:
        assert tuple(step.token_id for step in stream) == expected
    assert adapted.generate(PROMPT, max_tokens=6).token_ids != expected
    several = adapted.generate(PROMPT, max_tokens=3, adapter="a", beams=2)
    assert several.logprobs[0].raw_logprob == pytest.approx(truth.row(PROMPT)[several.token_ids[0]], abs=1e-5)


async def test_the_asynchronous_forms_do_the_same(adapted, truth):
    expected = greedy(truth, PROMPT, 4)
    assert (await adapted.agenerate(PROMPT, max_tokens=4, adapter="a")).token_ids == expected
    stream = adapted.astream(PROMPT, max_tokens=4, adapter="a")
    assert tuple([step.token_id async for step in stream]) == expected
    session = await adapted.asession(PROMPT, adapter="a")
    assert (await session.astep()).token_id == expected[0]
    (scored,) = await adapted.ascore(PROMPT, [[40, 41]], adapter="a")
    assert scored.logprob == pytest.approx(truth.logprob(PROMPT, [40, 41]), abs=1e-4)
    found = await adapted.anext_tokens(PROMPT, k=1, adapter="a")
    assert found.token_ids.tolist() == [expected[0]]
    await adapted.amount("b", "seed:8")
    assert list(adapted.adapters) == ["a", "b"]
    await adapted.aunmount("b")
    assert list(adapted.adapters) == ["a"]


def test_scores_are_those_of_the_adapter(adapted, truth):
    (scored,) = adapted.score(PROMPT, [[40, 41]], adapter="a")
    assert scored.logprob == pytest.approx(truth.logprob(PROMPT, [40, 41]), abs=1e-4)
    tokens = adapted.score_prompt(PROMPT, adapter="a")
    assert [item.logprob for item in tokens[1:]] == pytest.approx(
        truth.logprobs(PROMPT[:1], PROMPT[1:]), abs=1e-4
    )
    rolled = adapted.rolling(PROMPT, adapter="a")
    assert rolled.logprob == pytest.approx(
        truth.logprob([adapted.tokenizer.bos_token_id or 1], PROMPT), abs=1e-3
    )


def test_choices_are_those_of_the_adapter(adapted, truth):
    choice = adapted.choose(PROMPT, ["yes", "no"], adapter="a", end_of_text=False)
    for item in choice.results:
        assert item.logprob == pytest.approx(truth.logprob(PROMPT, item.token_ids), abs=1e-4)
    odds = adapted.distribution(PROMPT, ["yes", "no"], adapter="a", end_of_text=False)
    assert odds == pytest.approx(choice.probabilities)
    assert math.fsum(odds.values()) == pytest.approx(1.0)


def test_sessions_and_next_tokens_are_those_of_the_adapter(adapted, truth):
    expected = greedy(truth, PROMPT, 3)
    session = adapted.session(PROMPT, adapter="a")
    assert tuple(session.step().token_id for _ in range(3)) == expected
    found = adapted.next_tokens([PROMPT, [*PROMPT, expected[0]]], k=1, adapter="a")
    assert [item.token_ids.tolist() for item in found] == [[expected[0]], [expected[1]]]


def test_an_unknown_name_is_refused_by_every_method(adapted):
    calls = [
        lambda: adapted.generate(PROMPT, adapter="b"),
        lambda: next(adapted.stream(PROMPT, adapter="b")),
        lambda: adapted.session(PROMPT, adapter="b"),
        lambda: adapted.score(PROMPT, [[4]], adapter="b"),
        lambda: adapted.score_prompt(PROMPT, adapter="b"),
        lambda: adapted.choose(PROMPT, ["yes"], adapter="b"),
        lambda: adapted.distribution(PROMPT, ["yes"], adapter="b"),
        lambda: adapted.rolling(PROMPT, adapter="b"),
        lambda: adapted.next_tokens(PROMPT, adapter="b"),
        lambda: adapted.unmount("b"),
    ]
    for call in calls:
        with pytest.raises(AdapterNotFoundError, match="'b' is mounted"):
            call()


def test_adapters_are_mounted_with_the_model():
    with LLM("fake", adapters={"a": "seed:7", "b": "seed:8"}, registry=OneModel()) as llm:
        assert not llm.is_loaded
        assert [(info.name, info.source) for info in llm.adapters.values()] == [
            ("a", "seed:7"),
            ("b", "seed:8"),
        ]


def test_a_model_whose_adapter_is_broken_is_closed_again():
    registry = OneModel()
    llm = LLM("fake", adapters={"a": "seed:7", "b": "broken"}, registry=registry)
    with pytest.raises(AdapterLoadError, match="'broken'"):
        llm.generate(PROMPT)
    assert registry.engines[0].closed
    with pytest.raises(InvalidRequestError, match="cannot be an adapter's name"):
        LLM("fake", adapters={"": "seed:7"})


def test_no_adapter_is_the_model_itself(adapted):
    assert through_adapter(adapted.model, None) is adapted.model


class OneModel:
    """A registry whose every model is a fake one."""

    def __init__(self):
        self.engines = []

    def load(self, name, options, *, explicit=None, settings=None):
        loaded = loaded_fake(small_tokenizer())
        self.engines.append(loaded.engine)
        return LocalDcModel(loaded)
