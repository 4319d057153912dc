"""Checks of plain arguments: one error each, with the name, the value and the range."""

from __future__ import annotations

import math

from dcmodel.errors import InvalidRequestError


def check_number(
    name: str,
    value: float,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    remedy: str = "",
) -> None:
    """Raise `InvalidRequestError` unless `value` is a finite number in the range."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < low or value > high or (open_low and value == low):
        raise InvalidRequestError(
            f"{name} is {value!r}; it must be a {_range(low, high, open_low)}.", remedy=remedy
        )


def check_integer(name: str, value: int, *, low: int | None = None, high: int | None = None) -> None:
    """Raise `InvalidRequestError` unless `value` is an integer in the range."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or (low is not None and value < low) or (high is not None and value > high):
        bounds = _range(-math.inf if low is None else low, math.inf if high is None else high, False)
        raise InvalidRequestError(f"{name} is {value!r}; it must be a whole {bounds}.")


def _range(low: float, high: float, open_low: bool) -> str:
    parts = []
    if low != -math.inf:
        parts.append(f"{'above' if open_low else 'of at least'} {low:g}")
    if high != math.inf:
        parts.append(f"{'at most' if parts else 'of at most'} {high:g}")
    return "number " + " and ".join(parts) if parts else "finite number"
