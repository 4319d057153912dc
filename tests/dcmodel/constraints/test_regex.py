from __future__ import annotations

import re
import time

import pytest

from dcmodel.constraints import Regex
from dcmodel.constraints.forced_text import forced_text
from dcmodel.constraints.regex_syntax import RegexSyntaxError, parse_regex
from dcmodel.errors import InvalidConstraintError, UnsatisfiableConstraintError, UnsupportedConstraintError


def accepts(regex: str, text: str, tokenizer) -> bool:
    matcher = Regex(regex).compile(tokenizer).matcher()
    token_ids = tokenizer.encode(text)
    return matcher.advance(token_ids) == len(token_ids) and matcher.is_accepting


@pytest.mark.parametrize(
    ("regex", "position", "reason"),
    [
        ("a(b", 1, "unclosed group"),
        ("a/b(c", 3, "unclosed group"),
        ("żół(w", 3, "unclosed group"),
        ("a\n\t(", 3, "unclosed group"),
        ("[z-a]", 1, "invalid character class range"),
        ("x{3,1}", 1, "repetition"),
        ("*a", 0, "missing expression"),
        (r"\p{Foo}", 1, "property not found"),
        ("a)", 1, "unopened group"),
        ("(?P<n>a)(?P<n>b)", 12, "duplicate"),
        (r"\q", 0, "unrecognized escape"),
        ("[a", 0, "unclosed character"),
    ],
)
def test_a_malformed_regex_is_an_error_with_a_position(small, regex, position, reason):
    with pytest.raises(InvalidConstraintError, match=reason) as caught:
        Regex(regex).compile(small)
    assert not isinstance(caught.value, UnsupportedConstraintError)
    assert caught.value.position == pytest.approx(position, abs=1)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("regex", "position", "keyword"),
    [
        ("a(?=b)b", 1, "look-ahead"),
        ("(?!a)b", 0, "look-ahead"),
        ("x(?<=x)y", 1, "look-behind"),
        ("x(?<!x)y", 1, "look-behind"),
        (r"(a)\1", 3, "back-reference"),
        (r"(?P<n>a)(?P=n)", 8, "back-reference"),
        (r"\bfoo", 0, "word boundary"),
        (r"fo\B", 2, "word boundary"),
        ("(?>a)", 0, "atomic group"),
        ("(?x) a b", 0, "verbose mode"),
        ("(?ix:a b)", 0, "verbose mode"),
    ],
)
def test_what_has_no_exact_mask_is_refused_with_a_remedy(small, regex, position, keyword):
    with pytest.raises(UnsupportedConstraintError, match=keyword) as caught:
        Regex(regex).compile(small)
    assert (caught.value.position, caught.value.keyword) == (position, keyword)
    assert caught.value.remedy


def test_an_anchor_inside_is_refused(small):
    with pytest.raises(UnsupportedConstraintError, match="Anchors may only stand at the ends"):
        Regex("a^b").compile(small)


@pytest.mark.parametrize("regex", [r"[^\s\S]", r"a[^\s\S]b", r"(a|b)[^\s\S]+"])
def test_a_regex_of_nothing_is_unsatisfiable(small, regex):
    with pytest.raises(UnsatisfiableConstraintError, match="no text matches"):
        Regex(regex).compile(small)


def test_a_pattern_must_be_text():
    with pytest.raises(InvalidConstraintError, match=r"\.pattern"):
        Regex(re.compile("a"))


@pytest.mark.parametrize(
    ("regex", "text", "accepted"),
    [
        ("^abc$", "abc", True),
        ("abc", "xabc", False),
        ("a.c", "a\nc", False),
        ("(?s:a.c)", "a\nc", True),
        ("(?i)abc", "aBc", True),
        (r"\p{L}+", "żółw", True),
        (r"\w+", "żółw", True),
        ("a+?b", "aab", True),
        ("a/b", "a/b", True),
        ("a\nb", "a\nb", True),
        (r"[\d&&[^5]]+", "12", True),
        (r"[\d&&[^5]]+", "15", False),
        ("", "", True),
        ("a|^b", "b", True),
        (r"\x61\u{e9}", "aé", True),
        ("a{2}{2}", "aaaa", True),
    ],
)
def test_the_dialect(small, regex, text, accepted):
    assert accepts(regex, text, small) == accepted


@pytest.mark.parametrize(
    "regex", ["(a{1000}){10000}", "((a{1000}){1000}){1000}", "a{100000}b", "(?:ab?){1,90000}(?:ab){90000}x"]
)
def test_repeats_that_force_very_long_texts_are_compiled_at_once(small, masks, regex):
    begin = time.process_time()
    matcher = Regex(regex).compile(small).matcher()
    for _ in range(3):
        assert matcher.advance([97]) in (0, 1)
        assert masks(matcher, small)
        assert matcher.forced() == []
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    ("regex", "endless"),
    [
        (" +", True),
        ("(ab)*", True),
        ("(aa|aaa)+", True),
        ("(ab|abab)+", True),
        ("(a+)+", True),
        ("(a{1,3})+", True),
        (r"[\x61]+", True),
        ("[a]+", True),
        (r"[a&&[a]]+", True),
        ("[a-a]+", True),
        ("(a|[b]{0})+", True),
        ("(?:a|)+", True),
        (r"[^\s\S]+", True),
        (r"(\p{Zl})+", True),
        ("x( +)y", True),
        ("(a?){2,}", True),
        ("[ab]+", False),
        ("(ab|a)+", False),
        (".*", False),
        (r"\d+", False),
        ("(a|b)+", False),
        ("(ab?)+", False),
        ("[^a]*", False),
        ("a{1,5}", False),
        ("abc", False),
        (r"(foo|bar)*", False),
        ("(x[ab]?)+", False),
    ],
)
def test_loops_over_one_text_are_found(regex, endless):
    assert forced_text(parse_regex(regex)).endless == endless


@pytest.mark.parametrize(
    ("regex", "run"), [("a{50}", 50), ("(ab){3}c", 7), ("a*", 1), ("(a{10}|b)c", 11), ("[ab]{90}", 2)]
)
def test_how_much_text_is_forced_at_most(regex, run):
    assert forced_text(parse_regex(regex)).run == run


@pytest.mark.parametrize(
    "regex", ["(", ")", "[", "a{", "a{b}", "*", "\\", r"\x6", "(?", "(?P<n", r"\p{", "(" * 5000]
)
def test_a_malformed_regex_is_no_crash(regex):
    with pytest.raises(RegexSyntaxError):
        parse_regex(regex)
