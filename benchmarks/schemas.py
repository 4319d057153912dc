"""The schemas of ../shared/data, as cases for `valid`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.vocabularies import DATA

FILES = ("jsonschemabench_sample.jsonl", "json_schema_test_suite_sample.jsonl")


@dataclass(frozen=True, slots=True)
class Case:
    """One schema, as JSON text: a judge may read its numbers otherwise than the engine does."""

    name: str
    schema: str


def is_available() -> bool:
    return all((DATA / file).exists() for file in FILES)


def load_cases() -> list[Case]:
    return [case for file in FILES for case in _read(DATA / file)]


def to_cases(schemas: dict[str, Any]) -> list[Case]:
    return [Case(name, json.dumps(schema)) for name, schema in schemas.items()]


def _read(path: Path) -> Iterable[Case]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            name = row["id"] if "id" in row else f"{row['file']}: {row['desc']}"
            yield Case(name, json.dumps(row["schema"]))
