"""JSON schema formats, from their RFCs and with nothing of the mask engine: the judge's own reading.

Left out: whether a hostname's ``xn--`` label is good Punycode.
"""

from __future__ import annotations

import calendar
import ipaddress
import re
from collections.abc import Callable

_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_TIME = re.compile(r"([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.[0-9]+)?(?:[zZ]|([+-])([0-9]{2}):([0-9]{2}))")
_DURATION = re.compile(
    r"P(?:[0-9]+W|(?=[0-9T])(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)?"
    r"(?:T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S))?)"
)
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_EMAIL = re.compile(
    rf'(?:{_ATOM}(?:\.{_ATOM})*|"(?:[ !#-\[\]-~]|\\[ -~])*")'
    rf"@(?:{_LABEL}(?:\.{_LABEL})*|\[(?P<address>[^\]]*)\])"
)
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_CHARACTER = r"[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2}"
_URI = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*:"
    rf"(?://(?:(?:(?!@)(?:{_CHARACTER}))*@)?(?:\[(?P<host>[^\]]*)\]|(?:(?![:@])(?:{_CHARACTER}))*)(?::[0-9]*)?"
    rf"(?:/(?:{_CHARACTER})*)*|/?(?:(?:{_CHARACTER})+(?:/(?:{_CHARACTER})*)*)?)"
    rf"(?:\?(?:{_CHARACTER}|[/?])*)?(?:#(?:{_CHARACTER}|[/?])*)?"
)
_FUTURE_ADDRESS = re.compile(r"[vV][0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+")


def is_date(text: str) -> bool:
    found = _DATE.fullmatch(text)
    if found is None:
        return False
    year, month, day = map(int, found.groups())
    # Year 0 is a date in RFC 3339; its calendar is that of the year 400.
    return 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year or 400, month)[1]


def is_time(text: str) -> bool:
    found = _TIME.fullmatch(text)
    if found is None:
        return False
    hour, minute, second = (int(found[place]) for place in (1, 2, 3))
    shift_hours, shift_minutes = int(found[5] or 0), int(found[6] or 0)
    if hour > 23 or minute > 59 or second > 60 or shift_hours > 23 or shift_minutes > 59:
        return False
    if second < 60:
        return True
    sign = -1 if found[4] == "-" else 1
    return (hour * 60 + minute - sign * (shift_hours * 60 + shift_minutes)) % 1440 == 1439


def is_date_time(text: str) -> bool:
    return len(text) > 10 and text[10] in "Tt" and is_date(text[:10]) and is_time(text[11:])


def is_hostname(text: str) -> bool:
    return len(text) <= 253 and _HOSTNAME.fullmatch(text) is not None


def is_ipv4(text: str) -> bool:
    return _is_address(ipaddress.IPv4Address, text)


def is_ipv6(text: str) -> bool:
    return "%" not in text and _is_address(ipaddress.IPv6Address, text)


def is_email(text: str) -> bool:
    found = _EMAIL.fullmatch(text)
    if found is None:
        return False
    address = found["address"]
    return address is None or is_ipv4(address) or (address[:5] == "IPv6:" and is_ipv6(address[5:]))


def is_uri(text: str) -> bool:
    found = _URI.fullmatch(text)
    if found is None:
        return False
    host = found["host"]
    return host is None or is_ipv6(host) or _FUTURE_ADDRESS.fullmatch(host) is not None


def _is_address(kind: Callable[[str], object], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


CHECKS: dict[str, Callable[[str], bool]] = {
    "date": is_date,
    "time": is_time,
    "date-time": is_date_time,
    "duration": lambda text: _DURATION.fullmatch(text) is not None,
    "email": is_email,
    "hostname": is_hostname,
    "ipv4": is_ipv4,
    "ipv6": is_ipv6,
    "uuid": lambda text: _UUID.fullmatch(text) is not None,
    "uri": is_uri,
}
