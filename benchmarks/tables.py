"""Tables for the terminal, rows for JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_NUMBERS = frozenset(["", *"0123456789-"])


@dataclass(slots=True)
class Table:
    """Rows of cells under a title; `records` are the same as numbers."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, cells: Sequence[str], **record: Any) -> None:
        self.rows.append(cells)
        self.records.append(record)

    def text(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.columns))]
        is_number = [all(row[column][:1] in _NUMBERS for row in self.rows) for column in range(len(widths))]
        first, *rest = (
            "  ".join(
                cell.rjust(width) if column and is_number[column] else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )
        rule = "  ".join("-" * width for width in widths)
        return "\n".join(["", self.title, first, rule, *rest, *(f"  {note}" for note in self.notes)])


def write_json(path: Path, tables: Sequence[Table], **more: Any) -> None:
    """All tables as one JSON document, with the versions that they were measured with."""
    document = {
        "versions": versions(),
        **more,
        "tables": [
            {"title": table.title, "records": table.records, "notes": table.notes} for table in tables
        ],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "transformers", "numpy", "llguidance", "dcmodel")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
