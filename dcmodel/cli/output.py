"""Where commands write: text for people, or one JSON object for scripts."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TextIO


@dataclass(frozen=True, slots=True)
class Output:
    """Standard output and error."""

    out: TextIO
    err: TextIO

    @classmethod
    def standard(cls) -> Self:
        """The process's own streams, as UTF-8 that never fails on a character."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")
        return cls(sys.stdout, sys.stderr)

    def write(self, text: str) -> None:
        """A piece of text, shown at once."""
        self.out.write(text)
        self.out.flush()

    def line(self, text: str = "") -> None:
        self.write(f"{text}\n")

    def note(self, text: str) -> None:
        """A line for a person at the terminal; left out where stderr goes elsewhere."""
        if self.err.isatty():
            self.error(text)

    def error(self, text: str) -> None:
        self.err.write(f"{text}\n")
        self.err.flush()

    def json(self, value: Mapping[str, Any]) -> None:
        """One object on one line. Infinities and NaN, which JSON has not, become null."""
        self.line(json.dumps(_finite(value), ensure_ascii=False, allow_nan=False))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns, aligned left."""
        lines = [header, *rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        for line in lines:
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            self.line("  ".join(cells).rstrip())


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
