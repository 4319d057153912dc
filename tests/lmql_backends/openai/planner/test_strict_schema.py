"""Schemas that OpenAI takes with `strict`: the same values, or none."""

from __future__ import annotations

import pytest

from lmql_backends.openai.planner.strict_schema import strict_form

NAME = {"type": "string"}


def test_annotations_go_and_constants_become_enums() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Person",
        "type": "object",
        "properties": {"name": {"allOf": [NAME], "title": "Name"}, "kind": {"const": "person"}},
        "required": ["name", "kind"],
        "additionalProperties": False,
    }
    assert strict_form(schema) == {
        "type": "object",
        "properties": {"name": NAME, "kind": {"enum": ["person"]}},
        "required": ["name", "kind"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"required": []},
        {"additionalProperties": True},
        {"properties": {"name": {"type": "string", "maxLength": 3}}},
        {"properties": {"name": {"oneOf": [NAME, {"type": "null"}]}}},
        {"patternProperties": {"x": NAME}},
        {"properties": {"name": {"allOf": [NAME, NAME]}}},
        {"properties": {"name": True}},
    ],
)
def test_what_would_mean_other_values_has_no_strict_form(changes) -> None:
    schema = {"type": "object", "properties": {"name": NAME}, "required": ["name"]}
    schema |= {"additionalProperties": False}
    assert strict_form(schema) == schema
    assert strict_form({**schema, **changes}) is None


def test_an_object_without_a_word_about_others_takes_others() -> None:
    assert strict_form({"type": "object", "properties": {"name": NAME}, "required": ["name"]}) is None


@pytest.mark.parametrize("schema", [True, {"type": "string"}, {"anyOf": [{"type": "object"}]}])
def test_only_objects_are_taken(schema) -> None:
    assert strict_form(schema) is None
