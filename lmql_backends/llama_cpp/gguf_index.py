"""What a GGUF file holds: its keys, and the shapes and kinds of its tensors, read without llama.cpp.

llama.cpp ends the process on some files that it does not expect; what stands here is known before.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lmql_backends.llama_cpp.header import ARRAY, MAGIC, SIZES, STRING, VERSIONS

FLOAT32_KEY = 6
FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?"} | {
    10: "<Q",
    11: "<q",
    12: "<d",
}
ALIGNMENT = 32
MAX_DIMENSIONS = 4

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies, and what it is."""

    shape: tuple[int, ...]
    """As ggml counts: the length of a row first."""
    kind: int
    """ggml's number of its type."""
    offset: int
    """From the beginning of the file."""


@dataclass(frozen=True, slots=True)
class GgufIndex:
    """A file's keys and tensors."""

    kinds: Mapping[str, int]
    """Of each key: GGUF's number of its type."""
    values: Mapping[str, Scalar]
    """Of keys that are no arrays."""
    tensors: Mapping[str, Tensor]
    size: int
    """Of the file, in bytes."""


def read_index(path: Path) -> GgufIndex:
    """Raises `OSError`, and `ValueError` where the file is no whole GGUF file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _Reader(data).index()
        except (struct.error, OverflowError, MemoryError) as error:
            raise ValueError(f"it ends in the middle ({error})") from error


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._place = 0

    def index(self) -> GgufIndex:
        if self._data[:4] != MAGIC:
            raise ValueError("it does not begin as a GGUF file does")
        self._place = 4
        if (version := self._number("<I")) not in VERSIONS:
            raise ValueError(f"it has the GGUF version {version}")
        tensor_count, key_count = self._number("<Q"), self._number("<Q")
        kinds: dict[str, int] = {}
        values: dict[str, Scalar] = {}
        for _ in range(key_count):
            name = self._text()
            kinds[name] = kind = self._number("<I")
            if kind == ARRAY:
                self._skip_array()
            else:
                values[name] = self._text() if kind == STRING else self._scalar(kind)
        found = [self._tensor() for _ in range(tensor_count)]
        alignment = values.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"its alignment is {alignment!r}")
        start = -(-self._place // alignment) * alignment
        tensors = {name: Tensor(shape, kind, start + offset) for name, shape, kind, offset in found}
        return GgufIndex(kinds, values, tensors, len(self._data))

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text()
        dimensions = self._number("<I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise ValueError(f"the tensor {name[:80]!r} has {dimensions} dimensions")
        shape = tuple(self._number("<Q") for _ in range(dimensions))
        return name, shape, self._number("<I"), self._number("<Q")

    def _skip_array(self) -> None:
        kind, count = self._number("<I"), self._number("<Q")
        if kind == STRING:
            for _ in range(count):
                length = self._number("<Q")
                self._place += length
        elif kind in SIZES:
            self._place += SIZES[kind] * count
        else:
            raise ValueError(f"an array of the kind {kind}")

    def _text(self) -> str:
        length = self._number("<Q")
        data = self._data[self._place : self._place + length]
        if len(data) < length:
            raise ValueError("it ends in the middle of a text")
        self._place += length
        return data.decode("utf-8", errors="replace")

    def _scalar(self, kind: int) -> Scalar:
        if kind not in FORMATS:
            raise ValueError(f"a value of the kind {kind}")
        return self._unpack(FORMATS[kind])

    def _number(self, form: str) -> int:
        return int(self._unpack(form))

    def _unpack(self, form: str) -> int | float | bool:
        (value,) = struct.unpack_from(form, self._data, self._place)
        self._place += struct.calcsize(form)
        found: int | float | bool = value
        return found
