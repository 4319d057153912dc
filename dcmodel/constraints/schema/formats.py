"""Formats as patterns, where the engine's own reading of them is wider than the format.

All are somewhat narrower than their RFCs: years from 1, capital T and Z, no leap seconds, at most nine
digits of a second, no host name with two hyphens in a row (so none that only looks like an A-label).
"""

from __future__ import annotations

_LEAP = "(?:[02468][048]|[13579][26])"
_LEAP_YEAR = f"(?:[0-9]{{2}}(?:0[48]|[2468][048]|[13579][26])|{_LEAP}00)"
_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
_MONTHS = (
    "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])",
    "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)",
    "02-(?:0[1-9]|1[0-9]|2[0-8])",
)
# The year 0000 is divisible by 400, and no year of Python's.
_LEAP_DAY = f"(?:{_LEAP_YEAR.replace(f'{_LEAP}00', '(?:0[48]|[2468][048]|[13579][26])00')})-02-29"
_DATE = f"(?:{_YEAR}-(?:{'|'.join(_MONTHS)})|{_LEAP_DAY})"
_HOUR_MINUTE = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_HOUR_MINUTE}:[0-5][0-9](?:\.[0-9]{{1,9}})?(?:Z|[+-]{_HOUR_MINUTE})"
_WORD = "[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*"

FORMATS: dict[str, list[dict[str, object]]] = {
    "date": [{"pattern": f"^{_DATE}$"}],
    "time": [{"pattern": f"^{_TIME}$"}],
    "date-time": [{"pattern": f"^{_DATE}T{_TIME}$"}],
    "hostname": [
        {"pattern": rf"^{_WORD}(?:\.{_WORD})*$"},
        {"pattern": r"^[^.]{1,63}(?:\.[^.]{1,63})*$", "maxLength": 253},
    ],
}
"""Schemas that together stand for a format."""

SILENT_FORMATS = frozenset({"password", "binary", "path"})
"""Formats that say nothing about the text."""
