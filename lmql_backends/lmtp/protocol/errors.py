"""Errors on the wire: the class by its name, what it says, and the few facts that classes add."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from dcmodel import errors
from dcmodel.errors import DcModelError, EngineError, GenerationError
from lmql_backends.lmtp.protocol.messages import BadFrame, Failed

FACTS: Mapping[str, tuple[type, ...]] = {"position": (int,), "keyword": (str,)}
"""Attributes of errors that travel in `Failed.details`, and their types."""
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def code_of(kind: type[DcModelError]) -> str:
    """``InvalidRequestError`` is ``invalid_request``."""
    return _HUMP.sub("_", kind.__name__.removesuffix("Error")).lower()


@cache
def classes() -> Mapping[str, type[DcModelError]]:
    """Every class of `dcmodel.errors` by its code."""
    kinds = (kind for kind in vars(errors).values() if isinstance(kind, type))
    return {code_of(kind): kind for kind in kinds if issubclass(kind, DcModelError)}


def to_wire(id_: int, error: BaseException, *, details: Mapping[str, Any] | None = None) -> Failed:
    """The answer that says what went wrong.

    Anything but a `DcModelError` is an `EngineError` whose message names its type alone: what an unforeseen
    error says may be of no business to a client. Whoever caught it logs it.
    """
    if not isinstance(error, DcModelError):
        error = EngineError(
            f"the server failed unexpectedly ({type(error).__name__}).", remedy="Its log says more."
        )
    kind = next(kind for kind in type(error).__mro__ if kind.__name__ in vars(errors))
    facts = {
        name: _text(value) if isinstance(value, str) else value
        for name, kinds in FACTS.items()
        if isinstance(value := getattr(error, name, None), kinds) and value != ""
    }
    return Failed(
        id=id_,
        code=code_of(kind),
        message=_text(error.message),
        remedy=_text(error.remedy),
        retryable=error.retryable,
        retry_after=getattr(error, "retry_after", None),
        details={**facts, **(details or {})},
    )


def from_wire(failed: Failed) -> DcModelError:
    """The error that the other side had; one of an unknown class is a `GenerationError`."""
    kind = classes().get(failed.code, GenerationError)
    error = kind(failed.message, remedy=failed.remedy)
    if error.retryable != failed.retryable:
        error.retryable = failed.retryable
    if failed.retry_after is not None:
        vars(error)["retry_after"] = failed.retry_after
    for name, kinds in FACTS.items():
        value = failed.details.get(name)
        if isinstance(value, kinds) and not isinstance(value, bool) and hasattr(error, name):
            setattr(error, name, value)
    return error


def from_bad_frame(bad: BadFrame) -> DcModelError:
    """What the conversation of a message that the other side could not read ends with."""
    return errors.InvalidRequestError(
        f"the other side could not read a message: {bad.message}",
        remedy="Check the values; they may be out of range, or the versions too far apart.",
    )


def _text(text: str) -> str:
    """With a UTF-8 form, whatever was quoted in it."""
    return text.encode("utf-8", "backslashreplace").decode()
