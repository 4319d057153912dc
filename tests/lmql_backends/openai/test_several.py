"""Several answers in one request, and endpoints that give only one."""

from __future__ import annotations

import pytest
from fakes.fault_server import FaultServer, completion
from fakes.openai_models import OURS, transport_to
from fakes.small_tokenizer import small_tokenizer

from dcmodel.errors import InvalidRequestError
from lmql_backends.openai.asking import HttpAsker
from lmql_backends.openai.endpoint_api import Ask

PROMPT = tuple(small_tokenizer().encode("The quick brown fox"))
ASK = Ask(prompt=PROMPT, max_tokens=1, temperature=1.0, top_logprobs=2)


@pytest.fixture
async def asker_at():
    transports = []

    def at(base_url: str) -> HttpAsker:
        transports.append(transport_to(base_url))
        return HttpAsker(transports[-1], "fake", OURS, small_tokenizer())

    yield at
    for transport in transports:
        await transport.aclose()


async def alone(exchange) -> None:
    """A server that does not know `n`."""
    await exchange.answer(200, completion({**exchange.body, "n": 1}))


async def refuse(exchange) -> None:
    await exchange.error(400, "n: extra fields are not permitted")


def counts_of(server) -> list[int | None]:
    return [exchange.body.get("n") for exchange in server.exchanges]


async def test_draws_differ_and_are_one_request(url, asker_at) -> None:
    replies = await asker_at(url).ask_several(ASK, 64)
    assert len(replies) == 64
    assert all(len(reply.token_ids) + reply.is_ended == 1 for reply in replies)
    assert len({reply.token_ids for reply in replies}) > 8
    assert replies[0].cost.requests == 1
    assert (replies[0].cost.prompt_tokens, replies[0].cost.completion_tokens) == (len(PROMPT), 64)
    assert not any(reply.cost.requests or reply.cost.completion_tokens for reply in replies[1:])
    assert all(len(reply.tops[0]) == 2 for reply in replies if reply.token_ids)


async def test_who_knows_no_n_is_not_asked_again(asker_at) -> None:
    async with FaultServer(otherwise=alone) as server:
        asker = asker_at(server.base_url)
        assert [len(await asker.ask_several(ASK, 4)) for _ in range(2)] == [1, 1]
        assert counts_of(server) == [4, None]


async def test_who_refuses_n_is_asked_without_it(asker_at) -> None:
    async with FaultServer([refuse]) as server:
        asker = asker_at(server.base_url)
        assert [len(await asker.ask_several(ASK, 4)) for _ in range(2)] == [1, 1]
        assert counts_of(server) == [4, None, None]


async def test_a_refusal_of_something_else_tells_nothing_of_n(asker_at) -> None:
    async with FaultServer([refuse, refuse]) as server:
        asker = asker_at(server.base_url)
        with pytest.raises(InvalidRequestError):
            await asker.ask_several(ASK, 4)
        assert len(await asker.ask_several(ASK, 4)) == 4
