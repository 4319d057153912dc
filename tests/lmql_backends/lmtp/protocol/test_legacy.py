"""Version 1, as LMQL's own client speaks it."""

from __future__ import annotations

import contextlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmql_backends.lmtp.protocol.legacy import (
    ErrorItem,
    InfoItem,
    LegacyError,
    LegacyGenerate,
    LegacyModelInfo,
    LegacyScore,
    ScoreItem,
    TokenItem,
    msg_frame,
    parse,
    token_frame,
)

DEEP = "[" * 100_000 + "]" * 100_000


def test_a_generate_frame_of_lmqls_client_is_read():
    frame = (
        'GENERATE {"max_tokens": 64, "temperature": 0.7, "logit_bias": {"3": 100, "7": 100}, '
        '"top_logprobs": 2, "top_p": 0.9, "model": "m", "prompt": [1, 2], "stream_id": 5}'
    )
    assert parse(frame) == LegacyGenerate(
        stream_id=5,
        model="m",
        prompt=[1, 2],
        max_tokens=64,
        temperature=0.7,
        logit_bias={3: 100.0, 7: 100.0},
        top_logprobs=2,
        top_p=0.9,
    )


def test_what_is_absent_has_the_defaults_of_lmqls_server():
    asked = parse('GENERATE {"stream_id": 5, "model": "m", "prompt": []}')
    assert isinstance(asked, LegacyGenerate)
    assert (asked.temperature, asked.max_tokens, asked.top_logprobs) == (0.0, 32, 1)
    assert asked.logit_bias is None


def test_scores_and_questions_for_the_model_are_read():
    assert parse('SCORE {"model": "m", "prompt": [1], "scored": [2, 3], "stream_id": 1}') == LegacyScore(
        stream_id=1, model="m", prompt=[1], scored=[2, 3]
    )
    frame = 'MODEL_INFO {"stream_id": 2, "model": "m", "data": {"model": "m"}}'
    assert parse(frame) == LegacyModelInfo(stream_id=2, model="m")


@pytest.mark.parametrize(
    ("frame", "stream_id"),
    [
        ("", None),
        ("HELLO", None),
        ('PING {"stream_id": 3}', 3),
        ("GENERATE", None),
        ("GENERATE ", None),
        ("GENERATE [1]", None),
        ('GENERATE {"stream_id": 3}', 3),
        ('GENERATE {"stream_id": "a", "prompt": [-1]}', "a"),
        ('GENERATE {"stream_id": 3, "prompt": [1.5]}', 3),
        ('GENERATE {"stream_id": 3, "prompt": [99999999999999999999]}', 3),
        ('GENERATE {"stream_id": 3, "prompt": [1], "temperature": NaN}', 3),
        ('GENERATE {"stream_id": 3, "prompt": [1], "logit_bias": {"x": 100}}', 3),
        ('GENERATE {"stream_id": NaN, "prompt": [1]}', None),
        ('GENERATE {"stream_id": [1], "prompt": [1]}', None),
        ('GENERATE {"stream_id": "\\ud800", "prompt": [1]}', None),
        ("GENERATE \ud800", None),
        (f"GENERATE {DEEP}", None),
        (f'SCORE {{"stream_id": 1, "x": {DEEP}}}', None),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_cannot_be_read_names_the_stream_where_it_can(frame, stream_id):
    with pytest.raises(LegacyError) as refusal:
        parse(frame)
    assert refusal.value.stream_id == stream_id
    assert len(str(refusal.value)) < 450
    assert refusal.value.is_stream == frame.startswith(("GENERATE ", "SCORE ")) or frame == "GENERATE"


@given(command=st.sampled_from(["", "GENERATE ", "SCORE ", "MODEL_INFO "]), rest=st.text(max_size=40))
def test_any_text_is_read_or_refused(command, rest):
    with contextlib.suppress(LegacyError):
        assert parse(command + rest)


def test_items_have_the_fields_of_lmqls_server_in_their_order():
    token = TokenItem(5, 1, -0.5, None, {5: -0.5, 9: -1.5})
    scored = ScoreItem(7, 2, -0.25, "stop")
    assert token_frame([token, scored, ErrorItem(3, "é")]) == (
        'TOKEN [{"token":5,"stream_id":1,"logprob":-0.5,"finish_reason":null,'
        '"top_logprobs":{"5":-0.5,"9":-1.5}},'
        '{"token":7,"stream_id":2,"logprob":-0.25,"finish_reason":"stop"},'
        '{"stream_id":3,"error":"é"}]'
    )


def test_answers_to_questions_are_lists_too():
    assert msg_frame([InfoItem(1, "<unavailable>")]) == 'MSG [{"stream_id":1,"model_info":"<unavailable>"}]'
    assert msg_frame([ErrorItem(None, "x")]) == 'MSG [{"stream_id":null,"error":"x"}]'


def test_an_impossible_token_is_minus_infinity_in_pythons_json():
    frame = token_frame(
        [ScoreItem(7, 2, -math.inf, None), TokenItem(5, 1, -0.5, "stop", {5: -0.5, 9: -math.inf})]
    )
    items = json.loads(frame.removeprefix("TOKEN "))
    assert items[0]["logprob"] == -math.inf
    assert items[1]["top_logprobs"] == {"5": -0.5, "9": -math.inf}
    assert "-Infinity" in frame


@given(
    stream_id=st.integers() | st.text(max_size=5) | st.none() | st.floats(-1e9, 1e9),
    logprob=st.floats(-100, 0) | st.just(-math.inf),
)
def test_a_stream_id_comes_back_as_it_was(stream_id, logprob):
    asked = parse("GENERATE " + json.dumps({"stream_id": stream_id, "prompt": [1]}))
    frame = token_frame([TokenItem(5, asked.stream_id, logprob, None, {5: logprob})])
    item = json.loads(frame.removeprefix("TOKEN "))[0]
    assert item["stream_id"] == stream_id
    assert item["logprob"] == logprob
