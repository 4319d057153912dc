"""Prompts that share requests."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from fakes.fault_server import BAD_PROMPT, Exchange, FaultServer, Hold, completion
from fakes.short_waits import SHORT

from dcmodel.errors import InvalidRequestError, UnauthorizedError
from lmql_backends.openai.transport.client import COMPLETIONS
from lmql_backends.openai.transport.grouping import GroupSettings

BODY = {"model": "m", "max_tokens": 8, "temperature": 1}


async def ask(transport, prompts, **changes):
    """Their answers or errors, in order."""
    bodies = [{**BODY, **changes, "prompt": prompt} for prompt in prompts]
    calls = (transport.complete(COMPLETIONS, body, may_group=True) for body in bodies)
    return await asyncio.gather(*calls, return_exceptions=True)


def belongs(answers, prompts) -> bool:
    """Whether each answer is that of its prompt."""
    return [answer.choices[0]["prompt"] for answer in answers] == list(prompts)


async def test_equal_bodies_share_one_request(connect):
    prompts = [f"p{number}" for number in range(64)]
    async with FaultServer() as server:
        answers = await ask(connect(server), prompts)
    assert belongs(answers, prompts)
    assert len(server.exchanges) == 1
    assert answers[0].group == 64
    assert answers[0].usage["prompt_tokens"] == 3 * 64


async def test_prompts_of_ids_share_one_request(connect):
    prompts = [[number, 1] for number in range(3)]
    async with FaultServer() as server:
        answers = await ask(connect(server), prompts)
    assert belongs(answers, prompts)
    assert server.exchanges[0].body["prompt"] == prompts


async def test_a_lone_prompt_is_sent_as_one(connect):
    async with FaultServer() as server:
        transport = connect(server)
        assert belongs(await ask(transport, ["p"]), ["p"])
        assert belongs(await ask(transport, [[1, 2]]), [[1, 2]])
    assert [exchange.body["prompt"] for exchange in server.exchanges] == ["p", [1, 2]]


async def test_whatever_differs_in_the_body_divides(connect):
    bodies = [
        {**BODY, "prompt": "a", "stop": "\n", "top_p": 0.1},
        {**BODY, "prompt": "b", "stop": ";", "top_p": 0.9},
        {**BODY, "prompt": "c", "logit_bias": {"1": 5}},
        {"prompt": "d", "top_p": 0.1, "stop": "\n", "temperature": 1, "max_tokens": 8, "model": "m"},
    ]
    async with FaultServer() as server:
        transport = connect(server)
        calls = [transport.complete(COMPLETIONS, body, may_group=True) for body in bodies]
        answers = await asyncio.gather(*calls)
    assert belongs(answers, "abcd")
    assert sorted(str(exchange.body["prompt"]) for exchange in server.exchanges) == ["['a', 'd']", "b", "c"]


async def test_what_comes_late_joins_the_next_request(connect):
    async with FaultServer([hold := Hold()]) as server:
        transport = connect(server)
        first = asyncio.create_task(ask(transport, ["a"]))
        await hold.arrived
        assert belongs(await ask(transport, ["b"]), ["b"])
        hold.go.set()
        assert belongs(await first, ["a"])
    assert len(server.exchanges) == 2


async def test_a_group_is_no_larger_than_allowed(connect):
    settings = replace(SHORT, group=GroupSettings(most_prompts=10))
    prompts = [f"p{number}" for number in range(25)]
    async with FaultServer() as server:
        assert belongs(await ask(connect(server, settings), prompts), prompts)
    assert sorted(len(exchange.body["prompt"]) for exchange in server.exchanges) == [5, 10, 10]
    settings = replace(SHORT, group=GroupSettings(most_tokens=30))
    async with FaultServer() as server:
        await ask(connect(server, settings), ["x" * 8] * 6)
    assert [len(exchange.body["prompt"]) for exchange in server.exchanges] == [3, 3]


async def test_one_bad_prompt_of_64_fails_alone(connect):
    prompts = [f"p{number}" for number in range(64)]
    prompts[37] = BAD_PROMPT
    async with FaultServer() as server:
        answers = await ask(connect(server), prompts)
    bad = answers.pop(37)
    assert isinstance(bad, InvalidRequestError)
    assert "the prompt is bad" in str(bad)
    del prompts[37]
    assert belongs(answers, prompts)
    assert len(server.exchanges) == 1 + 2 * 6


async def test_a_body_that_is_wrong_for_all_costs_one_request(connect):
    error = {"error": {"message": "too many", "param": "logit_bias", "code": None, "type": "t"}}
    async with FaultServer(otherwise=lambda exchange: exchange.answer(400, error)) as server:
        answers = await ask(connect(server), ["a", "b", "c"])
    assert [type(answer) for answer in answers] == [InvalidRequestError] * 3
    assert len({id(answer) for answer in answers}) == 3
    assert len(server.exchanges) == 1


async def test_a_refused_key_costs_one_request(connect):
    async with FaultServer(otherwise=lambda exchange: exchange.error(401)) as server:
        answers = await ask(connect(server), ["a", "b", "c"])
    assert [type(answer) for answer in answers] == [UnauthorizedError] * 3
    assert len(server.exchanges) == 1


def with_choices(change):
    async def action(exchange: Exchange) -> None:
        message = completion(exchange.body)
        message["choices"] = change(message["choices"])
        await exchange.answer(200, message)

    return action


def all_zero(choices):
    return [{**choice, "index": 0} for choice in choices]


@pytest.mark.parametrize(
    ("change", "requests"),
    [
        (lambda choices: choices[::-1], 1),
        (lambda choices: choices + choices[:2], 1),
        (lambda choices: choices[1:], 2),
        (all_zero, 5),
        (lambda choices: [*choices, {**choices[0], "index": 9}], 5),
    ],
    ids=["unordered", "doubled", "one missing", "all the same", "out of range"],
)
async def test_answers_are_told_apart_by_their_index_or_asked_for_again(connect, change, requests):
    prompts = ["a", "b", "c", "d"]
    async with FaultServer([with_choices(change)]) as server:
        assert belongs(await ask(connect(server), prompts), prompts)
    assert len(server.exchanges) == requests


async def test_an_endpoint_that_cannot_tell_answers_apart_gets_single_prompts(connect):
    async with FaultServer(otherwise=with_choices(all_zero)) as server:
        transport = connect(server)
        assert belongs(await ask(transport, ["a", "b"]), ["a", "b"])
        assert belongs(await ask(transport, ["c", "d"]), ["c", "d"])
    assert len(server.exchanges) == 1 + 2 + 2


@pytest.mark.parametrize("status", [422, 500])
async def test_an_endpoint_that_takes_no_lists_is_found_out(connect, status):
    async def single(exchange: Exchange) -> None:
        if isinstance(exchange.body["prompt"], list):
            await exchange.error(status, "prompt must be a string")
        else:
            await exchange.answer(200, completion(exchange.body))

    async with FaultServer(otherwise=single) as server:
        transport = connect(server)
        assert belongs(await ask(transport, "abcd"), "abcd")
        assert len(server.exchanges) == 1 + 2 + 4
        assert belongs(await ask(transport, "efgh"), "efgh")
        assert len(server.exchanges) == 7 + 4


async def test_several_choices_per_prompt(connect):
    async with FaultServer() as server:
        answers = await ask(connect(server), ["a", "b"], n=3)
    assert [[choice["prompt"] for choice in answer.choices] for answer in answers] == [["a"] * 3, ["b"] * 3]
    assert len(server.exchanges) == 1


async def test_a_fault_of_a_group_is_survived_by_all(connect):
    async with FaultServer([lambda exchange: exchange.error(503)]) as server:
        answers = await ask(connect(server), ["a", "b"])
    assert belongs(answers, ["a", "b"])
    assert answers[0].spent.requests == 2


async def test_one_caller_who_goes_leaves_the_others(connect):
    async with FaultServer([hold := Hold()]) as server:
        transport = connect(server)
        tasks = [asyncio.create_task(ask(transport, [prompt])) for prompt in "ab"]
        exchange = await hold.arrived
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        hold.go.set()
        assert belongs(await tasks[1], ["b"])
        assert not exchange.went_away.is_set()


async def test_when_all_callers_go_the_response_is_closed(connect):
    async with FaultServer([hold := Hold()]) as server:
        transport = connect(server)
        tasks = [asyncio.create_task(ask(transport, [prompt])) for prompt in "ab"]
        exchange = await hold.arrived
        for task in tasks:
            task.cancel()
        await exchange.went_away.wait()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert belongs(await ask(transport, ["c"]), ["c"])
