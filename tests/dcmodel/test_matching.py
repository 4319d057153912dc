"""From a request's rules to its matcher: what compiles where, and who waits for it."""

from __future__ import annotations

import asyncio
import threading

import pytest
from conformance.requests import request, run, run_one
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel import Certificate, Grammar, JsonSchema, MaskFunction, NotIn, Regex
from dcmodel.constraint import Constraint
from dcmodel.constraints.algebra import live
from dcmodel.local import LocalDcModel


@pytest.fixture
async def model():
    opened = LocalDcModel(loaded_fake(small_tokenizer(), max_sequences=64, kv_tokens=20_000))
    yield opened
    await opened.aclose()


class Slow(Constraint):
    """A rule that compiles when it is told to."""

    kind = "slow"

    def __init__(self, go_on: threading.Event) -> None:
        self.go_on = go_on

    @property
    def key(self):
        return id(self)

    def compile(self, tokenizer):
        self.go_on.wait(60)
        return Regex("[ab]{2}").compile(tokenizer)

    def to_dict(self):
        return {"kind": self.kind}


async def test_rules_that_take_long_to_compile_hold_up_nobody(model):
    go_on = threading.Event()
    slow = [model.generate(request(model, "yes", constraint=Slow(go_on))) for _ in range(8)]
    rules = [Regex("[0-9]{3}"), JsonSchema({"type": "boolean"}), Regex("[a-z]+") & NotIn(["a"]), None]
    others = await run(model, [request(model, "no", constraint=rule) for rule in rules])
    assert all(completion.certificate.valid in (True, None, False) for completion in others)
    assert not go_on.is_set()
    go_on.set()
    for stream in slow:
        assert (await stream.completion()).certificate.valid


async def test_a_function_is_never_called_on_the_callers_event_loop(model):
    here = threading.current_thread()
    threads = set()

    def allowed(token_ids):
        threads.add(threading.current_thread())
        return [40, 41, 1]

    rule = MaskFunction(allowed)
    for _ in range(3):  # the second time its compiled form is there already
        await run_one(model, request(model, "yes", constraint=rule))
    assert threads
    assert here not in threads


async def test_an_async_function_runs_on_the_loop_of_who_asks(model):
    loops = set()

    async def allowed(token_ids):
        await asyncio.sleep(0)
        loops.add(asyncio.get_running_loop())
        return [40, 41, 1]

    rule = MaskFunction(allowed)
    for _ in range(2):
        completion = await run_one(model, request(model, "yes", constraint=rule, max_tokens=4))
        assert set(completion.token_ids) <= {40, 41, 1}
    assert loops == {asyncio.get_running_loop()}


async def test_a_certificate_says_where_a_search_ended_without_an_answer(model, monkeypatch):
    pair = Grammar('start: "a" start "b" | "ab"') & Regex("a+b{1,40}")
    sure = await run_one(model, request(model, "yes", constraint=pair, max_tokens=60))
    assert sure.certificate == Certificate(valid=sure.certificate.valid, exact=True)
    monkeypatch.setattr(live, "NEXT_STEPS", 1)
    monkeypatch.setattr(live, "OLD_WITNESS_STARTS", 0)
    (a,) = model.tokenizer.encode("a")
    eager = request(model, "no", constraint=pair, max_tokens=60, logit_bias={a: 100.0})
    narrowed = await run_one(model, eager)
    assert narrowed.certificate.valid
    assert not narrowed.certificate.exact
    assert "search" in narrowed.certificate.detail
