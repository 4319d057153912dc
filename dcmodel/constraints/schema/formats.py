"""Formats as patterns, where the engine's own reading of them is wider than the format.

All are somewhat narrower than their RFCs: years from 1, capital T and Z, no leap seconds, at most nine
digits of a second, no host name with two hyphens in a row (so none that only looks like an A-label).
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Form:
    """Patterns of ECMA 262 that a text of a format matches, all of them."""

    patterns: tuple[str, ...]
    longest: int | None = None
    """In characters."""
    is_exact: bool = True
    """Whether all that matches is of the format; else there is more to check."""


_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_H = "[0-9A-Fa-f]{1,4}"
_LAST = f"(?:{_H}:{_H}|{_IPV4})"
_IPV6 = (
    "(?:"
    + "|".join(
        (
            f"(?:{_H}:){{6}}{_LAST}",
            *(
                f"(?:{f'(?:{_H}:){{0,{n - 1}}}{_H}' if n else ''})?::(?:{_H}:){{{5 - n}}}{_LAST}"
                for n in range(6)
            ),
            f"(?:(?:{_H}:){{0,5}}{_H})?::{_H}",
            f"(?:(?:{_H}:){{0,6}}{_H})?::",
        )
    )
    + ")"
)
_UNRESERVED = "-A-Za-z0-9._~!$&'()*+,;="
_PERCENT = "%[0-9A-Fa-f]{2}"
_CHAR = f"(?:[{_UNRESERVED}:@]|{_PERCENT})"
_HOST = rf"(?:\[(?:{_IPV6}|[vV][0-9A-Fa-f]+\.[{_UNRESERVED}:]+)\]|(?:[{_UNRESERVED}]|{_PERCENT})*)"
_AUTHORITY = f"(?:(?:[{_UNRESERVED}:]|{_PERCENT})*@)?{_HOST}(?::[0-9]*)?"
_PATHS = f"(?:/{_CHAR}*)*"
_ABSOLUTE = f"/(?:{_CHAR}+{_PATHS})?"
_TAIL = rf"(?:\?(?:{_CHAR}|[/?])*)?(?:#(?:{_CHAR}|[/?])*)?"
_SCHEME = "[A-Za-z][A-Za-z0-9+.-]*:"
_URI = f"{_SCHEME}(?://{_AUTHORITY}{_PATHS}|{_ABSOLUTE}|{_CHAR}+{_PATHS}|){_TAIL}"
_NO_COLON = f"(?:[{_UNRESERVED}@]|{_PERCENT})+"
_RELATIVE = f"(?://{_AUTHORITY}{_PATHS}|{_ABSOLUTE}|{_NO_COLON}{_PATHS}|){_TAIL}"
_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL = r'(?:[^@"]{1,64}|"(?:[^"\\]|\\.){0,31}")'
_POINTER = "(?:/(?:[^~/]|~[01])*)*"
_A, _B = "[A-Za-z0-9]", "[A-Za-z0-9-]"
# No two hyphens at the third place: such a label only looks like Punycode, or has to be decoded.
_HOST_LABEL = f"{_A}(?:{_A}|{_B}{_A}|{_B}{_B}{_A}|{_B}(?:{_A}{_B}|-{_A}){_B}*{_A})?"
_DOMAIN_LABEL = f"(?:{_HOST_LABEL}|[Xx][Nn]--{_B}*{_A})"


def _leap_seconds() -> str:
    """The last second of a day in UTC, at offsets of whole quarters of an hour."""
    times = ["23:59:60(?:\\.[0-9]{1,9})?[Zz]"]
    for hour in range(24):
        for minute in (0, 15, 30, 45):
            for sign in (1, -1):
                local = (24 * 60 - 1 + sign * (hour * 60 + minute)) % (24 * 60)
                offset = f"{'+' if sign > 0 else '-'}{hour:02}:{minute:02}".replace("+", "\\+")
                times.append(f"{local // 60:02}:{local % 60:02}:60(?:\\.[0-9]{{1,9}})?{offset}")
    return "|".join(times)


_ANY_TIME = f"(?:{_TIME.replace('(?:Z|', '(?:[Zz]|')}|{_leap_seconds()})"
_OF_DAY = "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
_OF_DATE = "(?:[0-9]+D|[0-9]+M(?:[0-9]+D)?|[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?)"

PATTERNS: dict[str, Form] = {
    "date": Form((f"^{_DATE}$",)),
    "time": Form((f"^{_ANY_TIME}$",)),
    "date-time": Form((f"^{_DATE}[Tt]{_ANY_TIME}$",)),
    "duration": Form((f"^P(?:[0-9]+W|{_OF_DATE}(?:{_OF_DAY})?|{_OF_DAY})$",)),
    # What stands after xn-- has to be decoded.
    "hostname": Form(
        (rf"^{_DOMAIN_LABEL}(?:\.{_DOMAIN_LABEL})*$", r"^[^.]{1,63}(?:\.[^.]{1,63})*$"),
        longest=253,
        is_exact=False,
    ),
    "idn-hostname": Form(("^[^.]{1,63}(?:[.\u3002\uff0e\uff61][^.]{1,63})*$",), is_exact=False),
    "email": Form(
        (
            rf'^(?:{_ATOM}(?:\.{_ATOM})*|"(?:[ !#-\[\]-~]|\\[ -~])*")@'
            rf"(?:{_WORD}(?:\.{_WORD})*|\[(?:{_IPV4}|IPv6:{_IPV6})\])$",
            rf"^{_LOCAL}@[^.@]{{1,63}}(?:\.[^.@]{{1,63}})*$",
            rf"^{_LOCAL}@[^@]{{1,189}}$",
        ),
    ),
    "idn-email": Form(("^[^ ]+@[^ ]+$",), is_exact=False),
    "ipv4": Form((f"^{_IPV4}$",)),
    "ipv6": Form((f"^{_IPV6}$",)),
    "uuid": Form(("^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$",)),
    "uri": Form((f"^{_URI}$",)),
    "uri-reference": Form((f"^(?:{_URI}|{_RELATIVE})$",)),
    "iri": Form((f'^{_SCHEME}[^ "<>\\\\^`{{|}}]*$',), is_exact=False),
    "iri-reference": Form(('^[^ "<>\\\\^`{|}]*$',), is_exact=False),
    "uri-template": Form((r"^(?:[^ \"<>\\^`{|}]|\{[^{}]+\})*$",), is_exact=False),
    "json-pointer": Form((f"^{_POINTER}$",)),
    "relative-json-pointer": Form((f"^(?:0|[1-9][0-9]*)(?:#|{_POINTER})$",)),
    "regex": Form((), is_exact=False),
}
"""The standard formats. An exact one may be somewhat narrower than its RFC; any other is wider."""
