"""From the bytes of a body to its fields, or an error that names the field at fault."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, TypeVar

import msgspec

from lmql_backends.lmtp.server.openai.errors import FieldError
from lmql_backends.lmtp.server.openai.fields import Body

T = TypeVar("T", bound=Body)

_PLACE = re.compile(r" - at `(?:key in )?\$\.?(.*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`")
_MISSING = re.compile(r"Object missing required field `(.*?)`")


def read(body: bytes, kind: type[T]) -> T:
    """The fields of a request. Raises `FieldError`."""
    decoder: msgspec.json.Decoder[T] = _decoder(kind)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _field_error(str(error)) from None
    except (msgspec.DecodeError, ValueError) as error:
        raise FieldError(
            "", f"the body is not JSON: {error}.", remedy="Send a JSON object.", code="invalid_json"
        ) from None
    except RecursionError:
        raise FieldError("", "the body is nested too deeply.", code="invalid_json") from None


@cache
def _decoder(kind: type[Any]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _field_error(message: str) -> FieldError:
    """What msgspec says, with the field's name in front."""
    place = _PLACE.search(message)
    said = message[: place.start()] if place else message
    param = place[1] if place else ""
    if unknown := _UNKNOWN.match(said):
        name = _joined(param, unknown[1])
        return FieldError(
            name,
            f"there is no field {name!r:.200} here.",
            remedy="Leave it out; docs/openai-server.md lists the fields.",
            code="unknown_parameter",
        )
    if missing := _MISSING.match(said):
        name = _joined(param, missing[1])
        return FieldError(name, f"the field {name!r:.200} is missing.", code="missing_required_parameter")
    where = param or "the body"
    return FieldError(param, f"{where}: {said[:1].lower()}{said[1:]}.")


def _joined(param: str, name: str) -> str:
    return f"{param}.{name}" if param else name
