"""LMQL's protocol over a model whose logits are known: what its server gets wrong is right here."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fakes.fake_engine import loaded_fake
from fakes.served import ServedModels
from fakes.small_tokenizer import small_tokenizer
from legacy_peer import Peer, tokens

from dcmodel.local import LocalDcModel
from dcmodel.types import GenerateRequest, ScoreRequest

EOS = 1
PROMPT = [0, 50, 60, 70]


@pytest.fixture
def loaded():
    return loaded_fake(small_tokenizer())


@pytest.fixture
async def model(loaded):
    async with LocalDcModel(loaded) as model:
        yield model


@pytest.fixture
async def models(model):
    models = ServedModels({"fake": model})
    yield models
    assert models.users == 0


@pytest.fixture
async def peer(models):
    peer = Peer(models)
    yield peer
    await peer.connection.aclose()
    assert peer.connection.is_idle


def allow(*token_ids):
    return {str(token_id): 100 for token_id in token_ids}


def ban(*token_ids):
    return {str(token_id): -100 for token_id in token_ids}


def masked(loaded, context, allowed):
    """The log-probabilities of the allowed tokens behind a context, renormalised."""
    logits = loaded.engine.model.logits(context).astype(np.float64)[list(allowed)]
    logits -= np.log(np.exp(logits - logits.max()).sum()) + logits.max()
    return dict(zip(allowed, logits.tolist(), strict=True))


async def test_a_stream_has_exactly_as_many_tokens_as_asked_for(peer):
    for count in (1, 2, 3, 4, 5, 7, 20):
        items = await peer.generate(PROMPT, max_tokens=count, logit_bias=ban(EOS))
        assert len(items) == count
        assert [item["finish_reason"] for item in items] == [None] * (count - 1) + ["length"]


async def test_defaults_are_those_of_lmqls_server(peer):
    items = await peer.generate(PROMPT, logit_bias=ban(EOS))
    assert len(items) == 32
    assert all(set(item["top_logprobs"]) == {str(item["token"])} for item in items)
    assert list(items[0]) == ["token", "stream_id", "logprob", "finish_reason", "top_logprobs"]


async def test_greedy_tokens_are_the_models_own(peer, model):
    items = await peer.generate(PROMPT, max_tokens=12)
    wanted = await model.generate(GenerateRequest(prompt_ids=tuple(PROMPT), max_tokens=12)).completion()
    assert tokens(items) == list(wanted.token_ids)


async def test_chunks_one_after_the_other_equal_the_whole(peer):
    whole = tokens(await peer.generate(PROMPT, max_tokens=24, logit_bias=ban(EOS)))
    parts: list[int] = []
    while len(parts) < 24:
        parts += tokens(await peer.generate(PROMPT + parts, max_tokens=5, logit_bias=ban(EOS)))
    assert parts[:24] == whole


async def test_logprobs_are_those_under_the_mask(peer, loaded):
    allowed = [40, 41, 42, 90]
    context = list(PROMPT)
    for item in await peer.generate(
        PROMPT, max_tokens=5, temperature=3.0, top_logprobs=3, logit_bias=allow(*allowed)
    ):
        wanted = masked(loaded, context, allowed)
        assert item["logprob"] == pytest.approx(wanted[item["token"]], abs=1e-4)
        tops = {int(key): value for key, value in item["top_logprobs"].items()}
        assert next(iter(tops)) == item["token"]
        likeliest = sorted(allowed, key=lambda token_id: -wanted[token_id])[:3]
        assert set(tops) == {item["token"], *likeliest}
        assert tops == pytest.approx({token_id: wanted[token_id] for token_id in tops}, abs=1e-4)
        context.append(item["token"])


async def test_what_the_mask_refuses_is_not_among_the_likeliest(peer):
    for item in await peer.generate(PROMPT, max_tokens=4, top_logprobs=10, logit_bias=allow(40, 41)):
        assert set(item["top_logprobs"]) == {"40", "41"}
    for item in await peer.generate(PROMPT, max_tokens=9, top_logprobs=20, logit_bias=ban(*range(300))):
        assert all(int(key) >= 300 for key in item["top_logprobs"])
        assert len(item["top_logprobs"]) == 20


async def test_masks_hold_at_any_temperature(peer):
    streams = [
        peer.generate(PROMPT, max_tokens=40, temperature=50.0, logit_bias=allow(40, 41, 42))
        for _ in range(16)
    ]
    for items in await asyncio.gather(*streams):
        assert set(tokens(items)) <= {40, 41, 42}


async def test_an_end_is_an_item_of_its_own_and_the_last(peer):
    items = await peer.generate(PROMPT, max_tokens=9, temperature=5.0, logit_bias=allow(EOS, 40))
    *before, last = items
    assert EOS not in tokens(before)
    assert (last["token"], last["finish_reason"]) == (EOS, "stop")


async def test_a_mask_that_allows_the_end_alone_asks_no_model(peer, loaded):
    (item,) = await peer.generate(PROMPT, logit_bias=allow(EOS, 4000))
    assert (item["token"], item["finish_reason"], item["logprob"]) == (EOS, "stop", 0.0)
    assert item["top_logprobs"] == {str(EOS): 0.0}
    assert not loaded.engine.batches


async def test_a_mask_of_one_token_gives_it_with_certainty(peer):
    items = await peer.generate(PROMPT, max_tokens=3, logit_bias=allow(77))
    assert [(item["token"], item["logprob"]) for item in items] == [(77, 0.0)] * 3


async def test_ids_beyond_the_vocabulary_in_a_mask_are_ignored(peer, loaded):
    size = loaded.info.vocab_size
    items = await peer.generate(PROMPT, max_tokens=3, logit_bias=allow(40, 41, size, size + 99))
    assert set(tokens(items)) <= {40, 41}
    items = await peer.generate(PROMPT, max_tokens=3, logit_bias=ban(EOS, size, size + 99))
    assert len(items) == 3


async def test_ids_that_the_tokenizer_does_not_have_are_never_drawn():
    tokenizer = small_tokenizer()
    wide = loaded_fake(small_tokenizer())
    wide.engine.model.__init__(tokenizer.vocab_size + 64, scale=0.1)
    wide.engine.__post_init__()
    from dataclasses import replace

    wide = replace(wide, info=replace(wide.info, vocab_size=tokenizer.vocab_size + 64))
    async with LocalDcModel(wide) as model:
        peer = Peer(ServedModels({"fake": model}))
        for fields in ({}, {"logit_bias": ban(EOS)}):
            streams = [
                peer.generate(PROMPT, max_tokens=40, temperature=1.0, top_logprobs=20, **fields)
                for _ in range(8)
            ]
            for items in await asyncio.gather(*streams):
                assert max(tokens(items)) < tokenizer.vocab_size
                assert all(int(key) < tokenizer.vocab_size for item in items for key in item["top_logprobs"])
        await peer.connection.aclose()


async def test_a_soft_bias_is_a_bias(peer):
    first = (await peer.generate(PROMPT, max_tokens=1))[0]["token"]
    (item,) = await peer.generate(PROMPT, max_tokens=1, logit_bias={str(first): -50, "40": 60})
    assert item["token"] == 40


async def test_neighbours_keep_their_own_counts(peer):
    counts = (20, 2, 7, 3, 20, 5)
    tops = (1, 5, 2, 4, 0, 3)
    streams = [
        peer.generate([*PROMPT, 40 + place], max_tokens=count, top_logprobs=top, logit_bias=ban(EOS))
        for place, (count, top) in enumerate(zip(counts, tops, strict=True))
    ]
    for items, count, top in zip(await asyncio.gather(*streams), counts, tops, strict=True):
        assert len(items) == count
        assert all(len(item["top_logprobs"]) == max(top, 1) for item in items)


async def test_openai_penalties_work(peer):
    items = await peer.generate(PROMPT, max_tokens=30, frequency_penalty=100.0, presence_penalty=100.0)
    drawn = tokens(items)
    assert len(set(drawn)) == len(drawn)


async def test_length_penalty_and_other_fields_are_ignored(peer):
    plain = tokens(await peer.generate(PROMPT, max_tokens=5))
    assert tokens(await peer.generate(PROMPT, max_tokens=5, length_penalty=2.0, chunksize=3)) == plain


async def test_streams_that_step_together_share_frames(peer):
    streams = [peer.generate([*PROMPT, 40 + n], max_tokens=10, logit_bias=ban(EOS)) for n in range(8)]
    await asyncio.gather(*streams)
    assert sum(len(items) for _, items in peer.frames) == 80
    assert len(peer.frames) < 40


async def test_scores_are_the_models_own(peer, model):
    items = await peer.score(PROMPT, [40, 41, 42])
    wanted = await model.score(ScoreRequest(prompt_ids=tuple(PROMPT), continuations=((40, 41, 42),)))
    assert tokens(items) == [40, 41, 42]
    assert [item["logprob"] for item in items] == pytest.approx(wanted.continuations[0].logprobs, abs=1e-4)
    assert [item["finish_reason"] for item in items] == [None, None, "stop"]
    assert list(items[0]) == ["token", "stream_id", "logprob", "finish_reason"]


async def test_candidates_of_one_prompt_are_computed_together(peer, loaded):
    prompt = [0, *range(40, 140)]
    scored = [[50 + n, 60, 61] for n in range(50)]
    answers = await asyncio.gather(*(peer.score(prompt, item) for item in scored))
    assert [tokens(items) for items in answers] == scored
    computed = sum(batch.num_tokens for batch in loaded.engine.batches)
    assert computed < 4 * (len(prompt) + 150)


async def test_one_bad_score_fails_alone(peer):
    good, bad, empty = await asyncio.gather(
        peer.score(PROMPT, [40, 41]), peer.score(PROMPT, [40, 100_000]), peer.score(PROMPT, [])
    )
    assert tokens(good) == [40, 41]
    assert "outside the vocabulary" in bad[0]["error"]
    assert "nothing to score" in empty[0]["error"]


async def test_an_empty_prompt_is_the_token_that_begins_a_text(peer, model):
    bos = model.tokenizer.bos_token_id
    scored = await peer.score([], [40, 41])
    assert len(scored) == 2
    if bos is None:
        assert scored[0]["logprob"] == 0.0
        assert "prompt is empty" in (await peer.generate([], max_tokens=2))[0]["error"]
    else:
        assert scored == [{**item, "stream_id": 1} for item in await peer.score([bos], [40, 41])]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": [100_000]}, "outside the vocabulary"),
        ({"prompt": [-1]}, "cannot be read"),
        ({"prompt": "text"}, "cannot be read"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1 << 80}, "cannot be read"),
        ({"max_tokens": "5"}, "cannot be read"),
        ({"temperature": math.nan}, "cannot be read"),
        ({"temperature": math.inf}, "cannot be read"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 2.0}, "top_p"),
        ({"top_k": -1}, ""),
        ({"top_logprobs": 10**6}, "top_logprobs"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"logit_bias": {"-3": 100}}, ""),
        ({"logit_bias": {"x": 100}}, "cannot be read"),
        ({"logit_bias": {"99999": 100}}, "allows none"),
        ({"logit_bias": {"4": 101}}, "logit_bias"),
        ({"logit_bias": {str(n): -100 for n in range(384)}}, "allows none"),
        ({"prompt": [40] * 600}, "does not fit the context"),
        ({"model": "elsewhere/model"}, "is not served"),
    ],
    ids=repr,
)
async def test_a_bad_request_is_an_error_of_its_stream_and_spares_its_neighbours(peer, fields, message):
    alone = tokens(await peer.generate(PROMPT, max_tokens=8))
    good = peer.send("GENERATE", prompt=PROMPT, max_tokens=8)
    bad = peer.send("GENERATE", **{"prompt": PROMPT, "max_tokens": 8, **fields})
    (item,) = await peer.stream(bad)
    assert set(item) == {"stream_id", "error"}
    assert message in item["error"]
    assert tokens(await peer.stream(good)) == alone


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "HELLO",
        "GENERATE",
        "GENERATE ",
        "GENERATE {",
        "GENERATE []",
        "GENERATE null",
        "GENERATE " + "[" * 100_000,
        'GENERATE {"stream_id": {"a": []}}',
        "score {}",
        'NOPE {"stream_id": 7}',
        "MODEL_INFO 5",
        "\ufeffGENERATE {}",
        'GENERATE {"stream_id": 9, "model": "\ud800"}',
    ],
    ids=lambda frame: repr(frame)[:30],
)
async def test_a_bad_frame_leaves_the_connection_as_it_was(peer, frame):
    running = peer.send("GENERATE", prompt=PROMPT, max_tokens=8)
    peer.connection.receive(frame)
    assert len(await peer.stream(running)) == 8
    assert len(await peer.generate(PROMPT, max_tokens=3)) == 3


async def test_a_number_in_use_is_refused_and_its_stream_unharmed(peer):
    peer.send("GENERATE", prompt=PROMPT, max_tokens=8, stream_id=5)
    peer.send("GENERATE", prompt=PROMPT, max_tokens=2, stream_id=5)
    assert len(await peer.stream(5)) == 8
    assert "has not ended" in (await peer.answer())["error"]


@pytest.mark.parametrize("stream_id", [0, -4, 10**20, "a", 1.5])
async def test_stream_ids_come_back_as_they_were(peer, stream_id):
    peer.send("GENERATE", prompt=PROMPT, max_tokens=2, stream_id=stream_id)
    assert [item["stream_id"] for item in await peer.stream(stream_id)] == [stream_id] * 2


async def test_model_info_is_answered_for_any_name(peer):
    peer.send("MODEL_INFO", data={"model": "fake"})
    answer = await peer.answer()
    assert answer["model_info"]["name"] == "fake"
    assert answer["stream_id"] == 1
    peer.send("MODEL_INFO", model="nope", data={"model": "nope"})
    answer = await peer.answer()
    assert answer["model_info"] == "<unavailable>"
    assert "is not served" in answer["error"]


async def test_an_error_behind_the_fourth_token_ends_the_stream_with_a_token(loaded, peer):
    """LMQL's client loses errors that come later, and waits for ever."""
    whole = tokens(await peer.generate(PROMPT, max_tokens=12, logit_bias=ban(EOS)))
    loaded.engine.nan_token = whole[6]
    items = await peer.generate([*PROMPT[:-1], 70], max_tokens=12, logit_bias=ban(EOS))
    assert tokens(items) == whole[:7]
    assert items[-1]["finish_reason"] == "length"
    (item,) = await peer.generate(PROMPT + whole[:7], max_tokens=12, logit_bias=ban(EOS))
    assert "NaN" in item["error"]


async def test_an_error_before_the_fourth_token_is_told(loaded, peer):
    whole = tokens(await peer.generate(PROMPT, max_tokens=3, logit_bias=ban(EOS)))
    loaded.engine.nan_token = whole[1]
    items = await peer.generate(PROMPT, max_tokens=12, logit_bias=ban(EOS))
    assert tokens(items[:-1]) == whole[:2]
    assert "NaN" in items[-1]["error"]


async def test_a_client_that_goes_away_frees_its_places(loaded, models, model):
    peer = Peer(models)
    for _ in range(8):
        peer.send("GENERATE", prompt=PROMPT, max_tokens=400, temperature=1.0, logit_bias=ban(EOS))
    peer.send("SCORE", prompt=PROMPT, scored=[40, 41])
    await peer.news()
    await peer.connection.aclose()
    assert models.users == 0
    count = len(loaded.engine.batches)
    await Peer(models).generate([0, 99], max_tokens=1)
    assert len(loaded.engine.batches) <= count + 3
    frames = len(peer.frames)
    peer.send("GENERATE", prompt=PROMPT)
    await asyncio.sleep(0)
    assert len(peer.frames) == frames


async def test_a_draining_connection_refuses_new_streams_and_ends_the_running_ones(peer):
    running = peer.send("GENERATE", prompt=PROMPT, max_tokens=20, logit_bias=ban(EOS))
    await peer.news()
    peer.connection.refuse_new("it is about to end")
    (item,) = await peer.generate(PROMPT)
    assert "takes nothing new" in item["error"]
    await peer.connection.wait_idle()
    assert len(peer.items[running]) == 20


async def test_streams_of_a_connection_are_bounded(models):
    peer = Peer(models, max_streams=2)
    first = [peer.send("GENERATE", prompt=PROMPT, max_tokens=4, logit_bias=ban(EOS)) for _ in range(2)]
    (item,) = await peer.generate(PROMPT)
    assert "2 streams are open" in item["error"]
    for stream_id in first:
        assert len(await peer.stream(stream_id)) == 4
    assert len(await peer.generate(PROMPT, max_tokens=2)) == 2
    await peer.connection.aclose()


async def test_a_mask_of_half_a_large_vocabulary_is_read_quickly():
    from time import process_time

    from lmql_backends.lmtp.protocol.legacy import parse
    from lmql_backends.lmtp.server.legacy_requests import split_bias

    frame = "GENERATE " + json.dumps(
        {"logit_bias": {n: 100 for n in range(0, 128_000, 2)}, "model": "", "prompt": [1], "stream_id": 1}
    )
    start = process_time()
    _, mask = split_bias(parse(frame).logit_bias, 128_000)
    assert process_time() - start < 0.2
    assert len(mask) == 64_000
