"""What values of a type look like, as terminals of the mask engine."""

from __future__ import annotations

from dcmodel.constraints.regex import Regex
from dcmodel.constraints.schema.formats import PATTERNS


def _terminal(pattern: str) -> str:
    return Regex(pattern).terminal()


def _all(*patterns: str) -> str:
    return f"({' & '.join(map(_terminal, patterns))})"


def _format(name: str) -> str:
    """A format of JSON schema. Its patterns are searched for: what has no anchor goes on there."""
    form = PATTERNS[name]
    whole = [
        ("" if pattern.startswith("^") else "(?s:.*)")
        + pattern.removeprefix("^").removesuffix("$")
        + ("" if pattern.endswith("$") else "(?s:.*)")
        for pattern in form.patterns
    ]
    return _all(*whole, *([f"(?s:.{{1,{form.longest}}})"] if form.longest else []))


_DATE = PATTERNS["date"].patterns[0].removeprefix("^").removesuffix("$")
_HOUR_MINUTE = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_HOUR_MINUTE}(?::[0-5][0-9](?:\.[0-9]{{1,6}})?)?(?:Z|[+-]{_HOUR_MINUTE})?"
_COUNT = "[0-9]{1,6}"
_SECONDS = rf"{_COUNT}(?:\.[0-9]{{1,6}})?S"
_OF_DAY = f"T(?:{_COUNT}H(?:{_COUNT}M)?(?:{_SECONDS})?|{_COUNT}M(?:{_SECONDS})?|{_SECONDS})"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_PORT = "(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_CHARACTER = "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_TAIL = rf"(?:/{_CHARACTER}*)*(?:\?(?:{_CHARACTER}|[/?])*)?(?:#(?:{_CHARACTER}|[/?])*)?"

BOOL = _terminal("[Tt]rue|[Ff]alse")
TEXT = _terminal("(?s:.*)")
DATE = _terminal(_DATE)
TIME = _terminal(_TIME)
DATETIME = _terminal(f"{_DATE}[T ]{_TIME}")
DURATION = _terminal(f"-?P(?:{_COUNT}W|{_COUNT}D(?:{_OF_DAY})?|{_OF_DAY})")
UUID = _format("uuid")
IPV4 = _format("ipv4")
IPV6 = _format("ipv6")
HOSTNAME = _format("hostname")
EMAIL = _all(rf"{_ATOM}(?:\.{_ATOM})*@(?:{_LABEL}\.)+[A-Za-z]{{2,24}}", "[^@]{1,64}@.{1,189}")
# Without a bound of their length, which would make each mask a hundred times dearer.
URI = _format("uri")
URL = _all(
    rf"https?://(?:{_LABEL}\.)*{_LABEL}(?::{_PORT})?{_TAIL}",
    "https?://[^:/?#]{1,253}(?:[:/?#].*)?",
)
