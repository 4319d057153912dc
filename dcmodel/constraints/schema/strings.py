"""JSON strings as expressions inside terminals of llguidance's Lark.

All is said of the text as it stands in JSON, in quotes. Each character has one spelling there, the one of
`json.dumps(..., ensure_ascii=False)`: so a text in JSON and the string that it means are one to one, and
a complement of spellings is the complement of strings.
"""

from __future__ import annotations

import json
import unicodedata
from functools import lru_cache

from dcmodel.constraints.schema.ecma import parse
from dcmodel.constraints.schema.ecma_tree import LAST, Chars, Group, Item, Ranges, Repeat

SHORT = {0x22: r"\\\"", 0x5C: r"\\\\", 8: r"\\b", 12: r"\\f", 10: r"\\n", 13: r"\\r", 9: r"\\t"}
"""Escapes of one letter, as regexes."""
ESCAPED = (*range(0x20), 0x22, 0x5C)
PLAIN = r"\x{20}\x{21}\x{23}-\x{5B}\x{5D}-\x{10FFFF}"
"""Characters that stand for themselves, as the inside of a class."""
CHARACTER = rf'(?:[{PLAIN}]|\\["\\bfnrt]|\\u00(?:0[0-7bef]|1[0-9a-f]))'
STRING = f'/"{CHARACTER}*"/'


def escaped(code: int) -> str:
    """The spelling of an escaped character, as a regex."""
    return SHORT.get(code) or rf"\\u{code:04x}"


def literal(text: str) -> str:
    """A JSON string as a literal of Lark."""
    return json.dumps(json.dumps(text, ensure_ascii=False))


@lru_cache(maxsize=1024)
def pattern_terminal(pattern: str, *, relaxed: bool = False) -> str:
    """Strings in which a pattern is found, or more if `relaxed`. Raises `NotRegularError`."""
    parts = []
    for part in parse(pattern, relaxed=relaxed):
        before = "" if part.at_start else f"{CHARACTER}*"
        after = "" if part.at_end else f"{CHARACTER}*"
        parts.append(before + "".join(map(_quoted, part.items)) + after)
    body = parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"
    return f'/"{body}"/'


def length_terminal(low: int, high: int | None) -> str:
    """Strings of so many characters."""
    return f'/"{CHARACTER}{{{low},{"" if high is None else high}}}"/'


@lru_cache(maxsize=1024)
def plain_pattern(pattern: str) -> str:
    """A pattern for a search as the engine's own compiler reads it, anchored. Raises `NotRegularError`."""
    parts = []
    for part in parse(pattern):
        before = "" if part.at_start else "(?s:.)*"
        after = "" if part.at_end else "(?s:.)*"
        parts.append(before + "".join(map(_plain, part.items)) + after)
    return f"^(?:{'|'.join(parts)})$"


@lru_cache(maxsize=1024)
def plain_nodes(pattern: str) -> tuple[str, ...]:
    """What of a pattern may be forced, for `forced_text`: its alternatives without anchors."""
    return tuple("".join(map(_plain, part.items)) for part in parse(pattern))


def _quoted(item: Item) -> str:
    if isinstance(item, Chars):
        return _quoted_chars(item)
    return _combined(item, quoted=True)


def _plain(item: Item) -> str:
    if isinstance(item, Chars):
        return _class(item)
    return _combined(item, quoted=False)


def _combined(item: Item, *, quoted: bool) -> str:
    say = _quoted if quoted else _plain
    if isinstance(item, Group):
        return f"(?:{'|'.join(''.join(map(say, items)) for items in item.alternatives)})"
    assert isinstance(item, Repeat), "anchors were taken out"
    high = "" if item.high is None else item.high
    return f"(?:{say(item.body)}){{{item.low},{high}}}"


def _quoted_chars(chars: Chars) -> str:
    alternatives = [escaped(code) for code in ESCAPED if _holds(chars, code)]
    plain = _class(chars)
    if plain != NOTHING:
        alternatives.insert(0, f"[{PLAIN}&&{plain}]")
    if len(alternatives) == 1 and chars.ranges and not chars.negated and not chars.properties:
        low, high = chars.ranges[0]
        if len(chars.ranges) == 1 and low == high and low not in ESCAPED:
            return rf"\x{{{low:X}}}"
    return f"(?:{'|'.join(alternatives)})"


NOTHING = r"[^\x{0}-\x{10FFFF}]"


def _class(chars: Chars) -> str:
    body = "".join(rf"\x{{{low:X}}}-\x{{{high:X}}}" for low, high in _without_surrogates(chars.ranges))
    body += "".join("\\" + name for name in chars.properties)
    if not body:
        return r"[\x{0}-\x{10FFFF}]" if chars.negated else NOTHING
    return f"[{'^' if chars.negated else ''}{body}]"


def _without_surrogates(ranges: Ranges) -> Ranges:
    result = []
    for low, high in ranges:
        for start, end in ((low, min(high, 0xD7FF)), (max(low, 0xE000), min(high, LAST))):
            if start <= end:
                result.append((start, end))
    return tuple(result)


def _holds(chars: Chars, code: int) -> bool:
    """Whether a class holds a character, which is not one of those added to Unicode of late."""
    inside = any(low <= code <= high for low, high in chars.ranges)
    category = unicodedata.category(chr(code))
    for name in chars.properties:
        inside = inside or category.startswith(name[2:-1]) == (name[0] == "p")
    return inside != chars.negated
