"""PrefixOf and StartsWith: against all beginnings, and with long texts and many of them."""

from __future__ import annotations

import random

import pytest

from dcmodel.constraints.llg_walker import LlgWalker, build_byte_engine
from dcmodel.constraints.prefixes import PrefixOf, StartsWith
from dcmodel.errors import InvalidConstraintError

TEXTS = ["yes", "yes please", "yesterday", "no", "nöt", "🐢é", "abc", "abcabc", "ab"]


@pytest.mark.parametrize("minimum", [0, 1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_masks_hold_exactly_the_beginnings(minimum, seed, small, masks):
    rng = random.Random(seed)
    texts = rng.sample(TEXTS, rng.randint(1, len(TEXTS)))
    compiled = PrefixOf(texts, minimum).compile(small)
    language = {text[:n].encode() for text in texts for n in range(minimum, len(text) + 1)}
    ends = set(small.eos_token_ids)
    stack = [(b"", compiled.matcher(), compiled.walker())]
    seen = set()
    while stack:
        text, matcher, walker = stack.pop()
        may = {
            i
            for i, token in enumerate(small.all_token_bytes())
            if i not in small.special_token_ids and any(t.encode().startswith(text + token) for t in texts)
        }
        is_whole = text in language
        assert masks(matcher, small) == may | (ends if is_whole else set())
        assert matcher.is_accepting == walker.is_accepting == is_whole
        assert matcher.is_finished == (not may)
        assert walker.following() == sum(1 << byte for byte in range(256) if byte in may)
        for token_id in range(small.vocab_size):
            twin, other = matcher.fork(), walker.fork()
            token = small.token_bytes(token_id)
            taken = twin.advance([token_id])
            assert taken == (token_id in may or (token_id in ends and is_whole))
            if token_id in may:
                assert other.walk(token) == len(token)
                if text + token not in seen:
                    seen.add(text + token)
                    stack.append((text + token, twin, other))
    assert {text for text in language if text} <= seen


def test_the_terminal_of_short_texts_says_the_same():
    rule = PrefixOf(TEXTS, 2)
    engine = build_byte_engine(f"start: TEXT\nTEXT: {rule.terminal()}\n")
    for text in TEXTS:
        walker = LlgWalker(engine.deep_copy())
        for count, byte in enumerate(text.encode()):
            begun = text.encode()[:count].decode(errors="ignore")
            assert walker.is_accepting == (len(begun) >= 2 and begun.encode() == text.encode()[:count])
            assert walker.step(byte)
        assert walker.is_accepting
    assert PrefixOf(["x" * 300]).terminal() is None


def test_a_text_of_100_000_characters(large, masks):
    rng = random.Random(5)
    text = "".join(rng.choices("abcdefgh \n", k=100_000))
    matcher = PrefixOf(text).compile(large).matcher()
    token_ids = large.encode(text)
    assert matcher.advance(token_ids) == len(token_ids)
    assert matcher.is_finished
    matcher.rollback(1)
    assert token_ids[-1] in masks(matcher, large)
    assert not matcher.is_finished
    matcher.rollback(len(token_ids) - 1001)
    expected = text.encode()[len(large.decode_bytes(token_ids[:1000])) :]
    allowed = masks(matcher, large) - set(large.eos_token_ids)
    assert token_ids[1000] in allowed
    assert allowed == {
        i
        for i, token in enumerate(large.all_token_bytes())
        if token and i not in large.special_token_ids and expected.startswith(token)
    }


def test_many_texts(large, masks):
    rng = random.Random(6)
    texts = sorted({"".join(rng.choices("abcdefgh", k=rng.randint(3, 12))) for _ in range(10_000)})
    matcher = PrefixOf(texts).compile(large).matcher()
    beginnings = {text[:n].encode() for text in texts for n in range(1, 13)}
    expected = {
        i
        for i, token in enumerate(large.all_token_bytes())
        if token in beginnings and i not in large.special_token_ids
    }
    assert masks(matcher, large) == expected
    assert matcher.advance(large.encode(texts[77])) == len(large.encode(texts[77]))


def test_what_follows_a_beginning_is_free(small, masks):
    compiled = StartsWith(["yes", "é", "ye"]).compile(small)
    matcher = compiled.matcher()
    assert masks(matcher, small) <= {121, 262, 263, 264, 265, 0xC3} | set(range(256, 290))
    assert not matcher.is_accepting
    assert matcher.advance(list("yes please, 🐢".encode())) > 3
    assert matcher.is_accepting
    assert not matcher.is_finished
    assert set(small.eos_token_ids) <= masks(matcher, small)
    assert compiled.matcher().advance([ord("x")]) == 0
    walker = compiled.walker()
    assert [byte for byte in range(256) if walker.following() >> byte & 1] == [ord("y"), 0xC3]


def test_a_long_beginning_is_not_forced(small):
    matcher = StartsWith("ab" * 30_000).compile(small).matcher()
    assert matcher.forced() == []
    assert matcher.advance([97, 98, 97, 97]) == 3
    assert len(StartsWith("abc").compile(small).matcher().forced()) > 0


@pytest.mark.parametrize("kind", [PrefixOf, StartsWith])
@pytest.mark.parametrize("texts", [[], "", [""], ["a", ""], [1], 5, None, ["\ud800"]], ids=repr)
def test_wrong_texts_are_an_error(kind, texts):
    with pytest.raises(InvalidConstraintError):
        kind(texts)


@pytest.mark.parametrize("minimum", [-1, 1.0, True, "1", None, 4])
def test_a_wrong_minimum_is_an_error(minimum):
    with pytest.raises(InvalidConstraintError, match=r"minimum|less than 4"):
        PrefixOf(["abc"], minimum)


def test_rules_are_compared_and_travel():
    assert PrefixOf("ab") == PrefixOf(["ab", "ab"])
    assert PrefixOf(["ab", "c"]) == PrefixOf(["c", "ab"])
    assert PrefixOf(["ab"], 2) != PrefixOf(["ab"])
    assert PrefixOf("ab", 2).to_dict() == {"kind": "prefix_of", "texts": ["ab"], "minimum": 2}
    assert StartsWith(["a", "b"]) == StartsWith(["b", "a"])
    assert StartsWith("a").to_dict() == {"kind": "starts_with", "texts": ["a"]}
    assert StartsWith("a") != PrefixOf("a")
