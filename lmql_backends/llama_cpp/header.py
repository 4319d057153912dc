"""What a GGUF file says of itself at its beginning, read without llama.cpp, which loads models only."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Header:
    """The number of tensors, and the texts among the leading ``general.*`` keys, by key."""

    tensor_count: int
    general: dict[str, str] = field(default_factory=dict)


def read_header(path: Path) -> Header | None:
    """The header; None where the file is no GGUF file that can be read (llama.cpp then says why)."""
    try:
        with path.open("rb") as file:
            start = file.read(24)
            if len(start) < 24 or start[:4] != MAGIC:
                return None
            version, tensor_count, key_count = struct.unpack("<IQQ", start[4:])
            if version not in VERSIONS:
                return None
            return Header(tensor_count, _general(file, key_count))
    except (OSError, ValueError, struct.error):
        return None


def _general(file: BinaryIO, key_count: int) -> dict[str, str]:
    found = {}
    for _ in range(key_count):
        key = _text(file)
        if not key.startswith("general."):
            break  # they come first
        (kind,) = struct.unpack("<I", file.read(4))
        if kind == STRING:
            found[key] = _text(file)
        elif kind == ARRAY:
            kind, count = struct.unpack("<IQ", file.read(12))
            if kind == STRING:
                for _ in range(count):
                    _text(file)
            else:
                file.seek(_size(kind) * count, 1)
        else:
            file.seek(_size(kind), 1)
    return found


def _text(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    data = file.read(length) if length <= LONGEST else b""
    if len(data) < length:
        raise ValueError(f"a text of {length} bytes")
    return data.decode("utf-8", errors="replace")


def _size(kind: int) -> int:
    if kind not in SIZES:
        raise ValueError(f"a value of the kind {kind}")
    return SIZES[kind]
