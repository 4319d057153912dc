"""Errors as OpenAI words them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmql_backends.lmtp.server.answers import json_answer
from lmql_backends.lmtp.server.contracts import HttpResponse


class RefusalError(Exception):
    """An answer other than 200, raised where the reason is found."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self.body = error_body(message, param=param, code=code, kind=kind)

    def response(self) -> HttpResponse:
        return json_answer(self.body, status=self.status, headers=self.headers)


def error_body(
    message: str, *, param: str | None = None, code: str | None = None, kind: str
) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def unsupported(param: str) -> RefusalError:
    message = f"Unsupported parameter: '{param}' is not supported with this model."
    return RefusalError(message, param=param, code="unsupported_parameter")


def unknown(param: str) -> RefusalError:
    return RefusalError(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")


def missing(param: str) -> RefusalError:
    message = f"Missing required parameter: '{param}'."
    return RefusalError(message, param=param, code="missing_required_parameter")


def too_large(param: str, most: float, given: float) -> RefusalError:
    kind = "integer" if isinstance(given, int) else "decimal"
    return RefusalError(
        f"Invalid '{param}': {kind} above maximum value. "
        f"Expected a value <= {most:g}, but got {given:g} instead.",
        param=param,
        code=f"{kind}_above_max_value",
    )


def too_small(param: str, least: float, given: float) -> RefusalError:
    kind = "integer" if isinstance(given, int) else "decimal"
    return RefusalError(
        f"Invalid '{param}': {kind} below minimum value. "
        f"Expected a value >= {least:g}, but got {given:g} instead.",
        param=param,
        code=f"{kind}_below_min_value",
    )


def too_many(param: str, most: int, given: int) -> RefusalError:
    """Of a list."""
    return RefusalError(
        f"Invalid '{param}': array too long. Expected an array with maximum length {most}, "
        f"but got an array with length {given} instead.",
        param=param,
        code="array_above_max_length",
    )


def too_many_entries(param: str, most: int, given: int) -> RefusalError:
    """Of an object."""
    return RefusalError(
        f"Invalid '{param}': too many properties. Expected an object with at most {most} properties, "
        f"but got an object with {given} properties instead.",
        param=param,
        code="object_above_max_properties",
    )
