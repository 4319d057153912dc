"""JSON numbers as expressions of llguidance's Lark, and JSON read with exact numbers."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from math import lcm
from typing import Any

from jsonschema_rs.canonical import IntegerView, NumberView

Number = int | float | Decimal

INTEGER = r"-?(?:0|[1-9][0-9]*)"
WHOLE = rf"/{INTEGER}(?:\.0+)?/"
"""1.0 is a whole number; 1e3 is one, too, and is not written so."""
NUMBER = rf"/{INTEGER}(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/"
BROKEN = rf"/{INTEGER}\.[0-9]*[1-9][0-9]*/"
"""A number that is not whole."""
ZEROS = r"/\.0+/"
MAX_DIGITS = 15
"""The engine computes with floats of 64 bits, and with a product of factors of 32."""
MAX_FACTOR = 10**6
MAX_EXPONENT = 5_000
"""Numbers with a larger exponent are refused where a schema has to be checked: too long to compute with."""


class HugeNumberError(ValueError):
    """A number whose exponent is too large for exact arithmetic."""


def load_exact(text: str | bytes) -> Any:
    """JSON with exact numbers. Raises `ValueError` for what is not JSON."""
    return json.loads(text, parse_float=_exact, parse_int=_whole, parse_constant=_refuse)


def _exact(digits: str) -> Decimal:
    exponent = digits.lower().partition("e")[2].lstrip("+-").lstrip("0")
    if len(exponent) > 4 or (exponent and int(exponent) > MAX_EXPONENT) or len(digits) > MAX_EXPONENT:
        raise HugeNumberError(digits[:40])
    return Decimal(digits)


def _whole(digits: str) -> int:
    if len(digits) > 4000:  # the limit of `int`
        raise HugeNumberError(digits[:40])
    return int(digits)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def constant(value: Number) -> str:
    """The spellings of one number, as a terminal: 1 and 1.0, but not all exponents."""
    spellings = [f"{_digits(value)}"]
    usual = repr(float(value)) if abs(Decimal(value).adjusted()) < 300 else ""
    if "e" in usual:
        spellings.append(usual.replace("+", r"\+").replace(".", r"\."))
    return f"/(?:{'|'.join(spellings)})/"


def _digits(value: Number) -> str:
    exact = Decimal(str(value)) if isinstance(value, float) else Decimal(value)
    if exact == 0:
        return r"-?0(?:\.0+)?"
    if abs(exact.adjusted()) > 400:
        mantissa = str(exact).lower().replace("+", r"\+?").replace(".", r"\.")
        return mantissa.replace("e", "[eE]")
    text = format(exact, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace(".", r"\.") + ("0*" if "." in text else r"(?:\.0+)?")


def integer_leaf(view: IntegerView) -> tuple[dict[str, Any] | None, bool]:
    """A schema of whole numbers for the engine (None: all of them), and whether it says all."""
    leaf: dict[str, Any] = {}
    is_exact = not view.not_multiple_of
    for name, bound in (("minimum", view.minimum), ("maximum", view.maximum)):
        if bound is not None:
            if _is_handy(bound):
                leaf[name] = bound
            else:
                is_exact = False
    # A whole number is a multiple of p/q, in lowest terms, exactly if it is one of p.
    factors = [_fraction(factor).numerator for factor in view.multiple_of]
    if factors:
        factor = lcm(*factors)
        if factor > MAX_FACTOR:
            is_exact = False
        elif factor > 1:
            leaf["multipleOf"] = factor
    return ({"type": "integer", **leaf} if leaf else None), is_exact


def number_leaf(view: NumberView) -> tuple[dict[str, Any] | None, bool]:
    """A schema of numbers for the engine (None: all of them), and whether it says all."""
    leaf: dict[str, Any] = {}
    is_exact = not view.not_multiple_of and not view.excludes_integers and len(view.multiple_of) < 2
    bounds = (
        ("minimum", view.minimum, view.exclusive_minimum),
        ("maximum", view.maximum, view.exclusive_maximum),
    )
    for name, bound, is_exclusive in bounds:
        if bound is not None:
            if _is_handy(bound):
                leaf[f"exclusive{name.title()}" if is_exclusive else name] = _plain(bound)
            else:
                is_exact = False
    if view.multiple_of:
        factor = view.multiple_of[0]
        exact = _fraction(factor)
        if exact.numerator < MAX_FACTOR and exact.denominator < MAX_FACTOR and _is_handy(factor):
            leaf["multipleOf"] = _plain(factor)
        else:
            is_exact = False
    return ({"type": "number", **leaf} if leaf else None), is_exact


def _fraction(value: Number) -> Fraction:
    return Fraction(str(value)) if isinstance(value, float) else Fraction(value)


def _is_handy(value: Number) -> bool:
    """Whether a float of 64 bits holds the number, and prints without an exponent."""
    exact = Decimal(str(value)) if isinstance(value, float) else Decimal(value)
    digits = exact.as_tuple().digits
    return exact == 0 or (len(digits) <= MAX_DIGITS and -7 < exact.adjusted() < MAX_DIGITS)


def _plain(value: Number) -> int | float:
    return float(value) if isinstance(value, Decimal) else value
