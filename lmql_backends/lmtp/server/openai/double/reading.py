"""A double from names and files, as `dcmodel serve` is given them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from dcmodel.errors import InvalidRequestError
from lmql_backends.lmtp.server.openai.double.double import Double
from lmql_backends.lmtp.server.openai.double.limits import PRESETS, limits_from
from lmql_backends.lmtp.server.openai.double.plan import read_json, read_plan
from lmql_backends.lmtp.server.openai.double.rates import RateLimits

UNLIMITED = "open"
"""The preset of a server that only has faults."""


def double_from(
    limits: str | None,
    faults: str | None,
    *,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> Double:
    """`limits`: a preset's name or a file of JSON, which may hold ``rates``; `faults`: a plan's file.

    Raises `InvalidRequestError`.
    """
    given = _limits_of(limits or UNLIMITED)
    rates = given.pop("rates", {})
    if not isinstance(rates, Mapping):
        raise InvalidRequestError(f"{limits}: rates: they are {rates!r:.60}, and no object.")
    asked = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
    rates = {**rates, **{name: value for name, value in asked.items() if value is not None}}
    return Double(
        limits_from(given, place=limits or "limits"),
        rates_from(rates, place=f"{limits or 'limits'}: rates"),
        read_plan(faults) if faults is not None else None,
    )


def rates_from(given: Mapping[str, Any], *, place: str = "rates") -> RateLimits:
    """From plain values. Raises `InvalidRequestError`."""
    try:
        return msgspec.convert(given, RateLimits)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(
            f"{place}: {error}.", remedy="docs/openai-double.md lists the limits."
        ) from None


def _limits_of(name: str) -> dict[str, Any]:
    if name in PRESETS:
        return {"preset": name}
    if "/" not in name and "." not in name:
        raise InvalidRequestError(
            f"there are no limits {name!r:.60}.", remedy=f"There are {', '.join(PRESETS)}, or a file's path."
        )
    given = read_json(name)
    if not isinstance(given, dict):
        raise InvalidRequestError(f"{name}: it is {given!r:.60}, and no object.")
    return given
