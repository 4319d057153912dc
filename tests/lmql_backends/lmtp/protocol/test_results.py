"""What the model found is what the client gets, to the last bit."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from fakes.small_tokenizer import small_tokenizer
from fakes.wire_values import distributions as any_distributions
from fakes.wire_values import endings, infos, scores, token_runs
from hypothesis import given
from hypothesis import strategies as st

from dcmodel.constraints import JsonSchema
from dcmodel.errors import GenerationError
from dcmodel.mask import TokenMask
from dcmodel.scheduling.look import likeliest, whole_vocabulary
from dcmodel.types import (
    Certificate,
    FinishReason,
    GenerateRequest,
    ScoreRequest,
    TokenLogprobs,
    TokenStep,
    Usage,
)
from lmql_backends.lmtp.protocol import columns, distributions, numbers, results
from lmql_backends.lmtp.protocol.codec import JSON, MSGPACK
from lmql_backends.lmtp.protocol.messages import (
    Columns,
    Distribution,
    Distributions,
    Done,
    Scored,
    Scores,
    Tokens,
    Top,
)

BOTH = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=repr)
USAGE = Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=1, forced_tokens=0)
VALID = Certificate(valid=True, exact=True)
NAN = float("nan")


def sent(codec, message):
    """The message on the other side."""
    found = codec.decode_server(codec.encode([message]))
    assert not found.bad
    return found.messages[0]


def exactly(value) -> str:
    """Equal for equal values, NaN included, and different for 0.0 and its like that are not."""
    return repr(value)


@BOTH
@given(steps=token_runs)
def test_tokens_arrive_as_they_were(codec, steps):
    message = sent(codec, Tokens(id=1, at=4, columns=columns.columns_of(steps)))
    assert exactly(columns.steps_of(message.columns)) == exactly(steps)


@BOTH
@given(steps=token_runs.filter(lambda steps: steps and steps[0].logprobs))
def test_what_a_session_knows_of_its_tokens_arrives_as_it_was(codec, steps):
    known = tuple(step.logprobs for step in steps)
    wire = columns.logprob_columns([step.token_id for step in steps], known)
    assert exactly(columns.logprobs_of(sent(codec, Tokens(id=1, at=0, columns=wire)).columns)) == exactly(
        known
    )


def test_plain_tokens_take_few_columns():
    known = TokenLogprobs(raw_logprob=-1.5, masked_logprob=-1.5, log_mass=0.0)
    wire = columns.columns_of([TokenStep(token_id=5, text="a", logprobs=known)])
    assert wire == Columns(token_ids=[5], texts=["a"], raw=[-1.5])


def test_the_last_token_says_why_the_stream_ended():
    steps = columns.steps_of(Columns(token_ids=[5, 6]), FinishReason.STOP)
    assert [step.finish_reason for step in steps] == [None, FinishReason.STOP]


def test_tokens_with_and_without_log_probabilities_are_not_mixed():
    known = TokenLogprobs(raw_logprob=-1.5, masked_logprob=-1.5, log_mass=0.0)
    steps = [TokenStep(token_id=5, text="", logprobs=known), TokenStep(token_id=6, text="")]
    with pytest.raises(ValueError, match="2 tokens and 1"):
        columns.columns_of(steps)


@pytest.mark.parametrize(
    "wrong",
    [
        Columns(token_ids=[1, 2], texts=["a"]),
        Columns(token_ids=[1, 2], raw=[-1.0]),
        Columns(token_ids=[1, 2], raw=[-1.0, -1.0], masked=[-1.0]),
        Columns(token_ids=[1, 2], raw=[-1.0, -1.0], log_mass=[-1.0]),
        Columns(token_ids=[1, 2], raw=[-1.0, -1.0], top_raw=[Top(token_ids=[], logprobs=[])]),
        Columns(token_ids=[1], raw=[-1.0], top_raw=[Top(token_ids=[1], logprobs=[])]),
    ],
)
def test_columns_that_do_not_fit_are_an_error(wrong):
    with pytest.raises(GenerationError, match="values for"):
        columns.steps_of(wrong)


@given(value=st.floats(allow_infinity=False, max_value=1e300, min_value=-1e300) | st.just(-math.inf))
def test_a_number_arrives_as_it_was(value):
    assert exactly(numbers.from_wire(numbers.to_wire(value))) == exactly(value)
    assert math.isfinite(numbers.to_wire(value))


def test_what_stands_for_minus_infinity_has_the_probability_0():
    assert numbers.to_wire(-math.inf) == -1.7976931348623157e308
    assert math.exp(numbers.IMPOSSIBLE) == 0.0
    assert numbers.to_wire(NAN) == 1.7976931348623157e308


# -- distributions -----------------------------------------------------------------------------------


def assert_equal_bits(left, right):
    for name in ("token_ids", "raw_logprobs", "masked_logprobs"):
        one, other = getattr(left, name), getattr(right, name)
        assert (one.dtype, one.tobytes()) == (other.dtype, other.tobytes()), name
    assert exactly(left.log_mass) == exactly(right.log_mass)


def through(codec, found):
    wire = distributions.to_wire(found)
    return distributions.from_wire(sent(codec, Distributions(id=1, items=[wire])).items[0])


@BOTH
@given(found=any_distributions())
def test_a_distribution_arrives_as_it_was(codec, found):
    assert_equal_bits(through(codec, found), found)


def some_logprobs(vocab_size=384, impossible=0):
    logits = np.random.default_rng(0).normal(size=vocab_size).astype(np.float32) * 3
    logits[:impossible] = -np.inf
    return (logits - np.log(np.exp(logits).sum())).astype(np.float32)


@BOTH
@pytest.mark.parametrize("ids", [None, [3, 5, 300], range(384), range(10)])
@pytest.mark.parametrize("impossible", [0, 20])
def test_a_whole_vocabulary_arrives_without_its_masked_half(codec, ids, impossible):
    bits = None if ids is None else TokenMask.from_ids(ids, 384).bits
    with np.errstate(invalid="ignore"):
        found = whole_vocabulary(some_logprobs(impossible=impossible), bits)
    wire = distributions.to_wire(found)
    assert (len(wire.raw), wire.masked, wire.token_ids) == (4 * 384, b"", b"")
    assert_equal_bits(through(codec, found), found)


@BOTH
def test_the_likeliest_tokens_arrive_as_they_were(codec):
    found = likeliest([5, 3, -1], [-0.1, -2.3, -9.0], -0.7)
    assert_equal_bits(through(codec, found), found)


@pytest.mark.parametrize(
    "wrong",
    [
        Distribution(raw=b"abc", log_mass=0.0),
        Distribution(raw=bytes(8), log_mass=0.0, token_ids=bytes(4)),
        Distribution(raw=bytes(8), log_mass=0.0, allowed=bytes(2)),
        Distribution(raw=bytes(8), log_mass=0.0, masked=bytes(4)),
    ],
)
def test_a_distribution_that_contradicts_itself_is_an_error(wrong):
    with pytest.raises(GenerationError):
        distributions.from_wire(wrong)


# -- ends, scores, models ----------------------------------------------------------------------------


@BOTH
@given(ending=endings())
def test_a_completion_arrives_as_it_was(codec, ending):
    request, steps, completion, rest = ending
    shown = len(completion.text) - len(rest)
    done = results.done_of(1, completion, shown=shown, resumed=bool(request.resumed))
    assert exactly(results.completion_of(request, steps, sent(codec, done))) == exactly(completion)


def test_the_value_is_parsed_where_the_text_is_valid():
    request = GenerateRequest(prompt_ids=(1,), constraint=JsonSchema({"type": "array"}))
    steps = [TokenStep(token_id=5, text="[1"), TokenStep(token_id=6, text=", 2]")]
    done = Done(id=1, tokens=2, finish_reason="stop", stop_reason="eos", usage=USAGE, certificate=VALID)
    assert results.completion_of(request, steps, done).parsed == [1, 2]
    cut = Certificate(valid=False, exact=True)
    done = Done(id=1, tokens=2, finish_reason="length", stop_reason="x", usage=USAGE, certificate=cut)
    assert results.completion_of(request, steps, done).parsed is None


def test_a_stream_that_lacks_tokens_is_an_error():
    done = Done(id=1, tokens=2, finish_reason="stop", stop_reason="eos", usage=USAGE, certificate=VALID)
    with pytest.raises(GenerationError, match="1 tokens, and its end speaks of 2"):
        results.completion_of(GenerateRequest(prompt_ids=(1,)), [TokenStep(token_id=5, text="")], done)


def test_an_end_for_an_unknown_reason_is_an_error():
    done = Done(id=1, tokens=0, finish_reason="boredom", stop_reason="", usage=USAGE, certificate=VALID)
    with pytest.raises(GenerationError, match="boredom"):
        results.completion_of(GenerateRequest(prompt_ids=(1,)), [], done)


@BOTH
@given(pair=scores())
def test_scores_arrive_as_they_were(codec, pair):
    request, found = pair
    message = sent(codec, results.scored_of(1, found))
    assert exactly(results.score_result_of(request, message)) == exactly(found)


@pytest.mark.parametrize(
    "scored",
    [
        Scored(id=1, usage=USAGE),
        Scored(id=1, usage=USAGE, continuations=[Scores(logprobs=[-1.0], ranks=[0])]),
        Scored(id=1, usage=USAGE, continuations=[Scores(logprobs=[-1.0, -1.0], ranks=[0])]),
    ],
)
def test_scores_that_do_not_fit_the_question_are_an_error(scored):
    with pytest.raises(GenerationError):
        results.score_result_of(ScoreRequest(prompt_ids=(1,), continuations=((1, 2),)), scored)


@BOTH
@given(info=infos)
def test_a_model_is_described_as_it_is(codec, info):
    tokenizer = small_tokenizer()
    described = sent(codec, results.described_of(1, info, tokenizer, can_heal=True))
    assert results.model_info_of(described) == replace(info, details=dict(info.details))
    assert (described.fingerprint, described.eos_token_ids) == (tokenizer.fingerprint, [1])
    assert described.can_heal
