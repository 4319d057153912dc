"""The schemas, texts and vocabularies that the benchmarks of masks run over."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.vocabularies import DATA
from dctokenizers import Tokenizer, from_gguf, from_tiktoken

SAMPLE = DATA / "jsonschemabench_sample.jsonl"
TEXTS_PER_SCHEMA = 2
FOLDER = DATA / "tokenizers"
VOCABULARIES: dict[str, Callable[[], Tokenizer]] = {
    "32k": lambda: from_gguf(FOLDER / "ggml-vocab-llama-spm.gguf"),
    "100k": lambda: from_tiktoken(FOLDER / "cl100k_base.tiktoken.gz"),
    "200k": lambda: from_tiktoken(FOLDER / "o200k_base.tiktoken.gz"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A schema and some valid values."""

    name: str
    schema: Any
    values: tuple[Any, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The values as `json.dumps` lays them out, which is the layout ``spaced``."""
        return tuple(json.dumps(value, ensure_ascii=False) for value in self.values)


def is_available() -> bool:
    return SAMPLE.exists() and FOLDER.exists()


def load_cases(every: int = 1) -> list[Case]:
    """Each `every`-th schema of the sample that has a valid value."""
    rows = [json.loads(line) for line in SAMPLE.read_text("utf-8").split("\n") if line]
    cases = [Case(row["id"], row["schema"], tuple(_valid(row["tests"]))) for row in rows]
    return [case for case in cases if case.values][::every]


def _valid(tests: Iterable[dict[str, Any]]) -> list[Any]:
    return [test["data"] for test in tests if test["valid"]][:TEXTS_PER_SCHEMA]
