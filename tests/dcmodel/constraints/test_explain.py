"""Explanations name texts and classes of characters, and the place where a text goes wrong."""

from __future__ import annotations

import pytest

from dcmodel.constraints import Choice, Grammar, JsonSchema, MaskFunction, Regex, TokenSet
from dcmodel.constraints.choice_matcher import ChoiceCompiled
from dcmodel.constraints.expected import expected_after, name_bytes
from dcmodel.constraints.explain import dead_end_message
from dcmodel.constraints.explain_text import explain_text
from dcmodel.errors import UnsatisfiableConstraintError

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("[0-9]+", "", ("a digit",)),
        ("[0-9]+", "1", ("the end", "a digit")),
        ("[a-z]+", "", ("a lower-case letter",)),
        ("[A-Z]x", "", ("an upper-case letter",)),
        ("[a-zA-Z]", "", ("a letter",)),
        ("[a-zA-Z0-9_ ]", "", ("a letter or digit", "'_'", "a space")),
        ("[0-9a-fA-F]{4}", "", ("a hexadecimal digit",)),
        ("[c-h]", "", ("one of 'c'...'h'",)),
        ("[+-]", "", ("'+'", "'-'")),
        (".", "", ("any character but a newline",)),
        ("(?s:.)", "", ("any character",)),
        (r'"[^"\\\x00-\x1f]*"', '"', ("any character but '\\\\'",)),
        (r'[^"\\]', "", ("any character but '\"' and '\\\\'",)),
        ("(yes|no)!", "", ("'no!'", "'yes!'")),
        ("(yes|yet)", "", ("'ye'",)),
        ("hello world", "hel", ("'lo world'",)),
        ("[ \\n\\t][xy]", "", ("a tab", "a newline", "a space")),
        ("[\\u00e0-\\u00ff]", "", ("a character beyond ASCII",)),
        ("abc", "abc", ("the end",)),
    ],
)
def test_what_is_expected_is_said_in_words(small, pattern, text, expected):
    walker = Regex(pattern).compile(small).walker()
    assert walker.walk(text.encode()) == len(text)
    assert expected_after(walker) == expected


def test_nothing_has_no_name():
    assert name_bytes([]) == []


def test_a_long_forced_text_is_cut(small):
    (text,) = expected_after(Regex("a" * 500).compile(small).walker())
    assert text == repr("a" * 60)


@pytest.mark.parametrize("many", [False, True])
def test_a_token_is_explained_with_what_was_expected_and_how_many_are_allowed(small, many):
    options = ["yes", "no", "not now"]
    compiled = ChoiceCompiled(options, small) if many else Choice(options).compile(small)
    matcher = compiled.matcher()
    matcher.advance(list(b"no"))
    refused = matcher.explain(ord("x"))
    assert not refused.allowed
    assert refused.expected == ("the end", "'t now'")
    assert refused.allowed_count == 3
    assert refused.reason.endswith("expected the end or 't now'.")
    allowed = matcher.explain(ord("t"))
    assert allowed.allowed
    assert allowed.allowed_count == 3


def test_a_rule_about_tokens_is_explained_by_tokens(small):
    refused = TokenSet([97, 98]).compile(small).matcher().explain(99)
    assert refused.expected == ("'a'", "'b'")
    assert refused.allowed_count == 2


def test_many_tokens_are_told_by_their_first_characters(small):
    refused = TokenSet(list(b"0123456789x")).compile(small).matcher().explain(ord("y"))
    assert refused.expected == ("a digit", "'x'")


def test_a_place_at_a_special_token_is_explained_by_tokens(small):
    matcher = Grammar('start: "a" <|tool|> "b"').compile(small).matcher()
    matcher.advance([97])
    refused = matcher.explain(98)
    assert refused.expected == ("'<|tool|>'",)
    assert refused.allowed_count == 1


@pytest.mark.parametrize(
    ("constraint", "text", "place", "expected"),
    [
        (Regex("[0-9]{3}-[0-9]{4}"), "555-12a4", (6, 1, 7), ("a digit",)),
        (Regex("é{3}x"), "ééx", (2, 1, 3), ("'éx'",)),
        (Regex("(a\n)+b"), "a\na\nc", (4, 3, 1), ("'a\\n'", "'b'")),
        (Choice(["red", "green"]), "grey", (3, 1, 4), ("'en'",)),
        (Grammar('start: "(" (/[0-9]+/ ",")* ")"'), "(1,x)", (3, 1, 4), ("a digit", "')'")),
        (JsonSchema(SCHEMA, whitespace="spaced"), '{"name": "x", "agx": 3}', (17, 1, 18), ("'e\": '",)),
        (Regex("ab"), "abab", (2, 1, 3), ("the end",)),
        (TokenSet([97], max_count=3), "ac", (1, 1, 2), ("the end", "'a'")),
    ],
)
def test_a_text_is_explained_where_it_goes_wrong(small, constraint, text, place, expected):
    found = explain_text(constraint, text, small)
    assert found.status == "refused"
    assert (found.position, found.line, found.column) == place
    assert found.byte_position == len(text[: found.position].encode())
    assert found.expected == expected
    assert found.allowed_count > 0
    assert found.pointer.endswith("^")
    assert f"line {found.line} column {found.column}" in found.reason
    assert " or ".join(expected) in found.reason


@pytest.mark.parametrize(
    ("constraint", "text", "status"),
    [
        (Regex("[0-9]{3}"), "123", "match"),
        (Regex("[0-9]{3}"), "12", "beginning"),
        (JsonSchema(SCHEMA, whitespace="spaced"), '{"name": "x", "age": 3}', "match"),
        (JsonSchema(SCHEMA, whitespace="spaced"), "", "beginning"),
        (MaskFunction(lambda ids: None), "anything", "match"),
    ],
)
def test_a_text_that_agrees_is_a_match_or_a_beginning(small, constraint, text, status):
    found = explain_text(constraint, text, small)
    assert found.status == status
    assert found.position == len(text)
    assert ("too soon" in found.reason) == (status == "beginning")


def test_a_constraint_of_nothing_is_an_error_as_ever(small):
    with pytest.raises(UnsatisfiableConstraintError):
        explain_text(Grammar('start: "a" start'), "a", small)


def test_a_dead_end_says_what_no_token_begins_with(small):
    make = Regex("ab").compile(small).walker
    assert dead_end_message(make, b"a") == (
        "the constraint allows no token after 'a': it expects 'b', which no token begins with."
    )
    assert dead_end_message(None, b"a") == "the constraint allows no token after 'a'."
