"""The metadata of a GGUF file, read straight from its bytes.

The `gguf` package reads the same in seconds (it makes several arrays per string); a vocabulary has
hundreds of thousands of strings.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from dctokenizers.errors import TokenizerError

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_VERSIONS = (2, 3)


def read_metadata(path: Path, *, prefix: str) -> dict[str, Any]:
    """Values of the keys that begin with `prefix`, without it; arrays as lists, strings as str.

    Raises `TokenizerError` where the file is no GGUF file, is cut short, or is of an unknown version.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data, path).read(prefix)
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, struct.error, KeyError, UnicodeDecodeError) as error:
        if isinstance(error, TokenizerError):
            raise
        raise TokenizerError(f"{path} is not a GGUF file, or is cut short: {error}.") from error


class _Reader:
    def __init__(self, data: mmap.mmap, path: Path) -> None:
        if data[:4] != b"GGUF":
            raise TokenizerError(f"{path} is not a GGUF file.")
        self._data = data
        self._position = 4
        self._order = "<" if struct.unpack_from("<I", data, 4)[0] < 1 << 16 else ">"
        self._length = struct.Struct(self._order + "Q")
        version = self._scalar(4)
        if version not in _VERSIONS:
            raise TokenizerError(f"{path} is a GGUF file of version {version}; {_VERSIONS} can be read.")

    def read(self, prefix: str) -> dict[str, Any]:
        self._scalar(10)
        count = self._scalar(10)
        found = {}
        for _ in range(count):
            key = self._string().decode("utf-8")
            value = self._value(self._scalar(4), wanted=key.startswith(prefix))
            if key.startswith(prefix):
                found[key.removeprefix(prefix)] = value
        return found

    def _value(self, kind: int, *, wanted: bool) -> Any:
        if kind == _STRING:
            return self._string().decode("utf-8")
        if kind == _ARRAY:
            return self._array(wanted=wanted)
        return self._scalar(kind)

    def _array(self, *, wanted: bool) -> list[Any]:
        kind, count = self._scalar(4), self._scalar(10)
        if kind == _STRING:
            strings = [self._string() for _ in range(count)]
            return [string.decode("utf-8") for string in strings] if wanted else []
        if kind == _ARRAY:
            return [self._array(wanted=wanted) for _ in range(count)]
        layout = f"{self._order}{count}{_SCALARS[kind]}"
        start = self._position
        self._position += struct.calcsize(layout)
        return list(struct.unpack_from(layout, self._data, start)) if wanted else []

    def _scalar(self, kind: int) -> Any:
        layout = self._order + _SCALARS[kind]
        (value,) = struct.unpack_from(layout, self._data, self._position)
        self._position += struct.calcsize(layout)
        return value

    def _string(self) -> bytes:
        (length,) = self._length.unpack_from(self._data, self._position)
        start = self._position + 8
        self._position = start + length
        if self._position > len(self._data):
            raise ValueError("a string goes past the end")
        return self._data[start : self._position]
