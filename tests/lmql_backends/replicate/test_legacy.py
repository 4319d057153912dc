"""LMQL's predictor, which speaks version 1: what can be had of it is right, the rest is refused."""

from __future__ import annotations

import asyncio
import json
import math

import pytest
import pytest_asyncio
from conformance.requests import request, run_one
from fakes.replicate_server import NAME, OWNER, ReplicateServer
from fakes.served import ServedModels

from dcmodel.constraints import MaskFunction, Regex
from dcmodel.errors import CapabilityError, EngineError, SetupError
from dcmodel.mask import TokenMask
from dcmodel.types import FinishReason, ScoreRequest
from lmql_backends.lmtp.client import LMTPClient
from lmql_backends.replicate.api import Api
from lmql_backends.replicate.cog.predictor import Predictions
from lmql_backends.replicate.legacy_model import LegacyDcModel
from lmql_backends.replicate.legacy_transport import LegacyConnector
from lmql_backends.replicate.names import ModelName
from lmql_backends.replicate.opening import RETRY, open_model
from lmql_backends.replicate.settings import Settings


@pytest_asyncio.fixture
async def server(local):
    predictions = Predictions(ServedModels({"fake": local}))
    async with ReplicateServer(lambda fields: predictions.answers(**fields), ("ops_batch_json",)) as running:
        yield running


@pytest_asyncio.fixture
async def model(server, local):
    settings = Settings(token="r8_token", base_url=server.url, base=0.001, cap=0.01)
    api = Api(settings)
    target = await api.resolve(ModelName(OWNER, NAME))
    assert (target.speaks_frames, target.speaks_ops) == (False, True)
    vocab_size = local.tokenizer.vocab_size
    connector = LegacyConnector("replicate:ours/tiny", api, target, settings, vocab_size)
    client = LMTPClient(connector, loop=asyncio.get_running_loop(), retry=RETRY)
    opened = LegacyDcModel(client, "replicate:ours/tiny", local.tokenizer)
    yield opened
    await opened.aclose()


def asked(server) -> list[list[str]]:
    """Names of the commands of each prediction."""
    return [[name for name, _ in json.loads(body["input"]["ops_batch_json"])] for body in server.created]


async def test_greedy_text_is_the_models_and_one_prediction(model, server, local):
    item = request(local, "The quick brown fox", max_tokens=20, top_logprobs=2)
    found, expected = await run_one(model, item), await run_one(local, item)
    assert (found.token_ids, found.text) == (expected.token_ids, expected.text)
    for ours, theirs in zip(found.logprobs, expected.logprobs, strict=True):
        assert ours.raw_logprob == pytest.approx(theirs.raw_logprob, abs=1e-5)
        assert [top.token_id for top in ours.top_raw] == [top.token_id for top in theirs.top_raw]
    assert asked(server) == [["GENERATE"]]


async def test_each_text_is_one_command(model, server, local):
    items = [request(local, text, max_tokens=6) for text in ("yes", "no", "city")]
    found = await asyncio.gather(*(run_one(model, item) for item in items))
    assert [item.token_ids for item in found] == [(await run_one(local, item)).token_ids for item in items]
    assert [name for names in asked(server) for name in names] == ["GENERATE"] * 3


async def test_a_constraint_holds_and_costs_a_prediction_per_token(model, server, local):
    item = request(local, "The quick brown fox", constraint=Regex("[a-z]{3,5}"), max_tokens=6)
    found, expected = await run_one(model, item), await run_one(local, item)
    assert (found.token_ids, found.text) == (expected.token_ids, expected.text)
    assert found.certificate.valid
    drawn = sum(not forced for forced in found.forced)
    assert len(server.created) >= drawn > 0
    assert all(names[-1] == "GENERATE" for names in asked(server) if "GENERATE" in names)


async def test_under_a_mask_only_what_is_shown_is_told(model, local):
    item = request(local, "yes", constraint=MaskFunction(lambda ids: range(40, 90)), max_tokens=2)
    found, expected = await run_one(model, item), await run_one(local, item)
    assert found.token_ids == expected.token_ids
    for ours, theirs in zip(found.logprobs, expected.logprobs, strict=True):
        assert math.isnan(ours.raw_logprob)
        assert math.isnan(ours.log_mass)
        assert ours.masked_logprob == pytest.approx(theirs.masked_logprob, abs=1e-5)


async def test_steps_of_a_session_find_tokens_that_came_ahead(model, server, local):
    item = request(local, "no maybe", max_tokens=9)
    theirs, ours = await model.session(item), await local.session(item)
    for _ in range(4):
        assert (await theirs.step()).token_id == (await ours.step()).token_id
    assert asked(server) == [["GENERATE"]]
    mask = TokenMask.from_ids(range(40, 90), local.tokenizer.vocab_size)
    assert (await theirs.step(mask)).token_id == (await ours.step(mask)).token_id
    assert len(server.created) == 2
    theirs.rollback(2)
    ours.rollback(2)
    theirs.append([41])
    ours.append([41])
    assert (await theirs.step()).token_id == (await ours.step()).token_id
    assert asked(server)[2] == ["SCORE", "GENERATE"]
    known, expected = theirs.known(0), ours.known(0)
    assert known[3].raw_logprob == pytest.approx(expected[3].raw_logprob, abs=1e-5)


async def test_the_likeliest_tokens_are_shown(model, local):
    theirs, ours = await model.session(request(local, "yes")), await local.session(request(local, "yes"))
    left, right = await theirs.logprobs(k=4), await ours.logprobs(k=4)
    assert left.token_ids.tolist() == right.token_ids.tolist()
    assert left.raw_logprobs == pytest.approx(right.raw_logprobs, abs=1e-5)
    with pytest.raises(CapabilityError):
        await theirs.logprobs()


async def test_scores_and_greediness_are_the_models(model, server, local):
    ids = tuple(local.tokenizer.encode_prompt("The lazy dog"))
    greedy = (await run_one(local, request(local, "The lazy dog", max_tokens=3))).token_ids
    other = (*greedy[:2], (greedy[2] + 1) % local.tokenizer.vocab_size)
    item = ScoreRequest(
        prompt_ids=ids, continuations=(greedy, other, greedy[:1], (40, 41)), prompt_logprobs=0
    )
    found, expected = await model.score(item), await local.score(item)
    for ours, theirs in zip(
        (*found.continuations, found.prompt), (*expected.continuations, expected.prompt), strict=True
    ):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
    assert [item.is_greedy for item in found.continuations] == [True, False, True, False]
    assert [item.is_greedy for item in expected.continuations] == [True, False, True, False]
    assert asked(server) == [["SCORE"] * 5 + ["GENERATE"]]


@pytest.mark.parametrize("cut", [1, 2])
async def test_after_a_break_only_the_whole_output_is_believed(model, server, local, cut):
    """Items do not say which one they are: the stand-in sends some of them twice."""
    predict = server._predict

    async def piecewise(fields):
        async for piece in predict(fields):
            for line in piece.splitlines(keepends=True):
                yield line

    server._predict = piecewise
    server.faults.replay = "all"
    server.faults.cuts.append(cut)
    item = request(local, "The quick brown fox", max_tokens=20)
    assert (await run_one(model, item)).token_ids == (await run_one(local, item)).token_ids
    assert len(server.created) == 1
    assert len(server.streams) == 2


async def test_an_interrupted_prediction_goes_on_behind_its_tokens(model, server, local):
    server.faults.ends.append((1, "failed", "Prediction interrupted; please retry (code: PA)"))
    item = request(local, "The quick brown fox", max_tokens=20)
    assert (await run_one(model, item)).token_ids == (await run_one(local, item)).token_ids
    assert len(server.created) == 2


async def test_a_stop_string_ends_the_prediction(model, server, local):
    whole = await run_one(local, request(local, "yes", max_tokens=30))
    predict, gate = server._predict, asyncio.Event()

    async def held(fields):
        """All but the last token comes; that one would keep the prediction running for ever."""
        *lines, _ = "".join([piece async for piece in predict(fields)]).splitlines(keepends=True)
        yield "".join(lines)
        await gate.wait()

    server._predict = held
    item = request(local, "yes", max_tokens=30, stop=(whole.text[3:6],))
    found = await run_one(model, item)
    assert found.finish_reason is FinishReason.STOP
    assert found.text == (await run_one(local, item)).text
    await server.until(lambda: server.cancelled)


async def test_what_version_1_cannot_say_is_refused(model, server, local):
    for options in ({"temperature": 1.0, "seed": 3}, {"min_p": 0.1}, {"logit_bias": {5: 1.0}}):
        with pytest.raises(CapabilityError):
            await run_one(model, request(local, "yes", **options))
    with pytest.raises(CapabilityError):
        await model.next_tokens([(1, 2)], k=3)
    with pytest.raises(CapabilityError):
        await model.score(ScoreRequest(prompt_ids=(1,), continuations=((2,),), top_logprobs=1))
    assert server.created == []


async def test_sampled_text_asks_for_no_hidden_cut(model, server, local):
    await run_one(model, request(local, "yes", temperature=0.7, max_tokens=2))
    ((_, fields),) = json.loads(server.created[0]["input"]["ops_batch_json"])
    assert (fields["temperature"], fields["top_k"]) == (0.7, 0)


async def test_an_error_of_the_predictor_is_the_requests(model, server, local):
    async def failing(fields):
        for _, op in json.loads(fields["ops_batch_json"]):
            yield f"TOKEN {json.dumps({'stream_id': op['stream_id'], 'error': 'index out of range'})}\n"

    server._predict = failing
    with pytest.raises(EngineError, match="index out of range"):
        await run_one(model, request(local, "yes"))


async def test_a_tokenizer_must_be_named(server, local, monkeypatch):
    extra = {"token": "r8_token", "base_url": server.url}
    with pytest.raises(SetupError, match="tokenizer"):
        await open_model("replicate:ours/tiny", extra)
    opened = await open_model("replicate:ours/tiny", {**extra, "tokenizer": local.tokenizer})
    assert isinstance(opened, LegacyDcModel)
    await opened.aclose()
