from __future__ import annotations

import json
import random
from functools import lru_cache

import pytest
from llguidance import LLMatcher

from dcmodel.constraints.llg_walker import LlgWalker, build_byte_engine
from dcmodel.constraints.schema.canonical import matches
from dcmodel.constraints.schema.ecma import parse
from dcmodel.constraints.schema.ecma_tree import NotRegularError, UnclearError, complement
from dcmodel.constraints.schema.strings import length_terminal, literal, pattern_terminal, plain_pattern

PATTERNS = [
    *(
        "a",
        "^a",
        "a$",
        "^a$",
        "^a|b$",
        "(^a|b)c",
        "^(a|b)*$",
        "^(?:ab){2,3}$",
        "^[^a]$",
        "^.$",
        "^a.b$",
        "",
        "^$",
    ),
    *(
        r"^\d+$",
        r"^\w$",
        r"^\W$",
        r"^\s$",
        r"^\S$",
        r"^[\s\d]$",
        r"^[^\w]$",
        r"^\D$",
        r"^[\W]$",
        r"\\",
        r'^"+$',
    ),
    *(r"^\p{L}+$", r"^\P{L}$", r"^[\p{Lu}1]$", r"^\cA$", r"^\x41$", r"^é$", r"^\u{1F600}$", r"^[a-c-]$"),
    *("^a{2}$", "^a{1,}b?$", "^]$", "^a*?b$", "^(?<name>a)$", r"^\/$", r"^\-$", "^[.]$"),
    *("^[\\[\\]]$", "^(a|)$", "(a$|b)", "^[\u2028]$", "^\n$", "x{0}", "^[\b]$", r"\.json$", "^(a*)*$"),
]
ALPHABET = 'ab1A"\\\n\t\x01é٣\u2028 ./-{,2}_]😀\x7f\x00'


@lru_cache(maxsize=4)
def engine_of(expression):
    return build_byte_engine(LLMatcher.grammar_from_lark(f"start: T\nT: {expression}\n"))


def accepts(expression, text):
    walker = LlgWalker(engine_of(expression).deep_copy())
    spelled = json.dumps(text, ensure_ascii=False).encode()
    return walker.walk(spelled) == len(spelled) and walker.is_accepting


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_finds_in_json_text_what_it_finds_in_strings(pattern):
    rng = random.Random(pattern)
    texts = ["", *ALPHABET, *("".join(rng.choices(ALPHABET, k=rng.randint(1, 4))) for _ in range(25))]
    texts += ["aa", "ab", "aab", "abab", "ac", "bc", "x.json", "{,2}", "a{,2}", "aé"]
    expression = pattern_terminal(pattern)
    for text in texts:
        assert accepts(expression, text) == matches(pattern, text), text


@pytest.mark.parametrize(
    ("pattern", "found", "not_found"),
    [
        (r"^\0$", ["\0"], ["0", ""]),
        ("^[^]$", ["a", "\n"], ["", "ab"]),
        (r"^[\b]$", ["\b"], ["b", "a", "\\"]),
    ],
)
def test_patterns_of_ecma_that_other_engines_refuse(pattern, found, not_found):
    expression = pattern_terminal(pattern)
    assert all(accepts(expression, text) for text in found)
    assert not any(accepts(expression, text) for text in not_found)


@pytest.mark.parametrize("pattern", ["a{,2}", "a{", "a{b", "x{1"])
def test_braces_that_engines_read_differently_are_refused(pattern):
    with pytest.raises(UnclearError):
        parse(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "(?=a)",
            "(?!a)b",
            "(?<=a)b",
            "(?<!a)b",
            r"(a)\1",
            r"\bx",
            r"\B",
            r"(?<n>a)\k<n>",
            "a^b",
            "(^a)*",
            "a$b",
        ),
        *(
            "(",
            ")",
            "a**",
            "*",
            "[b-a]",
            "[a",
            "a{3,2}",
            r"\p{Script=Greek}",
            r"\u12",
            "(?i)a",
            "\\",
            r"\uD800",
            r"\y",
        ),
    ],
)
def test_what_is_not_regular_or_wrong_is_refused(pattern):
    with pytest.raises(NotRegularError):
        parse(pattern)


def test_lengths_count_characters_and_not_escapes():
    for text in ("", "a", "ab", '"', "\n", "\x01", "😀", "é\\", "abc", '"""'):
        assert accepts(length_terminal(1, 2), text) == (1 <= len(text) <= 2), text
        assert accepts(length_terminal(2, None), text) == (len(text) >= 2), text


@pytest.mark.parametrize(
    "text", ["", "a", 'q"\\', "\n\r\t\b\f", "\x00\x1f\x7f\x80\x9f", "é😀\u2028\ufeff", "%if |&~/"]
)
def test_a_literal_is_one_string(text):
    assert accepts(literal(text), text)
    assert not accepts(literal(text), text + "x")


def test_the_complement_of_ranges():
    assert complement(((0x61, 0x7A), (0x30, 0x39), (0x35, 0x40))) == (
        (0, 0x2F),
        (0x41, 0x60),
        (0x7B, 0x10FFFF),
    )
    assert complement(((0, 0x10FFFF),)) == ()


def test_anchors_are_kept_for_the_engines_own_compiler():
    assert plain_pattern("^a|b$").startswith("^(?:")
    assert plain_pattern("^a|b$").count("(?s:.)*") == 2


@pytest.mark.parametrize(
    "pattern",
    [
        "^(?!a)[ab]{1,3}$",
        r"^(a|b)x\1$",
        r"^\bab",
        "(?<=a)b",
        "(?=.*1)^[a1]+$",
        "a(^b|c)*$",
    ],
)
def test_a_relaxed_pattern_finds_at_least_as_much(pattern):
    with pytest.raises(NotRegularError):
        parse(pattern)
    expression = pattern_terminal(pattern, relaxed=True)
    rng = random.Random(pattern)
    found = 0
    for _ in range(300):
        text = "".join(rng.choices("ab1xc", k=rng.randint(0, 4)))
        if matches(pattern, text):
            found += 1
            assert accepts(expression, text), text
    assert found
