"""What can never work is one clear error with the value and a remedy; through `LLM`, on a real scheduler."""

from __future__ import annotations

import math

import pytest
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel import LLM, MaskFunction
from dcmodel.errors import (
    ConstraintRuntimeError,
    ContextLengthError,
    DcModelError,
    InvalidConstraintError,
    InvalidRequestError,
    MissingDependencyError,
    ModelNotFoundError,
    NonFiniteLogitsError,
    TokenRangeError,
    UnsatisfiableConstraintError,
    UnsupportedConstraintError,
)
from dcmodel.local import LocalDcModel
from dcmodel.registry import Registry

NAN_TOKEN = 77


@pytest.fixture(scope="module")
def llm():
    model = LocalDcModel(loaded_fake(small_tokenizer(), max_positions=64, nan_token=NAN_TOKEN))
    with LLM.from_model(model) as llm:
        yield llm


def the_error(call, kind):
    """The error of a call: of this kind, one line but for a caret, ending like a sentence."""
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    first, *block = text.splitlines()
    if block:  # the place in the source, a caret below it, and the remedy
        assert getattr(caught.value, "position", None) is not None
        assert any(line.strip() == "^" for line in block)
        assert first.endswith(".")
    assert text.endswith((".", '"', "'", "`", ")")) or "pip install" in text
    return caught.value


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"min_p": -0.5}, "min_p is -0.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"presence_penalty": math.inf}, "presence_penalty is inf"),
        ({"logit_bias": {-1: 1.0}}, "-1"),
        ({"logit_bias": {100_000: 1.0}}, "100000"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"top_logprobs": -1}, "top_logprobs is -1"),
        ({"top_logprobs": 10**6}, "top_logprobs is 1000000"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"stop": ["a", ""]}, "stop string"),
        ({"choices": []}, "option"),
        ({"choices": ["a", "a"]}, "'a'"),
        ({"choices": "yes"}, "'yes'"),
        ({"mask": 3}, "3"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_its_value(llm, options, part):
    assert part in str(the_error(lambda: llm.generate("yes", **options), InvalidRequestError))


def test_an_empty_prompt(llm):
    for call in (lambda: llm.generate(""), lambda: llm.score("", ["a"]), lambda: llm.choose("", ["a"])):
        assert "the prompt is empty" in str(the_error(call, InvalidRequestError))


def test_a_token_id_out_of_range(llm):
    size = llm.tokenizer.vocab_size
    for token_id in (-1, size, 2**70):
        error = the_error(lambda ids=(1, token_id): llm.generate(ids), TokenRangeError)
        assert str(token_id) in str(error)
        assert str(size - 1) in str(error)


def test_a_prompt_beyond_the_context(llm):
    error = the_error(lambda: llm.generate([5] * 200), ContextLengthError)
    assert "200" in str(error)
    assert "64" in str(error)
    the_error(lambda: llm.score([5] * 200, ["a"]), ContextLengthError)
    the_error(lambda: llm.score([5] * 60, ["a b c d e f g h i j k l"]), ContextLengthError)


@pytest.mark.parametrize(
    ("options", "kind", "position"),
    [
        ({"regex": "a(b"}, InvalidConstraintError, True),
        ({"regex": "[z-a]"}, InvalidConstraintError, True),
        ({"regex": "(?=a)b"}, UnsupportedConstraintError, True),
        ({"json_schema": '{"type": "integer",}'}, InvalidConstraintError, True),
        ({"json_schema": {"type": "no such type"}}, InvalidConstraintError, False),
        ({"json_schema": False}, UnsatisfiableConstraintError, False),
        ({"grammar": 'start: "a" |\nrule: ('}, InvalidConstraintError, True),
        ({"grammar": ""}, InvalidConstraintError, False),
    ],
    ids=str,
)
def test_a_constraint_that_does_not_compile_says_where(llm, options, kind, position):
    error = the_error(lambda: llm.generate("yes", **options), kind)
    if position:
        assert error.position is not None
        assert error.position >= 0


def test_a_constraint_that_does_not_compile_fails_a_stream_too(llm):
    the_error(lambda: list(llm.stream("yes", regex="a(b")), InvalidConstraintError)
    the_error(lambda: llm.stream("yes", regex="a(b").completion(), InvalidConstraintError)


def test_nan_logits_fail_their_request_and_no_other(llm):
    error = the_error(lambda: llm.generate([5, NAN_TOKEN]), NonFiniteLogitsError)
    assert "NaN" in str(error)
    good, bad = llm.generate([[5, 6], [5, NAN_TOKEN]], max_tokens=3, return_exceptions=True)
    assert good.usage.completion_tokens <= 3
    assert isinstance(bad, NonFiniteLogitsError)
    the_error(lambda: llm.score([5, NAN_TOKEN], ["a"]), NonFiniteLogitsError)


def test_a_mask_function_that_raises_fails_its_request_with_the_reason(llm):
    def broken(token_ids):
        raise KeyError("where is it")

    error = the_error(lambda: llm.generate("yes", mask=broken), ConstraintRuntimeError)
    assert "where is it" in str(error)
    with pytest.raises(DcModelError):
        llm.generate("yes", constraint=MaskFunction(lambda token_ids: [10**9]))


@pytest.mark.parametrize("name", ["no/such/folder/anywhere", "./missing", "/missing/model"])
def test_an_unknown_model(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with LLM(name) as llm:
        error = the_error(lambda: llm.generate("yes"), ModelNotFoundError)
    assert name.lstrip("./") in str(error)


def test_a_missing_extra_names_the_pip_line():
    with LLM(registry=Registry(version_of=lambda name: None)) as llm:
        error = the_error(lambda: llm.generate("yes"), MissingDependencyError)
    assert 'pip install "dcmodel[transformers]"' in str(error)
