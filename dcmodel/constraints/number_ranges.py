"""Regular expressions of the numbers in a range, digit by digit: exact, and as long as the bounds are."""

from __future__ import annotations

from decimal import Decimal
from itertools import groupby


def integers(low: int, high: int) -> str | None:
    """The whole numbers from `low` to `high`, without leading zeros, -0 or a plus sign; None if none."""
    signs = []
    if low < 0:
        signs += [f"-{text}" for text in _whole(max(1, -high), -low)]
    signs += _whole(max(0, low), high)
    return _either(signs)


def decimals(low: Decimal, high: Decimal, *, places: int) -> str | None:
    """The numbers from `low` to `high` in plain notation, with at most `places` digits after the point.

    The fraction may be missing and may end with zeros; zero may have a minus sign where `low` is
    negative. None if there are none.
    """
    # `copy_negate` instead of a minus sign, which rounds to the precision of the context.
    found = []
    if low < 0 and low <= high:
        found += [
            f"-{text}" for text in _unsigned(max(Decimal(0), high.copy_negate()), low.copy_negate(), places)
        ]
    found += _unsigned(max(Decimal(0), low), high, places)
    return _either(found)


def _either(texts: list[str]) -> str | None:
    if not texts:
        return None
    return f"(?:{'|'.join(texts)})" if len(texts) > 1 else texts[0]


def _whole(low: int, high: int) -> list[str]:
    """Numbers from 0 on: for each count of digits what is between the bounds."""
    found = []
    for count in range(len(str(low)), len(str(max(high, 0))) + 1):
        least = max(low, 10 ** (count - 1) if count > 1 else 0)
        most = min(high, 10**count - 1)
        if least <= most:
            found.append(_digits(str(least), str(most)))
    return found


def _digits(low: str, high: str) -> str:
    """The texts of as many digits as both bounds have."""
    rest = len(low) - 1
    if rest < 0:
        return ""
    first, last = int(low[0]), int(high[0])
    if first == last:
        return low[0] + _digits(low[1:], high[1:])
    found = []
    if low[1:] != "0" * rest:
        found.append(low[0] + _digits(low[1:], "9" * rest))
        first += 1
    end = None
    if high[1:] != "9" * rest:
        end = high[0] + _digits("0" * rest, high[1:])
        last -= 1
    if first <= last:
        found.append(_one_of(first, last) + (f"[0-9]{{{rest}}}" if rest else ""))
    if end is not None:
        found.append(end)
    return _either(found) or ""


def _one_of(first: int, last: int) -> str:
    return str(first) if first == last else f"[{first}-{last}]"


def _unsigned(low: Decimal, high: Decimal, places: int) -> list[str]:
    """Numbers from 0 on: what is before the point decides, but at the bounds."""
    if low > high:
        return []
    (low_whole, low_part), (high_whole, high_part) = _split(low), _split(high)
    if low_whole == high_whole:
        groups = [(str(low_whole), _fraction(low_part, high_part, places))]
    else:
        between = _either(_whole(low_whole + 1, high_whole - 1))
        groups = [(str(low_whole), _fraction(low_part, None, places))]
        if between is not None:
            groups.append((between, _fraction("", None, places)))
        groups.append((str(high_whole), _fraction("", high_part, places)))
    return [whole + part for whole, part in groups if part is not None]


def _split(number: Decimal) -> tuple[int, str]:
    """What is before the point, and the digits after it without zeros at the end."""
    whole, _, part = format(number, "f").partition(".")
    return int(whole), part.rstrip("0")


def _fraction(low: str, high: str | None, places: int) -> str | None:
    """A point and digits, or nothing, from `low` to `high` (None: without bound)."""
    may_be_empty, digits = _part(low, high, places)
    if digits is None:
        return "" if may_be_empty else None
    return rf"(?:\.{digits})?" if may_be_empty else rf"\.{digits}"


def _part(low: str, high: str | None, places: int) -> tuple[bool, str | None]:
    """Whether no digit at all is between the bounds, and the texts of one digit or more that are.

    Missing digits count as zeros, in the bounds too.
    """
    may_be_empty = not low
    if not places:
        return may_be_empty, None
    if not low and high is None:
        return True, f"[0-9]{{1,{places}}}"
    first = int(low[0]) if low else 0
    last = 9 if high is None else int(high[0]) if high else 0
    rests = []
    for digit in range(first, last + 1):
        next_low = low[1:] if digit == first else ""
        next_high = high[1:] if high is not None and digit == last else None
        rests.append((digit, _part(next_low, next_high, places - 1)))
    found = []
    for (ends, more), group in groupby(rests, key=lambda item: item[1]):
        numbers = [digit for digit, _ in group]
        digit_class = _one_of(numbers[0], numbers[-1])
        if more is not None:
            found.append(f"{digit_class}(?:{more}){'?' if ends else ''}")
        elif ends:
            found.append(digit_class)
    return may_be_empty, _either(found)
