"""GPT-2's way to write any byte as a printable character."""

from __future__ import annotations

from functools import cache


@cache
def byte_to_char() -> tuple[str, ...]:
    """The character that stands for each byte."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    shifted = iter(range(0x100, 0x200))
    return tuple(chr(byte) if byte in printable else chr(next(shifted)) for byte in range(256))


@cache
def _translation() -> dict[int, int]:
    return {ord(char): byte for byte, char in enumerate(byte_to_char())}


def piece_bytes(piece: str) -> bytes:
    """Bytes of a piece in GPT-2's spelling; a piece with other characters stands for itself."""
    table = _translation()
    try:
        return bytes([table[ord(char)] for char in piece])
    except KeyError:
        return piece.encode()
