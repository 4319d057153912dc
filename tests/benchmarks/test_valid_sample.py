"""A sample of `benchmarks.valid`: no invalid result, no hang, and a cut text says so."""

from __future__ import annotations

import pytest
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from benchmarks.generations import Plan, run
from benchmarks.schemas import is_available, load_cases, to_cases
from benchmarks.verdicts import verdict_tables

OWN = {
    "record": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 8},
            "age": {"type": "integer", "minimum": -5, "maximum": 130},
            "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            "tags": {"type": "array", "items": {"enum": ["a", "b", 1, None]}, "maxItems": 3},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    },
    "pattern": {"type": "string", "pattern": "^[a-z]{2,4}-[0-9]+$", "maxLength": 10},
    "formats": {
        "type": "object",
        "properties": {
            "day": {"type": "string", "format": "date"},
            "at": {"type": "string", "format": "time"},
        },
        "required": ["day", "at"],
        "additionalProperties": False,
    },
    "recursive": {
        "$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2}},
        "$ref": "#/$defs/node",
    },
    "any of": {"anyOf": [{"type": "boolean"}, {"type": "integer", "multipleOf": 5}, {"const": "none"}]},
    "open": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1},
    "unique": {"type": "array", "items": {"enum": [1, 2, 3, 4]}, "uniqueItems": True, "minItems": 2},
    "refused": {"$ref": "https://example.com/elsewhere.json"},
    "impossible": False,
}


async def check(cases, count, *, max_tokens=96, loaded=None):
    loaded = loaded or loaded_fake(small_tokenizer(512), kv_tokens=8192, max_sequences=32)
    plan = Plan(count=count, max_tokens=max_tokens, concurrency=16, hang_seconds=30.0, progress=False)
    verdict = await run(loaded, cases, plan)
    tables = "\n".join(table.text() for table in verdict_tables(verdict))
    assert verdict.holds, tables
    assert not verdict.errors, tables
    assert verdict.finished == count
    return verdict


async def test_all_results_of_these_schemas_are_valid():
    verdict = await check(to_cases(OWN), 48)
    assert set(verdict.refused) == {"refused", "impossible"}
    # What is complete although max_tokens came is checked as well.
    assert verdict.checked >= 48 - verdict.ran_out
    assert verdict.checked > 20


async def test_results_that_run_into_max_tokens_say_so():
    verdict = await check(to_cases({"record": OWN["record"]}), 8, max_tokens=5)
    assert verdict.ran_out == 8


@pytest.mark.skipif(not is_available(), reason="the schemas of ../shared/data are not here")
async def test_all_results_of_known_schemas_are_valid_with_the_embedded_model():
    from benchmarks.contenders import load_engine
    from lmql_backends.tiny import MODEL_DIR

    verdict = await check(load_cases()[::24], 60, max_tokens=64, loaded=load_engine(MODEL_DIR, "float32"))
    assert verdict.checked > 20
