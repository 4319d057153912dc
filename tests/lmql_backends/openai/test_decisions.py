"""An endpoint's own judgement between texts: asked for by the user, found by a probe, verified, and named."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager

import pytest
from fakes.fault_server import FaultServer
from fakes.small_tokenizer import small_tokenizer

from dcmodel import LLM
from dcmodel.constraints import Choice, Regex
from dcmodel.errors import GenerationError
from lmql_backends.lmtp.server.openai.double import Double, limits_from, plan_from
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.openai.capabilities import Topic
from lmql_backends.openai.decision_forms import INSTRUCTIONS, probabilities_in, question, values_of
from lmql_backends.openai.opening import open_model
from lmql_backends.openai.probe_cache import ProbeCache

OPTIONS = [" yes", " no", " perhaps"]
PROMPT = "The quick fox. Is it quick?"


@asynccontextmanager
async def asked(local, tmp_path, *, limits=None, plan=None, **options):
    """An `LLM` that was just opened, and the paths of all requests that its endpoint gets."""
    double = Double(limits_from(limits or {}), plan=None if plan is None else plan_from(plan))
    async with LMTPServer({"fake": local}, double=double) as server:
        given = {"base_url": f"{server.http_url}/v1", "api_key": "key", "tokenizer": small_tokenizer()}
        options = {"decisions": True, "chat": False, **options}
        model = await open_model("fake", {**given, **options}, probes=ProbeCache(tmp_path))
        try:
            yield LLM.from_model(model), double.records
        finally:
            await model.aclose()


def decisions_in(records) -> int:
    return sum(record.path.endswith("/decisions") for record in records)


async def expected(local) -> list[float]:
    texts = [f" {option.strip()}" for option in OPTIONS]
    found = await LLM.from_model(local).achoose(f"{PROMPT}\n\n{INSTRUCTIONS}\nAnswer:", texts)
    return [item.probability for item in found.results]


async def test_choose_gives_the_endpoints_probabilities(local, tmp_path) -> None:
    async with asked(local, tmp_path) as (llm, records):
        assert Topic.DECISIONS in llm.model.capabilities.unasked
        first = await llm.achoose(PROMPT, OPTIONS)
        count = len(records)
        second = await llm.achoose(PROMPT, OPTIONS)
        assert len(records) == count + 1
    assert [item.probability for item in first.results] == pytest.approx(await expected(local))
    assert first.probabilities == second.probabilities
    assert first.certificate == second.certificate
    assert (first.certificate.valid, first.certificate.exact) == (True, False)
    assert first.certificate.semantics == "judged"
    assert "own judgement" in first.certificate.detail
    assert all(item.logprob != item.logprob and item.token_ids for item in first.results)


async def test_a_choice_is_one_decision(local, tmp_path) -> None:
    async with asked(local, tmp_path) as (llm, records):
        greedy = await llm.agenerate(PROMPT, constraint=Choice(OPTIONS), max_tokens=30)
        asked_so_far = decisions_in(records)
        count = len(records)
        again = await llm.agenerate(PROMPT, constraint=Choice(OPTIONS), max_tokens=30)
        assert len(records) == count + 1
        assert decisions_in(records) == asked_so_far + 1
    odds = await expected(local)
    assert greedy.text == again.text == OPTIONS[odds.index(max(odds))]
    assert again.cost.requests == 1
    assert again.cost.prompt_tokens > 0
    assert (again.finish_reason, again.certificate.valid) == ("stop", True)
    assert (again.certificate.exact, again.certificate.semantics) == (False, "judged")
    assert again.certificate.bound is None
    assert again.logprobs is None
    assert "own judgement" in again.certificate.detail


async def test_a_prompt_whose_end_is_healed_is_judged_whole(local, tmp_path) -> None:
    async with asked(local, tmp_path) as (llm, records):
        prompt = f"{PROMPT} The quick bro"
        healed = await llm.agenerate(prompt, constraint=Choice(OPTIONS), max_tokens=30)
        assert decisions_in(records) == 2, "one of them is the probe's"
        plain = await llm.agenerate(prompt, constraint=Choice(OPTIONS), max_tokens=30, heal=False)
    assert healed.certificate.semantics == plain.certificate.semantics == "judged"
    assert healed.certificate.valid
    assert healed.text == plain.text
    assert healed.healed, "something was healed"


async def test_a_warm_choice_is_drawn_from_the_endpoints_probabilities(local, tmp_path) -> None:
    draws = 80
    async with asked(local, tmp_path) as (llm, _):
        texts = Counter()
        for seed in range(draws):
            options = {"constraint": Choice(OPTIONS), "temperature": 1.0, "seed": seed, "max_tokens": 30}
            texts[(await llm.agenerate(PROMPT, **options)).text] += 1
    shares = [texts[option] / draws for option in OPTIONS]
    far = sum(abs(a - b) for a, b in zip(shares, await expected(local), strict=True)) / 2
    assert far < 0.2


async def test_nobody_is_asked_for_decisions_who_did_not_ask(local, tmp_path) -> None:
    async with asked(local, tmp_path, decisions=False, limits={"preset": "open"}) as (llm, records):
        completion = await llm.agenerate(PROMPT, constraint=Choice(OPTIONS), max_tokens=30)
        choice = await llm.achoose(PROMPT, OPTIONS)
        assert not decisions_in(records)
    assert completion.certificate.semantics == "local"
    assert choice.certificate is None


@pytest.mark.parametrize(
    "options",
    [
        {"constraint": Regex(" yes| no")},
        {"constraint": Choice([" yes"])},
        {"constraint": Choice(OPTIONS), "temperature": 0.5},
        {"constraint": Choice(OPTIONS), "temperature": 1.0, "top_p": 0.9},
        {"constraint": Choice(OPTIONS), "top_logprobs": 3},
        {"constraint": Choice(OPTIONS), "logit_bias": {5: 1.0}},
    ],
    ids=["a pattern", "one option", "temperature", "top_p", "top_logprobs", "logit_bias"],
)
async def test_what_a_judgement_cannot_give_is_drawn_token_by_token(local, tmp_path, options) -> None:
    limits = {"preset": "open", "decisions": True}
    async with asked(local, tmp_path, limits=limits) as (llm, records):
        completion = await llm.agenerate(PROMPT, max_tokens=30, **options)
        assert not decisions_in(records)
    assert completion.certificate.valid
    assert completion.certificate.semantics == "local"


async def test_without_such_a_route_options_are_scored_and_drawn(local, tmp_path) -> None:
    async with asked(local, tmp_path, limits={"preset": "open"}) as (llm, records):
        choice = await llm.achoose(PROMPT, OPTIONS)
        completion = await llm.agenerate(PROMPT, constraint=Choice(OPTIONS), max_tokens=30)
        assert decisions_in(records) <= 1
        assert not llm.model.capabilities.decisions
    direct = await LLM.from_model(local).achoose(PROMPT, OPTIONS)
    assert choice.certificate is None
    assert choice.probabilities == pytest.approx(direct.probabilities, abs=1e-4)
    assert completion.certificate.exact
    assert "no decisions" in completion.certificate.detail


async def test_a_chats_messages_are_the_input(local, tmp_path) -> None:
    async with asked(local, tmp_path, chat=True) as (llm, _):
        prompt = await llm.achat_prompt([{"role": "user", "content": PROMPT}])
        found = await llm.achoose(prompt, OPTIONS)
    assert found.certificate.semantics == "judged"


async def test_faults_of_the_route_are_survived(local, tmp_path) -> None:
    fault = {"fault": "error", "status": 503, "match": {"route": "decisions"}, "requests": [2]}
    async with asked(local, tmp_path, plan={"faults": [fault]}) as (llm, _):
        found = await llm.achoose(PROMPT, OPTIONS)
        assert found.certificate.semantics == "judged"
        assert llm.model.cost.retries == 1


def answer(*rows, kind="choice"):
    shown = [{"value": value, "probability": probability} for value, probability in rows]
    return {"answers": [{"type": kind, "name": "answer", "probabilities": shown}]}


WHOLE = answer(("yes", 0.5), ("no", 0.3), ("perhaps", 0.2))
BROKEN = {
    "no answers": {},
    "two answers": {"answers": WHOLE["answers"] * 2},
    "no object": {"answers": ["yes"]},
    "declined": answer(kind="refusal"),
    "another kind": {"answers": [{"type": "predicate", "probability": 0.5}]},
    "no probabilities": {"answers": [{"type": "choice", "choice": "yes"}]},
    "an option that nobody gave": answer(("yes", 0.5), ("no", 0.3), ("never", 0.2)),
    "an option is missing": answer(("yes", 0.5), ("no", 0.5)),
    "an option twice": answer(("yes", 0.5), ("yes", 0.3), ("no", 0.2)),
    "no number": answer(("yes", "0.5"), ("no", 0.3), ("perhaps", 0.2)),
    "negative": answer(("yes", 1.2), ("no", -0.4), ("perhaps", 0.2)),
    "not a number": answer(("yes", float("nan")), ("no", 0.3), ("perhaps", 0.2)),
    "a sum that is not 1": answer(("yes", 0.5), ("no", 0.3), ("perhaps", 0.4)),
}


@pytest.mark.parametrize("message", BROKEN.values(), ids=BROKEN)
def test_a_broken_answer_is_an_error(message) -> None:
    with pytest.raises(GenerationError, match="decision cannot be used"):
        probabilities_in(message, ["yes", "no", "perhaps"])


def test_rounded_probabilities_sum_to_one() -> None:
    found = probabilities_in(answer(("no", 0.33), ("yes", 0.33), ("perhaps", 0.33)), ["yes", "no", "perhaps"])
    assert sum(found) == pytest.approx(1.0)


@pytest.mark.parametrize("status", [200, 400])
async def test_an_endpoint_that_breaks_its_word_is_an_error_or_another_way(tmp_path, status) -> None:
    async def action(exchange):
        if exchange.path.endswith("/decisions"):
            await exchange.answer(status, BROKEN["an option that nobody gave"])
        else:
            text = {"text": " no", "finish_reason": "stop", "index": 0}
            await exchange.answer(200, {"choices": [text]})

    async with FaultServer(otherwise=action) as server:
        given = {"base_url": server.base_url, "api_key": "key", "tokenizer": small_tokenizer()}
        known = {"probe": False, "capabilities": {"decisions": True}, "decisions": True, "streams": False}
        model = await open_model("fake", {**given, **known}, probes=ProbeCache(tmp_path))
        llm = LLM.from_model(model)
        try:
            with pytest.raises(GenerationError, match="decision cannot be used"):
                await llm.achoose(PROMPT, OPTIONS)
            completion = await llm.agenerate(PROMPT, constraint=Choice(OPTIONS), max_tokens=30)
        finally:
            await model.aclose()
    assert completion.text == " no"
    assert completion.certificate.semantics == "local"
    assert "decision cannot be used" in completion.certificate.detail


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ([" yes", " no"], ["yes", "no"]),
        ([" yes", "yes"], [" yes", "yes"]),
        ([" ", "a"], [" ", "a"]),
        (["a"], None),
        (["a", ""], None),
        ([str(number) for number in range(256)], None),
    ],
    ids=str,
)
def test_options_are_sent_without_white_space_where_they_stay_apart(options, values) -> None:
    assert values_of(options) == values


def test_the_question_is_one_of_openais_client() -> None:
    from openai.types.decision_create_params import DecisionCreateParams
    from pydantic import TypeAdapter

    body = {"model": "m", "input": "text", "questions": [question(["yes", "no"])]}
    assert TypeAdapter(DecisionCreateParams).validate_python(body)["model"] == "m"
