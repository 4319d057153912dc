"""What may come next, in words: texts where they are certain, else classes of characters."""

from __future__ import annotations

from collections.abc import Iterable

from dcmodel.constraint import Walker

MAX_EXPECTED = 8
MAX_TEXT = 60
MAX_BRANCHES = 12
"""With more bytes that may follow, classes are named instead of the texts that begin with them."""
MAX_MISSING = 6

DIGITS = frozenset(b"0123456789")
LOWER = frozenset(b"abcdefghijklmnopqrstuvwxyz")
UPPER = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
HEX = DIGITS | frozenset(b"abcdefABCDEF")
PRINTABLE = frozenset(range(0x20, 0x7F))
LEADS = frozenset(range(0xC2, 0xF5))
CLASSES = (
    (DIGITS | LOWER | UPPER, "a letter or digit"),
    (LOWER | UPPER, "a letter"),
    (HEX, "a hexadecimal digit"),
    (DIGITS, "a digit"),
    (LOWER, "a lower-case letter"),
    (UPPER, "an upper-case letter"),
)
NAMES = {0x20: "a space", 0x0A: "a newline", 0x09: "a tab", 0x0D: "a carriage return"}
THE_END = "the end"


def expected_after(walker: Walker) -> tuple[str, ...]:
    """Up to `MAX_EXPECTED` texts or classes that may come next, most telling first."""
    found = [THE_END] if walker.is_accepting else []
    following = bytes_of(walker.following())
    if len(following) <= MAX_BRANCHES:
        texts = [forced_text(walker, byte) for byte in following]
        single = [text[0] for text in texts if len(text) == 1]
        found += [quoted(text) for text in texts if len(text) > 1]
        found += name_bytes(single)
    else:
        found += name_bytes(following)
    return tuple(found[:MAX_EXPECTED])


def bytes_of(bits: int) -> list[int]:
    """The bytes of a set of 256 bits, ascending."""
    return [byte for byte in range(256) if bits >> byte & 1]


def forced_text(walker: Walker, byte: int) -> bytes:
    """The text from `byte` on, as far as nothing else can follow it; up to `MAX_TEXT` bytes."""
    state = walker.fork()
    text = bytearray()
    while state.step(byte):
        text.append(byte)
        following = state.following()
        if state.is_accepting or following.bit_count() != 1 or len(text) == MAX_TEXT:
            break
        byte = following.bit_length() - 1
    return bytes(text)


def quoted(text: bytes) -> str:
    """A text in quotes; the beginning of a character at its end is left out."""
    return repr(text.decode("utf-8", errors="ignore") or text)


def name_bytes(values: Iterable[int]) -> list[str]:
    """Names of the characters that begin with any of these bytes."""
    left = set(values)
    if not left:
        return []
    missing = sorted(PRINTABLE - left)
    if len(LEADS & left) > len(LEADS) // 2 and len(missing) <= MAX_MISSING:
        if not missing and 0x0A not in left:
            missing = [0x0A]
        return [f"any character but {_listed(missing)}" if missing else "any character"]
    names = []
    for members, name in CLASSES:
        if members <= left:
            names.append(name)
            left -= members
    named = [NAMES[byte] for byte in sorted(left & NAMES.keys())]
    left -= NAMES.keys()
    if any(byte >= 0x80 for byte in left):
        names.append("a character beyond ASCII")
    return names + _runs(sorted(byte for byte in left if byte < 0x80)) + named


def _runs(values: list[int]) -> list[str]:
    """Single characters, and runs of four or more as one."""
    names: list[str] = []
    start = 0
    while start < len(values):
        end = start
        while end + 1 < len(values) and values[end + 1] == values[end] + 1:
            end += 1
        if end - start >= 3:
            names.append(f"one of {chr(values[start])!r}...{chr(values[end])!r}")
        else:
            names += (repr(chr(byte)) for byte in values[start : end + 1])
        start = end + 1
    return names


def _listed(values: list[int]) -> str:
    names = [NAMES.get(byte, repr(chr(byte))) for byte in values]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
