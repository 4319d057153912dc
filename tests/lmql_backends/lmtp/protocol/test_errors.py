"""An error arrives as what it was."""

from __future__ import annotations

import math

import pytest

from dcmodel import errors as core
from dcmodel.errors import (
    DcModelError,
    EngineError,
    GenerationError,
    InvalidConstraintError,
    InvalidRequestError,
    OverloadedError,
    UnsupportedConstraintError,
)
from lmql_backends.lmtp.protocol import errors
from lmql_backends.lmtp.protocol.codec import JSON, MSGPACK
from lmql_backends.lmtp.protocol.messages import BadFrame, Failed

KINDS = sorted(errors.classes().values(), key=lambda kind: kind.__name__)


def sent(error, codec=JSON):
    """The error on the other side."""
    return errors.from_wire(codec.decode_server(codec.encode([errors.to_wire(3, error)])).messages[0])


def test_every_class_has_a_code_of_its_own():
    public = [kind for kind in vars(core).values() if isinstance(kind, type)]
    assert len(errors.classes()) == len([kind for kind in public if issubclass(kind, DcModelError)])
    assert errors.code_of(UnsupportedConstraintError) == "unsupported_constraint"


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_every_error_arrives_as_its_own_class(kind, codec):
    found = sent(kind("something é is wrong.", remedy="Do it right."), codec)
    assert type(found) is kind
    assert str(found) == "something é is wrong. Do it right."
    assert found.retryable == kind.retryable


def test_what_classes_add_arrives_too():
    assert sent(InvalidConstraintError("x", position=7)).position == 7
    assert sent(InvalidConstraintError("x")).position is None
    error = UnsupportedConstraintError("x", keyword="not")
    error.position = 0
    assert (sent(error).keyword, sent(error).position) == ("not", 0)
    assert sent(OverloadedError("x", retry_after=1.5)).retry_after == 1.5
    assert sent(OverloadedError("x")).retry_after is None
    assert sent(OverloadedError("x")).retryable


def test_a_class_of_a_backends_own_is_the_one_it_comes_from():
    class OurError(EngineError):
        """Nobody else knows it."""

    assert type(sent(OurError("x"))) is EngineError


def test_a_code_that_is_not_known_is_a_failed_generation():
    failed = Failed(id=1, code="from_the_future", message="x", retryable=True, retry_after=2.0)
    error = errors.from_wire(failed)
    assert type(error) is GenerationError
    assert (error.retryable, vars(error)["retry_after"]) == (True, 2.0)
    assert not GenerationError.retryable


def test_what_nobody_foresaw_tells_a_client_nothing():
    failed = errors.to_wire(1, KeyError("the secret"))
    assert failed.code == "engine"
    assert "secret" not in repr(failed)
    assert "KeyError" in failed.message


def test_an_error_that_quotes_half_a_character_can_be_sent():
    assert "\\ud800" in sent(InvalidRequestError("the text '\ud800' is wrong.")).message


def test_facts_of_a_wrong_type_are_ignored():
    details = {"position": "x", "keyword": 5, "other": [1]}
    error = errors.from_wire(Failed(id=1, code="unsupported_constraint", message="x", details=details))
    assert isinstance(error, UnsupportedConstraintError)
    assert (error.position, error.keyword) == (None, "")


def test_more_details_may_be_given():
    failed = errors.to_wire(1, OverloadedError("x"), details={"running": 3})
    assert failed.details == {"running": 3}


def test_a_message_that_could_not_be_read_is_an_invalid_request():
    error = errors.from_bad_frame(BadFrame(message="message 0 cannot be read: x", id=1))
    assert isinstance(error, InvalidRequestError)
    assert "message 0" in str(error)


def test_a_time_that_is_no_number_is_none_on_the_wire():
    assert sent(OverloadedError("x", retry_after=math.inf)).retry_after is None
