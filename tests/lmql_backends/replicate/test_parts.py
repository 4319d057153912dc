"""The parts that do no I/O: events, waits, failures, and an output on its way."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcmodel.errors import EngineError, ModelNotFoundError, OverloadedError, SetupError, UnauthorizedError
from lmql_backends.lmtp.protocol.codec import JSON
from lmql_backends.lmtp.protocol.messages import Columns, Describe, Described, Done, Generate, Request, Tokens
from lmql_backends.replicate.asked import AskedQuestion, AskedStream
from lmql_backends.replicate.batch import Batch
from lmql_backends.replicate.events import EventParser
from lmql_backends.replicate.failures import AttemptFailed, Kind, from_response, from_status, to_error
from lmql_backends.replicate.retries import Retries
from lmql_backends.replicate.settings import Settings
from lmql_backends.replicate.speech import Frames

STREAM = (
    b": hello\r\n\r\nevent: output\r\nid: 1:0\r\ndata: [1]\r\ndata: \r\n\r\n"
    b"event: output\nid: 2:0\ndata: \xc3\xa9\n\nevent: done\ndata: {}\n\nevent: output\ndata: torn"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_are_the_same_however_they_are_cut(places):
    cuts = [0, *sorted(places), len(STREAM)]
    parser = EventParser()
    events = [event for a, b in pairwise(cuts) for event in parser.feed(STREAM[a:b])]
    assert [(event.name, event.data, event.id) for event in events] == [
        ("output", "[1]\n", "1:0"),
        ("output", "é", "2:0"),
        ("done", "{}", "2:0"),
    ]


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after": "30"}, b"", 30.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, b"", 60.0),
        ({"retry-after": "-3"}, b"", 0.0),
        ({"retry-after": "nan"}, b"", None),
        ({"retry-after": "soon"}, b"", None),
        ({}, b'{"detail": "Request was throttled. Your rate limit resets in ~30s."}', 30.0),
        ({}, b'{"detail": "rate limit resets in ~1.5.2s."}', None),
        ({}, b"\xff" * 10, None),
        ({}, b"[" * 100_000, None),
    ],
)
def test_a_refusal_for_the_rate_says_how_long(headers, body, seconds):
    failure = from_response(429, headers, body, wall_time=0.0)
    assert failure.kind is Kind.RATE_LIMITED
    assert failure.retry_after == seconds


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, UnauthorizedError),
        (402, SetupError),
        (404, ModelNotFoundError),
        (422, ValueError),
        (500, OverloadedError),
    ],
)
def test_an_error_names_the_model_the_reason_and_a_remedy(status, kind):
    body = b'{"title": "Title", "detail": "the detail"}'
    error = to_error(from_response(status, {}, body, 0.0), "replicate:a/b")
    assert isinstance(error, kind)
    assert error.message == f"replicate:a/b: Title: the detail (status {status})."
    assert error.remedy
    assert error.retryable == (status >= 500)


def test_a_predictions_end_is_a_failure_unless_it_succeeded():
    assert from_status("succeeded", None) is None
    assert from_status("aborted", None).kind is Kind.UNAVAILABLE
    assert from_status("canceled", None).is_permanent
    assert from_status("failed", "CUDA error").is_permanent
    assert from_status("failed", "Prediction interrupted; please retry (code: PA)").kind is Kind.UNAVAILABLE
    error = to_error(from_status("failed", "CUDA error"), "m")
    assert isinstance(error, EngineError)
    assert "CUDA error" in error.message


def test_waits_grow_within_their_bounds_until_the_budget_is_spent():
    retries = Retries(Settings(token="t", retries=4, base=1.0, cap=5.0), 0.0, Random(1))
    failure = AttemptFailed(Kind.UNAVAILABLE, "down")
    waits = [retries.wait(failure, 0.0) for _ in range(5)]
    assert waits[-1] is None
    assert all(wait is not None and 1.0 <= wait <= 5.0 for wait in waits[:-1])
    retries.progressed()
    assert retries.wait(failure, 0.0) is not None


def test_refusals_for_the_rate_cost_nothing_but_time():
    retries = Retries(Settings(token="t", retries=0, deadline=100.0), 0.0, Random(1))
    refusal = AttemptFailed(Kind.RATE_LIMITED, "slower", retry_after=30.0)
    assert 30.0 <= retries.wait(refusal, 0.0) <= 30.5
    assert retries.wait(refusal, 60.0) is not None
    assert retries.wait(refusal, 80.0) is None


def line(*messages) -> str:
    return f"{JSON.encode(list(messages))}\n"


TOKENS = [Tokens(id=1, at=place, columns=Columns(token_ids=[place + 5])) for place in range(4)]
DONE = Done(
    id=1,
    tokens=4,
    finish_reason="length",
    stop_reason="max_tokens",
    usage={"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 4, "forced_tokens": 0},
    certificate={"valid": None, "exact": True},
)
OUTPUT = [*(line(message) for message in TOKENS), line(DONE)]


def batch() -> tuple[Batch, list]:
    told: list = []
    asked = AskedStream(Generate(id=1, request=Request(prompt=[1])))
    made = Batch(Frames(), [asked], told.extend)
    made.inputs()
    return made, told


def places(told) -> list[int]:
    return [message.at for message in told if isinstance(message, Tokens)]


@given(st.lists(st.integers(0, 4), max_size=12), st.booleans())
def test_whatever_comes_twice_or_not_at_all_the_client_hears_all_of_it_once(order, breaks):
    """Lines in any order and number; then the whole output."""
    made, told = batch()
    for place in order:
        made.take([OUTPUT[place]])
        if breaks:
            made.broken()
    made.take_all("".join(OUTPUT))
    assert places(told) == [0, 1, 2, 3]
    assert isinstance(told[-1], Done)
    assert made.is_over


@given(st.lists(st.integers(0, len("".join(OUTPUT))), max_size=6))
def test_lines_that_are_torn_are_joined(cuts):
    text = "".join(OUTPUT)
    bounds = [0, *sorted(cuts), len(text)]
    made, told = batch()
    for begin, end in pairwise(bounds):
        made.take([text[begin:end]])
    assert places(told) == [0, 1, 2, 3]
    assert made.is_over


def test_a_new_prediction_is_asked_for_what_is_missing():
    made, _ = batch()
    made.take(OUTPUT[:2])
    (message,) = JSON.decode_client(made.inputs()["lmtp_frame"]).messages[1:]
    assert message.received == [5, 6]


def test_noise_between_answers_is_passed_over():
    told: list = []
    made = Batch(Frames(), [AskedQuestion(Describe(id=3))], told.extend)
    made.inputs()
    answer = Described(id=3, name="n", backend="b", vocab_size=1, max_positions=1, fingerprint="")
    made.take(["downloading weights…\n", line(answer)])
    assert told == [answer]
