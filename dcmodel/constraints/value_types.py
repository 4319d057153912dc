"""Texts that are a value of a type: a number, a date, an address."""

from __future__ import annotations

import datetime
import ipaddress
import math
import re
import uuid
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from dcmodel.constraint import CompiledConstraint, Constraint
from dcmodel.constraints import value_patterns as patterns
from dcmodel.constraints.algebra.regular import compile_terminal
from dcmodel.constraints.number_ranges import decimals, integers
from dcmodel.constraints.regex import Regex
from dcmodel.errors import InvalidConstraintError, UnsatisfiableConstraintError
from dctokenizers import Tokenizer

MAX_INTEGER = 10**18 - 1
"""The largest number without bounds of one's own, so that a model cannot write digits for ever."""
PLACES = 15
MAX_DECIMAL = Decimal(f"{'9' * PLACES}.{'9' * PLACES}")
MAX_BOUND = 10**100

Number = int | float


@dataclass(frozen=True, slots=True)
class _ValueType:
    terminal: str
    parse: Callable[[str], Any]


class Type(Constraint):
    """The text is a value of a type; `parse` gives the value.

    `of` is a Python type or a name; what a text looks like is in the table below. The length of all is
    bounded, so that a model cannot write digits for ever, but that of str, uri and url.

    | `of` | text | value |
    |---|---|---|
    | int | 0, -12; at most 18 digits unless the bounds are larger | int |
    | float | 1, -0.25; at most 15 digits on each side of the point, no exponent | float |
    | Decimal, "decimal" | as float | Decimal |
    | "number" | as float, and an exponent of one or two digits without bounds | int or float |
    | bool | true, false, True, False | bool |
    | str | anything | str |
    | date | 2024-02-29, a date that exists | date |
    | time | 14:30, 14:30:05.25, with or without Z or +02:00 | time |
    | datetime | a date, T or a space, a time | datetime |
    | timedelta, "duration" | P2W, P1DT2H, -PT0.5S | timedelta |
    | UUID, "uuid" | 8-4-4-4-12 hexadecimal digits | UUID |
    | IPv4Address, "ipv4", IPv6Address, "ipv6" | an address | IPv4Address, IPv6Address |
    | "email", "hostname", "uri", "url" | an address; a url is http or https | str |

    `minimum` and `maximum` are for numbers, and belong to the range themselves.
    """

    kind = "type"

    def __init__(
        self, of: type | str, *, minimum: Number | None = None, maximum: Number | None = None
    ) -> None:
        name = _NAMES.get(of) if isinstance(of, type) else of
        if not isinstance(name, str) or name not in _TYPES | _NUMBERS:
            raise InvalidConstraintError(
                f"there is no type {of!r:.60}.", remedy=f"Types: {', '.join(_TYPES | _NUMBERS)}."
            )
        self.name = name
        self.minimum = minimum
        self.maximum = maximum
        if minimum is not None or maximum is not None:
            self._check_bounds()
        self._type = _TYPES[name] if name in _TYPES else self._number()

    def _check_bounds(self) -> None:
        if self.name not in _NUMBERS:
            raise InvalidConstraintError(
                f"the type {self.name} has no minimum or maximum.",
                remedy=f"Bounds are for {', '.join(_NUMBERS)}.",
            )
        for bound in (self.minimum, self.maximum):
            is_number = type(bound) is int or (type(bound) is float and self.name != "int")
            if bound is not None and not (is_number and math.isfinite(bound) and abs(bound) < MAX_BOUND):
                raise InvalidConstraintError(
                    f"a bound of the type {self.name} is {bound!r:.40}.",
                    remedy=f"Give a {'whole' if self.name == 'int' else 'finite'} number below 1e100.",
                )

    def _number(self) -> _ValueType:
        parse = _NUMBERS[self.name]
        pattern: str | None
        if self.name == "int":
            low = -MAX_INTEGER if self.minimum is None else int(self.minimum)
            high = MAX_INTEGER if self.maximum is None else int(self.maximum)
            pattern = integers(low, high)
        else:
            smallest = MAX_DECIMAL.copy_negate()
            least = smallest if self.minimum is None else max(Decimal(repr(self.minimum)), smallest)
            most = MAX_DECIMAL if self.maximum is None else min(Decimal(repr(self.maximum)), MAX_DECIMAL)
            pattern = decimals(least, most, places=PLACES)
            if self.name == "number" and self.minimum is None and self.maximum is None:
                pattern = f"{pattern}(?:[eE][+-]?[0-9]{{1,2}})?"
        if pattern is None:
            raise UnsatisfiableConstraintError(
                f"no {self.name} is at least {self.minimum} and at most {self.maximum}.",
                remedy="Where a bound is missing, an int has at most 18 digits, another number 15 before "
                "and 15 after the point.",
            )
        return _ValueType(Regex(pattern).terminal(), parse)

    @property
    def key(self) -> Hashable:
        return (self.kind, self.name, self.minimum, self.maximum)

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        label = f"the type {self.name}"
        return compile_terminal(self._type.terminal, tokenizer, label=label, forcing=True)

    def terminal(self) -> str:
        return self._type.terminal

    def parse(self, text: str) -> Any:
        return self._type.parse(text)

    def to_dict(self) -> Mapping[str, Any]:
        return {"kind": self.kind, "of": self.name, "minimum": self.minimum, "maximum": self.maximum}


def _number(text: str) -> Number:
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _boolean(text: str) -> bool:
    return text.lower() == "true"


def _duration(text: str) -> datetime.timedelta:
    fields = re.findall(r"([0-9.]+)([WDHMS])", text)
    names = {"W": "weeks", "D": "days", "H": "hours", "M": "minutes"}
    value = datetime.timedelta(**{names[unit]: int(count) for count, unit in fields if unit != "S"})
    for count, unit in fields:
        if unit == "S":
            # A float of seconds would be off by a microsecond now and then.
            value += datetime.timedelta(microseconds=int(Decimal(count) * 1_000_000))
    return -value if text.startswith("-") else value


_NUMBERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "number": _number,
    "decimal": Decimal,
}
_TYPES: dict[str, _ValueType] = {
    "bool": _ValueType(patterns.BOOL, _boolean),
    "str": _ValueType(patterns.TEXT, str),
    "date": _ValueType(patterns.DATE, datetime.date.fromisoformat),
    "time": _ValueType(patterns.TIME, datetime.time.fromisoformat),
    "datetime": _ValueType(patterns.DATETIME, datetime.datetime.fromisoformat),
    "duration": _ValueType(patterns.DURATION, _duration),
    "uuid": _ValueType(patterns.UUID, uuid.UUID),
    "ipv4": _ValueType(patterns.IPV4, ipaddress.IPv4Address),
    "ipv6": _ValueType(patterns.IPV6, ipaddress.IPv6Address),
    "email": _ValueType(patterns.EMAIL, str),
    "hostname": _ValueType(patterns.HOSTNAME, str),
    "uri": _ValueType(patterns.URI, str),
    "url": _ValueType(patterns.URL, str),
}
_NAMES: dict[type, str] = {
    int: "int",
    float: "float",
    Decimal: "decimal",
    bool: "bool",
    str: "str",
    datetime.date: "date",
    datetime.time: "time",
    datetime.datetime: "datetime",
    datetime.timedelta: "duration",
    uuid.UUID: "uuid",
    ipaddress.IPv4Address: "ipv4",
    ipaddress.IPv6Address: "ipv6",
}
