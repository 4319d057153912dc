"""Masks against finite languages: a token is allowed exactly if it keeps the text a prefix of a match."""

from __future__ import annotations

import itertools
import re

import pytest

from dcmodel.constraints import Choice, Grammar, JsonSchema, Regex, Stop, TokenSet
from dcmodel.constraints.prefixes import PrefixOf
from dcmodel.constraints.value_types import Type

LETTERS = "abc"


def words(alphabet: str, longest: int) -> list[str]:
    return ["".join(w) for n in range(longest + 1) for w in itertools.product(alphabet, repeat=n)]


def matches(pattern: str, alphabet: str, longest: int) -> set[str]:
    """The texts of a regex, as Python reads it, up to a length."""
    return {word for word in words(alphabet, longest) if re.fullmatch(pattern, word)}


def balanced(longest: int) -> set[str]:
    texts = set()
    for text in words("(x)", longest):
        depth = 0
        for char in text:
            depth += {"(": 1, ")": -1, "x": 0}[char]
            if depth < 0:
                break
        if depth == 0 and text:
            texts.add(text)
    return texts


FINITE = {
    "choice": (Choice(["yes", "yes please", "no", "not", "é", "üb", "a", "ab", "abc"]), None),
    "choice with the empty text": (Choice(["", "abc", "ab"]), {"", "abc", "ab"}),
    "regex alternatives": (Regex("(ab|ba|aa)(c|b)?"), matches("(ab|ba|aa)(c|b)?", LETTERS, 3)),
    "regex bounded": (Regex("a{1,3}b{0,2}c?"), matches("a{1,3}b{0,2}c?", LETTERS, 6)),
    "regex digits": (Regex("1?2?3"), {"3", "13", "23", "123"}),
    "regex of nothing": (Regex(""), {""}),
    "prefix of": (
        PrefixOf(["yes please", "yesyes", "éa", "aaab"], 2),
        {t[:n] for t in ("yes please", "yesyes", "éa", "aaab") for n in range(2, 11)},
    ),
    "type int": (Type(int, minimum=-3, maximum=123), {str(n) for n in range(-3, 124)}),
    "type bool": (Type(bool), {"true", "false", "True", "False"}),
    "grammar": (
        Grammar('start: "a" x "c" | "12" "3"?\nx: "b" | "ba" "a"'),
        {"abc", "abaac", "12", "123"},
    ),
    "grammar terminals": (Grammar('start: A B?\nA: "a" | "aa"\nB: /b[ac]?/'), None),
    "schema enum": (JsonSchema({"enum": ["a", 1, None, [True], {}]}), {'"a"', "1", "null", "[true]", "{}"}),
    "schema object": (
        JsonSchema(
            {
                "type": "object",
                "properties": {"a": {"enum": [1, 2]}, "b": {"type": "boolean"}},
                "required": ["a"],
                "additionalProperties": False,
            }
        ),
        {f'{{"a": {a}{b}}}' for a in "12" for b in ("", ', "b": true', ', "b": false')},
    ),
    "schema compact": (
        JsonSchema({"type": "array", "items": {"enum": [1, 2]}, "maxItems": 2}, whitespace="compact"),
        {"[]", "[1]", "[2]", "[1,1]", "[1,2]", "[2,1]", "[2,2]"},
    ),
}
FINITE["choice"] = (FINITE["choice"][0], set(FINITE["choice"][0].options))
FINITE["grammar terminals"] = (
    FINITE["grammar terminals"][0],
    {a + b for a in ("a", "aa") for b in ("", "b", "ba", "bc")},
)
INFINITE = {
    "regex loop": (Regex("(ab|c)+b?"), matches("(ab|c)+b?", LETTERS, 9), 4),
    "regex star": (Regex("a*b*"), matches("a*b*", LETTERS, 9), 4),
    "balanced": (Grammar('start: e+\ne: "x" | "(" e* ")"'), balanced(9), 3),
}


def walk(matcher, tokenizer, language, masks, depth, limit):
    """Check a state, then every token's successor."""
    texts = [text.encode() for text in language]
    stack = [(b"", matcher)]
    seen = set()
    while stack:
        text, here = stack.pop()
        assert here.is_accepting == (text in texts)
        following = {t for t in texts if t.startswith(text) and t != text}
        assert here.is_finished == (text in texts and not following)
        may = {
            i
            for i in range(tokenizer.vocab_size)
            if i not in tokenizer.special_token_ids
            and any(t.startswith(text + tokenizer.token_bytes(i)) for t in following)
        }
        allowed = masks(here, tokenizer)
        ends = set(tokenizer.eos_token_ids)
        assert allowed & ends == (ends if text in texts else set())
        allowed -= ends
        forced = here.forced()
        assert allowed <= may
        assert bool(allowed) == bool(may)
        if forced:
            # Where the text is forced, the mask is its usual token alone.
            assert allowed == {forced[0]}
            assert here.fork().advance(forced) == len(forced)
        elif len({tokenizer.token_bytes(i)[:1] for i in may}) > 1 or text in texts:
            assert allowed == may
        for token_id in range(tokenizer.vocab_size):
            twin = here.fork()
            taken = twin.advance([token_id])
            assert taken == (token_id in may or (token_id in ends and text in texts)), (text, token_id)
            after = text + tokenizer.token_bytes(token_id)
            if taken and token_id in may and len(after) <= limit and after not in seen:
                seen.add(after)
                stack.append((after, twin))
    assert len(seen) > depth


@pytest.mark.parametrize("name", FINITE)
def test_a_mask_is_exactly_what_a_finite_language_allows(name, small, masks):
    constraint, language = FINITE[name]
    walk(constraint.compile(small).matcher(), small, language, masks, -1, 99)


@pytest.mark.parametrize("name", INFINITE)
def test_a_mask_is_exactly_what_a_language_allows_up_to_a_length(name, small, masks):
    constraint, language, limit = INFINITE[name]
    walk(constraint.compile(small).matcher(), small, language, masks, 3, limit)


def test_free_text_allows_every_token_but_special_ones_until_a_stop_string(small, masks):
    free = set(range(small.vocab_size)) - small.special_token_ids | set(small.eos_token_ids)
    strings = ["ab", "bca", "é"]
    compiled = Stop(strings).compile(small)
    pieces = [small.encode(text) for text in ("a", "b", "c", "ab", "bc", "abc", "aaa", "é")]
    pieces += [[byte] for byte in "é".encode()]
    for sequence in itertools.product(pieces, repeat=3):
        matcher = compiled.matcher()
        text = b""
        for piece in sequence:
            found = [s for s in strings if s.encode() in text]
            assert masks(matcher, small) == (set(small.eos_token_ids) if found else free)
            assert matcher.is_finished == bool(found)
            assert matcher.advance(piece) == (0 if found else 1)
            if found:
                break
            text += small.decode_bytes(piece)
            assert matcher.length == len(text)
            reference = min(
                (
                    (text.find(s.encode()) + len(s.encode()), text.find(s.encode()), s)
                    for s in strings
                    if s.encode() in text
                ),
                default=None,
            )
            if reference is None:
                assert matcher.matched is None
                assert matcher.held == max(
                    n
                    for n in range(4)
                    if n == 0 or any(text.endswith(s.encode()[:n]) and n < len(s.encode()) for s in strings)
                )
            else:
                assert (matcher.cut, matcher.matched, matcher.held) == (reference[1], reference[2], 0)


def test_a_token_set_counts(small, masks):
    ids = {97, 98, 260}
    ends = set(small.eos_token_ids)
    matcher = TokenSet(ids, min_count=1, max_count=3).compile(small).matcher()
    for count in range(4):
        expected = (ids if count < 3 else set()) | (ends if count >= 1 else set())
        assert masks(matcher, small) == expected
        assert matcher.is_finished == (count == 3)
        assert matcher.advance([97]) == (count < 3)
