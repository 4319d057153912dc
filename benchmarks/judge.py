"""An independent judge of JSON texts: `jsonschema`, with what differs between Python and JSON put right.

Numbers are exact (decimal), 1.0 is an integer, patterns are read as ECMA 262, formats are asserted,
and of a repeated key both the first and the last value must be valid.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Context, Decimal, InvalidOperation, localcontext
from typing import Any

import jsonschema
from jsonschema import FormatChecker, TypeChecker
from jsonschema.validators import extend, validator_for
from referencing.exceptions import Unresolvable

from benchmarks.formats import CHECKS

TIME_LIMIT = 10.0
# Enough digits for exact remainders of whatever a float can hold; exponents beyond are cut.
_CONTEXT = Context(prec=2000)
_MAX_EXPONENT = 10**5
_MAPS = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"}
)
_VALUES = frozenset({"enum", "const", "default", "examples"})
_ESCAPED_SPACE = r"\t\n\v\f\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"


class NotCheckableError(Exception):
    """The judge cannot say: a pattern that Python cannot compile, a reference that leads away."""


class Judge:
    """Says of texts whether they are JSON that is valid under one schema."""

    def __init__(self, schema: str) -> None:
        """`schema` is JSON text. Raises `NotCheckableError`."""
        try:
            value = _translate(json.loads(schema, parse_float=Decimal))
            kind = validator_for(value, default=jsonschema.Draft202012Validator)
            checker: Callable[..., Any] = extend(kind, type_checker=_numbers(kind.TYPE_CHECKER))
            self._validator = checker(value, format_checker=_formats())
        except (re.error, ValueError, RecursionError) as error:
            raise NotCheckableError(f"{type(error).__name__}: {error}") from None

    def fault(self, text: str) -> str | None:
        """What is wrong with `text`; None if nothing is. Raises `NotCheckableError`."""
        try:
            last, has_repeats = _parse(text, first_wins=False)
        except ValueError as error:
            return f"no JSON: {error}"
        except RecursionError as error:
            raise NotCheckableError(f"{type(error).__name__}: {error}") from None
        values = [last, _parse(text, first_wins=True)[0]] if has_repeats else [last]
        try:
            with _time_limit(TIME_LIMIT), localcontext(_CONTEXT):
                for value in values:
                    error = next(self._validator.iter_errors(value), None)
                    if error is not None:
                        return f"{error.json_path}: {error.message[:200]} ({error.validator})"
        except (
            re.error,
            Unresolvable,
            RecursionError,
            InvalidOperation,
            OverflowError,
            TimeoutError,
        ) as failure:
            raise NotCheckableError(f"{type(failure).__name__}: {failure}") from None
        return None


def has_repeated_keys(text: str) -> bool:
    """Whether some object names a key twice (legal JSON, though it should not)."""
    return _parse(text, first_wins=False)[1]


def _parse(text: str, *, first_wins: bool) -> tuple[Any, bool]:
    has_repeats = False

    def to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal has_repeats
        result = dict(reversed(pairs)) if first_wins else dict(pairs)
        has_repeats = has_repeats or len(result) < len(pairs)
        return result

    value = json.loads(
        text,
        parse_float=_number,
        parse_int=lambda digits: int(digits) if len(digits) < 4000 else Decimal(digits),
        parse_constant=_no_constant,
        object_pairs_hook=to_object,
    )
    return value, has_repeats


def _number(text: str) -> Decimal:
    """Exact, but an exponent beyond 100,000 is cut: too large or too small for any schema anyway."""
    mantissa, _, exponent = text.lower().partition("e")
    if len(exponent) < 6:
        return Decimal(text)
    power = int(exponent) if len(exponent) < 4000 else int(f"{exponent[0]}9") * _MAX_EXPONENT
    return Decimal(f"{mantissa}e{max(-_MAX_EXPONENT, min(_MAX_EXPONENT, power))}")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _numbers(types: TypeChecker) -> TypeChecker:
    def is_integer(_: Any, value: Any) -> bool:
        if isinstance(value, Decimal):
            return not value or value == value.to_integral_value()
        return isinstance(value, int) and not isinstance(value, bool)

    return types.redefine("integer", is_integer)


def _formats() -> FormatChecker:
    checker = FormatChecker(formats=())
    for name, check in CHECKS.items():
        checker.checks(name)(lambda value, check=check: not isinstance(value, str) or check(value))
    return checker


def _translate(schema: Any) -> Any:
    """The schema with its patterns in Python's dialect."""
    if isinstance(schema, list):
        return [_translate(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "pattern" and isinstance(value, str):
            result[key] = python_pattern(value)
        elif key in _MAPS and isinstance(value, dict):
            names = map(python_pattern, value) if key == "patternProperties" else value
            result[key] = dict(zip(names, map(_translate, value.values()), strict=True))
        else:
            result[key] = value if key in _VALUES else _translate(value)
    return result


def python_pattern(pattern: str) -> str:
    """An ECMA 262 pattern for `re.search`. Raises `re.error` for what cannot be said."""
    parts = ["(?a)"]
    in_class = False
    for token in re.findall(r"\\.|\(\?<(?![=!])|.", pattern, re.DOTALL):
        if token == r"\s":
            parts.append(_ESCAPED_SPACE if in_class else f"[{_ESCAPED_SPACE}]")
        elif token == r"\S":
            if in_class:
                raise re.error(r"\S in a class")
            parts.append(f"[^{_ESCAPED_SPACE}]")
        elif in_class:
            in_class = token != "]"
            parts.append("\\[" if token == "[" else token)
        elif token == "[":
            in_class = True
            parts.append(token)
        else:
            parts.append({".": r"[^\n\r\u2028\u2029]", "$": r"\Z", "(?<": "(?P<"}.get(token, token))
    translated = "".join(parts)
    re.compile(translated)
    return translated


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """A pattern may take for ever. Only in the main thread; elsewhere nothing limits it."""

    def give_up(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds:g} s")

    try:
        before = signal.signal(signal.SIGALRM, give_up)
    except ValueError:  # not the main thread
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
