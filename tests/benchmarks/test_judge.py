"""The judge of `benchmarks.valid` must itself be right."""

from __future__ import annotations

import json

import pytest

from benchmarks.judge import Judge, NotCheckableError, has_repeated_keys

CASES = [
    ({"type": "integer"}, "1.0", True),
    ({"type": "integer"}, "1e2", True),
    ({"type": "integer"}, "1.5", False),
    ({"type": "integer"}, "true", False),
    ({"multipleOf": 0.1}, "0.3", True),
    ({"multipleOf": 0.1}, "0.35", False),
    ({"maximum": 10**400}, "1e400", True),
    ({"const": 1}, "1.0", True),
    ({"enum": ["a"]}, '"b"', False),
    ({"pattern": "^a.$"}, json.dumps("ab\n"), False),
    ({"pattern": "^\\d$"}, json.dumps("٣"), False),
    ({"pattern": "^\\s$"}, json.dumps("\ufeff"), True),
    ({"pattern": "^(?<year>[$.]+)$"}, '"$."', True),
    ({"patternProperties": {"^x$": {"type": "null"}}, "additionalProperties": False}, '{"x": null}', True),
    ({"properties": {"pattern": {"pattern": "^.$"}}}, '{"pattern": "ab"}', False),
    ({"maxLength": 1}, '"\\ud83d\\ude00"', True),
    ({"format": "date"}, '"2024-02-30"', False),
    ({"format": "date"}, '"0000-02-29"', True),
    ({"format": "time"}, '"23:59:60Z"', True),
    ({"format": "time"}, '"22:59:60Z"', False),
    ({"format": "ipv4"}, '"127.0.0.01"', False),
    ({"format": "email"}, '"a@[IPv6:::1]"', True),
    ({"format": "uri"}, '"//a/b"', False),
    ({"format": "duration"}, '"P1DT"', False),
    ({}, "NaN", False),
    ({}, "{} {}", False),
    ({"properties": {"a": {"type": "null"}}}, '{"a": 1, "a": null}', False),
    (
        {"$schema": "http://json-schema.org/draft-04/schema#", "exclusiveMinimum": True, "minimum": 1},
        "1",
        False,
    ),
]


@pytest.mark.parametrize(("schema", "text", "is_valid"), CASES)
def test_it_reads_json_as_json_and_patterns_as_ecma_262(schema, text, is_valid):
    assert (Judge(json.dumps(schema)).fault(text) is None) == is_valid


@pytest.mark.parametrize("pattern", [r"^\p{L}$", r"[\S]", "("])
def test_a_pattern_that_python_cannot_say_is_not_checkable(pattern):
    with pytest.raises(NotCheckableError):
        Judge(json.dumps({"pattern": pattern}))


def test_a_reference_that_leads_away_is_not_checkable():
    with pytest.raises(NotCheckableError):
        Judge('{"$ref": "http://nowhere.example/x.json"}').fault("1")


def test_a_pattern_that_takes_for_ever_is_not_checkable(monkeypatch):
    monkeypatch.setattr("benchmarks.judge.TIME_LIMIT", 0.1)
    with pytest.raises(NotCheckableError, match="more than"):
        Judge('{"pattern": "^(a+)+b$"}').fault(json.dumps("a" * 40))


def test_repeated_keys_are_seen_at_any_depth():
    assert has_repeated_keys('[{"a": {"b": 1, "b": 2}}]')
    assert not has_repeated_keys('[{"b": 1}, {"b": 2}]')
