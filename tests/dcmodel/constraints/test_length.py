"""Length: masks against counting by hand, and what the contract does not say."""

from __future__ import annotations

import random
import re

import pytest

from dcmodel.constraints.counting import MAX_SPACES, SPACES, counting_automaton, read_tokens
from dcmodel.constraints.length import Length
from dcmodel.constraints.llg_walker import LlgWalker, build_byte_engine
from dcmodel.constraints.sorted_vocabulary import sorted_vocabulary
from dcmodel.errors import CapabilityError, InvalidConstraintError
from dcmodel.mask import row_to_ids

WHITE = "".join(map(chr, SPACES))
WORD = re.compile(f"[^{WHITE}]+")
TEXTS = [
    "a",
    "b",
    " ",
    "  ",
    "é",
    "\u2003",
    "\u205f",
    "\u2040",
    "日",
    "🐢",
    "\n",
    "\x1c",
    "ab",
    "\u00a0",
    "\u1681",
]
SPACE_ENDS = sorted({chr(code).encode()[n:] for code in SPACES for n in range(1, 4)} - {b""})
TAILS = (b"", *SPACE_ENDS, b"\x80", b"\xbf", b"\x80\x80", b"\xbf\x80", b"\x80\x80\x80", b"\xbf\x80\x80")
"""What a character that has begun may end with: white space, or any other one."""


def reference(rule, text):
    """Whether some text that begins with these bytes is allowed, and whether they are it."""
    for tail in TAILS:
        try:
            whole = (text + tail).decode()
        except UnicodeDecodeError:
            continue
        units = len(whole) if rule.unit == "characters" else len(WORD.findall(whole))
        if rule.maximum is None or units <= rule.maximum:
            return True, tail == b"" and units >= rule.minimum
    return False, False


RULES = [
    Length(0, 1),
    Length(1),
    Length(2, 3),
    Length(3, 3),
    Length(0, 1, unit="words"),
    Length(1, unit="words"),
    Length(1, 2, unit="words"),
    Length(2, 2, unit="words"),
    Length(3, unit="words"),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.minimum}-{rule.maximum} {rule.unit}")
def test_masks_hold_exactly_the_tokens_that_keep_within_the_length(rule, small, masks):
    rng = random.Random(1)
    compiled = rule.compile(small)
    ends = set(small.eos_token_ids)
    text_ids = [i for i in range(small.vocab_size) if i not in small.special_token_ids]
    for _ in range(10):
        matcher, walker, text = compiled.matcher(), compiled.walker(), b""
        for _ in range(7):
            may = {i for i in text_ids if reference(rule, text + small.token_bytes(i))[0]}
            is_whole = reference(rule, text)[1]
            assert masks(matcher, small) == may | (ends if is_whole else set())
            assert matcher.is_accepting == walker.is_accepting == is_whole
            assert matcher.is_finished == (is_whole and not may)
            assert walker.following() == sum(1 << byte for byte in range(256) if byte in may)
            for token_id in rng.sample(text_ids, 30):
                assert matcher.fork().advance([token_id]) == (token_id in may)
            piece = list(rng.choice(TEXTS).encode())[: rng.choice((1, 9, 9))]
            taken = matcher.advance(piece)
            assert walker.walk(bytes(piece)) == taken
            text += bytes(piece[:taken])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.minimum}-{rule.maximum} {rule.unit}")
def test_the_terminal_says_the_same(rule):
    engine = build_byte_engine(f"start: TEXT\nTEXT: {rule.terminal()}\n")
    rng = random.Random(2)
    for _ in range(60):
        ours, theirs = rule_walker(rule), LlgWalker(engine.deep_copy())
        for byte in "".join(rng.choices(TEXTS, k=6)).encode():
            assert ours.following() == theirs.following()
            assert ours.is_accepting == theirs.is_accepting
            byte = rng.choice((byte, byte, byte, rng.randrange(256)))
            taken = ours.step(byte)
            assert taken == theirs.fork().step(byte)
            if taken:
                theirs.step(byte)


def rule_walker(rule):
    from dcmodel.constraints.length import LengthWalker

    automaton = counting_automaton(rule.unit)
    return LengthWalker(rule, automaton, automaton.start, 0)


@pytest.mark.parametrize("unit", ["characters", "words"])
def test_the_tokens_of_a_real_vocabulary_are_read_right(large, unit):
    vocabulary = sorted_vocabulary(large)
    automaton = counting_automaton(unit)
    rng = random.Random(3)
    assert len(automaton.whole) == (1 if unit == "characters" else 2 + MAX_SPACES)
    for start in (b"", b"a", b" ", b"\xe2", b"\xe2\x80", b"a\xe3\x80", b"\xf0\x9f"):
        state, _ = automaton.walk(automaton.start, start)
        reading = read_tokens(vocabulary, automaton, state)
        assert reading is read_tokens(vocabulary, automaton, state)
        found = set(reading.positions.tolist())
        within = [set(row_to_ids(reading.within(n), large.vocab_size).tolist()) for n in range(4)]
        for position in [*rng.sample(range(len(vocabulary)), 3000), *sorted(found)[:500]]:
            end, count = automaton.walk(state, vocabulary.tokens[position])
            assert (position in found) == (end != automaton.dead)
            for budget in range(4):
                token_id = int(vocabulary.ids[position])
                assert (token_id in within[budget]) == (end != automaton.dead and count <= budget)


def test_utf_8_is_read_as_python_does():
    automaton = counting_automaton("characters")
    rng = random.Random(4)
    edges = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xED, 0xEF, 0xF0]
    edges += [0xF4, 0xF5, 0xFF]
    for _ in range(20_000):
        text = bytes(rng.choices(edges, k=rng.randint(1, 5)))
        state, count = automaton.walk(automaton.start, text)
        try:
            decoded = text.decode()
        except UnicodeDecodeError:
            assert state not in automaton.whole
        else:
            assert state in automaton.whole
            assert count == len(decoded)


def test_white_space_is_that_of_the_regex_dialect():
    engine = build_byte_engine(r"start: /\s/")
    for code in range(0x3100):
        walker = LlgWalker(engine.deep_copy())
        text = chr(code).encode()
        is_space = walker.walk(text) == len(text) and walker.is_accepting
        assert is_space == (code in SPACES)


def test_a_count_of_tokens(small, masks):
    rule = Length(2, 3, unit="tokens")
    compiled = rule.compile(small)
    matcher = compiled.matcher()
    ends = set(small.eos_token_ids)
    text = set(range(small.vocab_size)) - small.special_token_ids
    for count, token_id in enumerate([97, 256, 98]):
        assert matcher.remaining == 3 - count
        assert masks(matcher, small) == text | (ends if count == 2 else set())
        assert matcher.is_accepting == (count == 2)
        assert not matcher.is_finished
        assert matcher.advance([287]) == 0
        assert matcher.advance([token_id]) == 1
    assert (matcher.remaining, matcher.is_finished) == (0, True)
    assert masks(matcher, small) == ends
    assert matcher.advance([97]) == 0
    assert "It has 3 tokens of at least 2 and at most 3" in matcher.explain(97).reason
    assert matcher.advance([285, 286]) == 2
    assert matcher.remaining == 0
    matcher.rollback(3)
    assert matcher.remaining == 1
    assert Length(5, unit="tokens").compile(small).matcher().remaining is None
    with pytest.raises(CapabilityError, match="about tokens"):
        compiled.walker()
    assert rule.terminal() is None


def test_a_refusal_says_how_long_the_text_is(small):
    matcher = Length(maximum=2).compile(small).matcher()
    assert matcher.advance([97, 98]) == 2
    assert matcher.explain(97).reason.endswith("It has 2 characters of at most 2.")
    assert "expected the end" in matcher.explain(97).reason
    matcher = Length(3, unit="words").compile(small).matcher()
    matcher.advance([97])
    assert matcher.explain(285).reason.endswith("It has 1 words of at least 3.")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"minimum": -1},
        {"minimum": None},
        {"minimum": 2, "maximum": 1},
        {"maximum": 0},
        {"minimum": 1.0},
        {"minimum": True},
        {"maximum": "3"},
        {"maximum": 3, "unit": "lines"},
        {"maximum": 3, "unit": None},
        {"maximum": 3, "unit": ["words"]},
    ],
    ids=repr,
)
def test_a_wrong_length_is_an_error(options):
    with pytest.raises(InvalidConstraintError):
        Length(**options)


def test_lengths_are_compared_and_travel():
    rule = Length(1, 5, unit="words")
    assert rule.to_dict() == {"kind": "length", "minimum": 1, "maximum": 5, "unit": "words"}
    assert rule == Length(1, 5, "words")
    assert rule != Length(1, 5)
    assert Length(1) != Length(1, 5)


@pytest.mark.parametrize("space", [" ", "\n", "\u2003", "\u00a0"])
def test_white_space_between_words_has_an_end(small, masks, space):
    rule = Length(1, 3, unit="words")
    engine = LlgWalker(build_byte_engine(f"start: TEXT\nTEXT: {rule.terminal()}"))
    for text in (space * MAX_SPACES + "a", "a" + space * MAX_SPACES, f"a{space * MAX_SPACES}b"):
        for walker in (rule.compile(small).walker(), engine.fork()):
            assert walker.walk(text.encode()) == len(text.encode())
            assert walker.is_accepting
        matcher = rule.compile(small).matcher()
        assert matcher.advance(small.encode(text)) == len(small.encode(text))
    matcher = rule.compile(small).matcher()
    matcher.advance(small.encode("a" + space * MAX_SPACES))
    assert not matcher.advance(small.encode(" "))
    assert small.encode(" ")[0] not in masks(matcher, small)
    assert matcher.is_accepting
