"""What a client asks is what the model gets."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes.small_tokenizer import small_tokenizer
from fakes.wire_values import generate_requests, scores, token_ids
from hypothesis import given
from hypothesis import strategies as st

from dcmodel.constraints import MaskFunction, Regex
from dcmodel.errors import CapabilityError, InvalidConstraintError, InvalidRequestError, TokenRangeError
from dcmodel.mask import TokenMask
from dcmodel.scheduling.randomness import SEED_MASK
from dcmodel.types import GenerateRequest, SamplingParams, ScoreRequest
from lmql_backends.lmtp.protocol import requests
from lmql_backends.lmtp.protocol.codec import JSON, MSGPACK
from lmql_backends.lmtp.protocol.messages import Generate, Mask, NextTokens, Request, Score

BOTH = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=repr)
OTHER = "0" * 64


def sent(codec, message):
    """The message on the other side."""
    found = codec.decode_client(codec.encode([message]))
    assert not found.bad
    return found.messages[0]


@BOTH
@given(request=generate_requests, received=st.lists(token_ids, max_size=3))
def test_a_request_arrives_as_it_was(codec, request, received):
    message = requests.generate_to_wire(7, request, model="m", received=received, credit=3)
    arrived = sent(codec, message)
    found = requests.generate_from_wire(arrived, small_tokenizer())
    sampling = request.sampling
    expected = replace(
        request,
        resumed=(*request.resumed, *received),
        sampling=replace(
            sampling,
            seed=None if sampling.seed is None else sampling.seed & SEED_MASK,
            top_k=min(sampling.top_k, requests.LARGEST),
        ),
    )
    assert replace(found, constraint=None) == replace(expected, constraint=None)
    assert (found.constraint and found.constraint.key) == (request.constraint and request.constraint.key)
    assert (arrived.id, arrived.request.model, arrived.credit) == (7, "m", 3)


@BOTH
@given(pair=scores())
def test_a_question_for_scores_arrives_as_it_was(codec, pair):
    request = pair[0]
    message = sent(codec, requests.score_to_wire(1, request))
    assert requests.score_from_wire(message, small_tokenizer()) == request


@BOTH
def test_a_question_for_next_tokens_arrives_as_it_was(codec):
    tokenizer = small_tokenizer()
    message = requests.next_tokens_to_wire(
        1, [[1, 2], [3]], [None, [5, 6]], 4, vocab_size=tokenizer.vocab_size
    )
    prefixes, masks, k = requests.next_tokens_from_wire(sent(codec, message), tokenizer)
    assert prefixes == [[1, 2], [3]]
    assert masks == [None, TokenMask.from_ids([5, 6], tokenizer.vocab_size)]
    assert k == 4
    assert message.adapter == ""
    message = requests.next_tokens_to_wire(1, [(1,)], vocab_size=tokenizer.vocab_size, adapter="a")
    assert sent(codec, message).adapter == "a"
    assert requests.next_tokens_from_wire(sent(codec, message), tokenizer) == ([[1]], None, None)


def test_wrong_arguments_of_next_tokens_are_found_before_they_are_sent():
    with pytest.raises(InvalidRequestError, match="2 prefixes and 1 masks"):
        requests.next_tokens_to_wire(1, [[1], [2]], [None], vocab_size=384)
    with pytest.raises(InvalidRequestError, match="k is 0"):
        requests.next_tokens_to_wire(1, [[1]], k=0, vocab_size=384)


def test_a_text_is_encoded_as_the_start_of_a_prompt():
    tokenizer = small_tokenizer()
    found = requests.from_wire(Request(prompt="The quick"), tokenizer)
    assert found == GenerateRequest(prompt_ids=tuple(tokenizer.encode_prompt("The quick")))


def test_a_function_of_the_callers_cannot_be_sent():
    request = GenerateRequest(prompt_ids=(1,), constraint=MaskFunction(lambda ids: None))
    with pytest.raises(CapabilityError):
        requests.to_wire(request)


@pytest.mark.parametrize(
    "options", [{"stop": ("\ud800",)}, {"healed": "\ud800"}], ids=["stop string", "healed text"]
)
def test_a_text_without_a_utf8_form_is_refused_before_it_shares_a_frame(options):
    with pytest.raises(InvalidRequestError, match="cannot be sent"):
        requests.to_wire(GenerateRequest(prompt_ids=(1,), **options))


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (requests.generate_from_wire, Generate(id=1, request=Request(prompt=[1], fingerprint=OTHER))),
        (requests.score_from_wire, Score(id=1, prompt=[1], continuations=[[1]], fingerprint=OTHER)),
        (requests.next_tokens_from_wire, NextTokens(id=1, prefixes=[[1]], fingerprint=OTHER)),
    ],
    ids=["generate", "score", "next tokens"],
)
def test_ids_of_another_vocabulary_are_refused(convert, message):
    tokenizer = small_tokenizer()
    with pytest.raises(InvalidRequestError) as refusal:
        convert(message, tokenizer)
    assert OTHER[:16] in str(refusal.value)
    assert tokenizer.fingerprint[:16] in str(refusal.value)


def test_ids_of_the_same_vocabulary_are_taken():
    tokenizer = small_tokenizer()
    request = GenerateRequest(prompt_ids=(1,))
    wire = requests.to_wire(request, fingerprint=tokenizer.fingerprint)
    assert requests.from_wire(wire, tokenizer) == request


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (Request(prompt=[]), InvalidRequestError, "the prompt is empty"),
        (Request(prompt=""), InvalidRequestError, "the prompt is empty"),
        (Request(prompt=[1], max_tokens=0), InvalidRequestError, "max_tokens is 0"),
        (Request(prompt=[1], top_logprobs=1001), InvalidRequestError, "top_logprobs"),
        (Request(prompt=[1], stop=[""]), InvalidRequestError, "stop string is empty"),
        (Request(prompt=[1], constraint={"kind": "nonsense"}), InvalidConstraintError, "nonsense"),
        (Request(prompt=[1], constraint={}), InvalidConstraintError, "kind"),
        (
            Request(prompt=[1], constraint=dict(Regex("a").to_dict()), ignore_eos=True),
            InvalidRequestError,
            "ignore_eos",
        ),
    ],
)
def test_what_can_never_work_is_refused_with_what_a_local_model_says(request_, error, message):
    with pytest.raises(error, match=message):
        requests.from_wire(request_, small_tokenizer())


def test_a_mask_beyond_the_vocabulary_is_refused():
    message = NextTokens(id=1, prefixes=[[1]], masks=[Mask(form="allow", data=b"\xff\xff\0\0")])
    with pytest.raises(TokenRangeError):
        requests.next_tokens_from_wire(message, small_tokenizer())


def test_default_sampling_is_left_out():
    request = GenerateRequest(prompt_ids=(1,), sampling=SamplingParams(temperature=0.0))
    message = requests.generate_to_wire(1, request)
    assert JSON.encode([message]) == '[{"type":"generate","id":1,"request":{"prompt":[1]}}]'


def test_nothing_to_score_is_refused():
    with pytest.raises(InvalidRequestError, match="nothing to score"):
        requests.score_from_wire(Score(id=1, prompt=[1, 2]), small_tokenizer())
    assert requests.score_from_wire(
        Score(id=1, prompt=[1, 2], prompt_logprobs=0), small_tokenizer()
    ) == ScoreRequest(prompt_ids=(1, 2), prompt_logprobs=0)
