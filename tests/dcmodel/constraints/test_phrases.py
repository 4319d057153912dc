"""NotIn and Stop: masks against brute force over all tokens, and what the contract does not say."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from dcmodel.constraints.phrases import aho_corasick
from dcmodel.constraints.phrases.aho_corasick import AhoCorasick
from dcmodel.constraints.phrases.not_in import NotIn
from dcmodel.constraints.phrases.stop import Stop, stops_at, stops_before
from dcmodel.constraints.sorted_vocabulary import RowCache, SortedVocabulary, sorted_vocabulary
from dcmodel.errors import InvalidConstraintError, UnsatisfiableConstraintError
from dctokenizers import from_gguf, from_tiktoken
from dctokenizers.families.tiktoken import make_encoding
from dctokenizers.vocabulary import Vocabulary

DATA_FILES = ("ggml-vocab-llama-spm.gguf", "cl100k_base.tiktoken.gz", "o200k_base.tiktoken.gz")
DATA = Path(__file__).parents[4] / "shared" / "data" / "tokenizers"
LETTERS = "abé"


def crowded_tokenizer():
    """All bytes and every text of up to four of `LETTERS`: phrases lie across tokens in every way."""
    pieces = [bytes([byte]) for byte in range(256)]
    texts = [""]
    for _ in range(4):
        texts = [text + letter for text in texts for letter in ("", *LETTERS)]
    pieces += [text for text in sorted({text.encode() for text in texts}) if len(text) > 1]
    pieces += ["éa".encode()[1:], "bé".encode()[:-1], b"\xa9\xc3"]
    encoding = make_encoding(
        "crowded",
        ranks={piece: rank for rank, piece in enumerate(pieces)},
        pat_str=r"[^\r\n]+|[\r\n]",
        special_tokens={"<|end|>": len(pieces), "<|ab|>": len(pieces) + 1},
    )
    return from_tiktoken(encoding).with_eos([len(pieces)])


@pytest.fixture(scope="module")
def crowded():
    return crowded_tokenizer()


def random_phrases(rng, alphabet=LETTERS, longest=6):
    count = rng.choice((1, 1, 2, 3, 5, 9))
    return ["".join(rng.choices(alphabet, k=rng.randint(1, longest))) for _ in range(count)]


def harmless(tokenizer, phrases, text, token_ids=None):
    """The ids (of all, or of some) after which no phrase is in the text, by looking at each token."""
    longest = max(len(phrase.encode()) for phrase in phrases)
    search = re.compile(b"|".join(re.escape(phrase.encode()) for phrase in phrases)).search
    tail = text[len(text) - longest + 1 :] if len(text) >= longest else text
    tokens = tokenizer.all_token_bytes()
    return {
        i
        for i in (range(len(tokens)) if token_ids is None else token_ids)
        if tokens[i] and i not in tokenizer.special_token_ids and not search(tail + tokens[i])
    }


@pytest.mark.parametrize("seed", range(40))
def test_a_mask_holds_exactly_the_tokens_that_complete_no_phrase(crowded, masks, seed):
    rng = random.Random(seed)
    phrases = random_phrases(rng)
    compiled = NotIn(phrases).compile(crowded)
    ends = set(crowded.eos_token_ids)
    for _ in range(3):
        matcher, walker, text = compiled.matcher(), compiled.walker(), b""
        for _ in range(12):
            expected = harmless(crowded, phrases, text)
            assert masks(matcher, crowded) == expected | ends
            assert matcher.is_accepting
            assert not matcher.is_finished
            following = {byte for byte in range(256) if walker.following() >> byte & 1}
            assert following == {byte for byte in range(256) if byte in expected}
            for token_id in rng.sample(range(crowded.vocab_size), 40):
                if token_id not in ends:
                    assert matcher.fork().advance([token_id]) == (token_id in expected)
            token_id = rng.choice(sorted(i for i in expected if i >= 256 or chr(i) in LETTERS) or [0])
            assert matcher.advance([token_id]) == 1
            token = crowded.token_bytes(token_id)
            assert walker.walk(token) == len(token)
            text += token


def going_on_tokens(tokenizer, phrases):
    """The tokens that begin as a phrase may go on."""
    rests = {phrase.encode()[n:] for phrase in phrases for n in range(len(phrase.encode()))}
    tokens = tokenizer.all_token_bytes()
    return [i for i, token in enumerate(tokens) if any(token[:n] in rests for n in range(1, 9))]


@pytest.mark.parametrize("file", DATA_FILES)
def test_masks_of_real_vocabularies_are_exact(data_tokenizer, masks, file):
    tokenizer = data_tokenizer(file)
    rng = random.Random(file)
    words = re.findall("[a-z]+", "the quick brown fox jumped over a lazy dog and said that nothing was done")
    phrases = {f"{rng.choice(words)} {rng.choice(words)[:4]}" for _ in range(60)}
    phrases |= {rng.choice(words)[: rng.randint(2, 6)] + rng.choice("aeioust") for _ in range(60)}
    phrases |= {"é", "日本", "a lazy dog and said that nothing was done", "\n\n", " x", "  "}
    compiled = NotIn(phrases).compile(tokenizer)
    ends = set(tokenizer.eos_token_ids)
    going_on = going_on_tokens(tokenizer, phrases)
    for _ in range(2):
        matcher, text = compiled.matcher(), b""
        for place in range(5):
            allowed = masks(matcher, tokenizer)
            looked_at = set(rng.sample(going_on, 3000)) | set(rng.sample(range(tokenizer.vocab_size), 1000))
            looked_at |= set(range(tokenizer.vocab_size)) - allowed
            looked_at -= ends
            expected = harmless(tokenizer, phrases, text, looked_at)
            assert allowed & looked_at == expected
            assert ends <= allowed
            # A beginning of a phrase, where the next token may complete it.
            start = rng.choice(sorted(phrases))
            token_ids = tokenizer.encode(start[: rng.randint(1, len(start))] if place < 4 else "ab")
            taken = matcher.advance(token_ids)
            text += tokenizer.decode_bytes(token_ids[:taken])
    assert len(compiled.shared.masks) > 3


@pytest.fixture(scope="module")
def data_tokenizer():
    def load(file):
        path = DATA / file
        if not path.exists():
            pytest.skip(f"{path} is not there")
        return from_gguf(path) if path.suffix == ".gguf" else from_tiktoken(path)

    return load


@pytest.mark.parametrize(
    ("phrases", "text", "refused"),
    [
        (["abc"], "ab", "c"),
        (["abc", "b"], "a", "b"),
        (["abcd", "bcx"], "abc", "x"),
        (["abcd", "bcx"], "abc", "d"),
        (["aab"], "aaa", "b"),
        (["abab", "ba"], "a", "ba"),
        (["é"], "x", "é"),
        (["yes please"], "yes", " please"),
    ],
)
def test_a_phrase_across_tokens_is_refused_and_named(small, phrases, text, refused):
    matcher = NotIn(phrases).compile(small).matcher()
    token_ids = list(text.encode())
    assert matcher.advance(token_ids) == len(token_ids)
    (token_id,) = small.encode(refused)
    explanation = matcher.explain(token_id)
    assert not explanation.allowed
    named = re.search(r"The phrase '(.*)' would be in the text", explanation.reason)
    assert named
    assert named[1] in phrases
    assert named[1] in text + refused
    assert matcher.advance([token_id]) == 0


def test_nothing_but_the_end_may_be_left(small, masks):
    followed = NotIn([f"a{chr(code)}" for code in range(128)]).compile(small)
    matcher = followed.matcher()
    assert matcher.advance([97]) == 1
    # Bytes of other characters are still there.
    assert not matcher.is_finished
    ascii_only = from_vocabulary(small, [*(bytes([code]) for code in range(128)), *[b""] * 128, b"<|end|>"])
    matcher = NotIn([f"a{chr(code)}" for code in range(128)]).compile(ascii_only).matcher()
    assert not matcher.is_finished
    assert matcher.advance([97]) == 1
    assert matcher.is_finished
    assert masks(matcher, ascii_only) == {256}
    assert matcher.advance([97]) == 0
    matcher.rollback(1)
    assert not matcher.is_finished


def from_vocabulary(tokenizer, tokens):
    """The same tokenizer with other bytes, holes among them."""
    twin = tokenizer.with_eos([256])
    twin.vocabulary = Vocabulary(tokens, [256])
    return twin


def test_phrases_that_leave_only_the_empty_text_are_refused():
    bare = from_vocabulary(crowded_tokenizer().with_eos([]), [b"a", b"b", b"ab", *[b""] * 253, b"<|end|>"])
    with pytest.raises(UnsatisfiableConstraintError, match="only the empty text is left"):
        NotIn(["a", "b"]).compile(bare)
    assert NotIn(["a", "bb"]).compile(bare).matcher().advance([1, 1]) == 1


def test_holes_and_special_tokens_are_no_text(crowded, masks):
    hole = from_vocabulary(crowded, [*(bytes([code]) for code in range(255)), b"", b"<|end|>"])
    for constraint in (NotIn(["xyz"]), Stop(["xyz"])):
        matcher = constraint.compile(hole).matcher()
        assert masks(matcher, hole) == set(range(255)) | {256}
        assert matcher.advance([255]) == 0
        matcher = constraint.compile(crowded).matcher()
        special = crowded.vocab_size - 1
        assert special in crowded.special_token_ids
        assert special not in masks(matcher, crowded)
        assert matcher.advance([special]) == 0


def test_an_ordinary_token_that_plays_the_end_is_no_text(crowded, masks):
    tokenizer = crowded.with_eos([97])
    matcher = NotIn(["a", "bb"]).compile(tokenizer).matcher()
    assert 97 in masks(matcher, tokenizer)
    assert matcher.advance([98, 98]) == 1
    assert not matcher.is_finished
    assert matcher.advance([97]) == 1
    assert masks(matcher, tokenizer) == {97}


def test_without_an_end_token_the_masks_hold_text_alone(crowded, masks):
    bare = crowded.with_eos([])
    matcher = NotIn(["ab"]).compile(bare).matcher()
    assert masks(matcher, bare) == harmless(bare, ["ab"], b"")


@pytest.mark.parametrize(
    "phrases", [[], "", [""], ["a", ""], [1], 5, None, ["\ud800"], [b"a"], {"a": 1}], ids=repr
)
def test_wrong_phrases_are_an_error(phrases):
    with pytest.raises(InvalidConstraintError):
        NotIn(phrases)
    with pytest.raises(InvalidConstraintError):
        Stop(phrases)


def test_too_large_sets_of_phrases_are_an_error(small, monkeypatch):
    monkeypatch.setattr(aho_corasick, "MAX_CELLS", 1000)
    with pytest.raises(InvalidConstraintError, match=r"30 phrases of 210 bytes together are too large"):
        NotIn([f"phrase{n}" for n in range(30)][:10] + [f"text{n:03}" for n in range(20)]).compile(small)
    with pytest.raises(InvalidConstraintError, match=r"has 10001 bytes.*at most 10000"):
        Stop(["x" * 10_001]).compile(small)


def test_a_long_phrase(small):
    phrase = "ab" * 5000
    matcher = NotIn([phrase]).compile(small).matcher()
    text = (phrase[:-2] + "ba" + phrase[:-1]).encode()
    assert matcher.advance(list(text)) == len(text)
    assert matcher.advance([ord("b")]) == 0
    assert matcher.advance([ord("a"), ord("b")]) == 2


def test_the_order_of_phrases_does_not_matter():
    assert NotIn(["a", "b", "a"]) == NotIn(["b", "a"])
    assert NotIn("ab") == NotIn(["ab"])
    assert NotIn(["a"]) != NotIn(["b"])
    assert NotIn(["a", "b", "a"]).to_dict() == {"kind": "not_in", "phrases": ["a", "b"]}
    assert NotIn(["a"]).terminal() is None


@pytest.mark.parametrize("seed", range(40))
def test_the_automaton_finds_the_first_match_and_the_longest_there(seed):
    rng = random.Random(seed)
    phrases = [phrase.encode() for phrase in random_phrases(rng, "ab\u00e9", 5)]
    automaton = AhoCorasick(phrases)
    for _ in range(60):
        text = "".join(rng.choices("abéx", k=rng.randint(0, 12))).encode()
        ends = [(text.find(p) + len(p), -len(p), p) for p in phrases if p in text]
        state = automaton.walk(automaton.start, text)
        assert (state >= automaton.first_match) == bool(ends)
        if ends:
            end, _, phrase = min(ends)
            assert automaton.find(automaton.start, text) == (end, phrase)
        else:
            assert automaton.held(state) == max(
                n for p in phrases for n in range(len(p)) if text.endswith(p[:n])
            )
            with pytest.raises(ValueError, match="no phrase"):
                automaton.find(automaton.start, text)


def test_every_byte_may_be_in_phrases():
    automaton = AhoCorasick([bytes([byte, 7]) for byte in range(256)])
    assert automaton.width == 256
    assert automaton.walk(automaton.start, bytes(range(7))) < automaton.first_match
    assert automaton.walk(automaton.start, bytes(range(8))) >= automaton.first_match


@pytest.mark.parametrize("seed", range(20))
def test_stop_strings_are_found_as_by_searching_the_text(crowded, seed):
    rng = random.Random(seed)
    strings = random_phrases(rng)
    compiled = Stop(strings).compile(crowded)
    for _ in range(10):
        matcher, text = compiled.matcher(), b""
        for _ in range(8):
            token_id = rng.choice([i for i in range(256, crowded.vocab_size - 2)] + [97, 98])
            before = (matcher.length, matcher.held, matcher.matched)
            assert matcher.advance([token_id]) == 1
            text += crowded.token_bytes(token_id)
            assert matcher.length == len(text)
            ends = [
                (text.find(s.encode()) + len(s.encode()), text.find(s.encode()), s)
                for s in strings
                if s.encode() in text
            ]
            if ends:
                _, begin, string = min(ends)
                assert (matcher.matched, matcher.cut, matcher.end) == (string, begin, begin)
                assert matcher.is_finished
                matcher.rollback(1)
                assert (matcher.length, matcher.held, matcher.matched) == before
                break
            assert matcher.matched is None
            assert matcher.end == len(text)


def test_a_walker_stops_at_a_stop_string():
    walker = Stop(["ab", "b"]).compile(crowded_tokenizer()).walker()
    assert walker.following() == (1 << 256) - 1
    assert walker.walk(b"xa") == 2
    twin = walker.fork()
    assert twin.step(ord("b"))
    assert twin.following() == 0
    assert not twin.step(ord("b"))
    assert twin.is_accepting
    assert walker.following() == (1 << 256) - 1


def test_stops_at_keeps_and_stops_before_drops(small):
    for constraint, cut in ((stops_at(["b"]), 2), (stops_before(["b"]), 1)):
        matcher = constraint.compile(small).matcher()
        matcher.advance([97, 98])
        assert matcher.cut == cut
    assert stops_at(["b"]) == Stop(["b"], include=True)
    assert stops_before("b") == Stop(["b"])


def test_tokens_that_begin_alike_stand_side_by_side(crowded):
    vocabulary = sorted_vocabulary(crowded)
    assert vocabulary.tokens == sorted(token for token in crowded.all_token_bytes()[:-2])
    assert vocabulary is sorted_vocabulary(crowded.with_eos([]))
    for prefix in (b"a", b"ab", b"abababababab", b"\xc3", b"\xff", b"\xff\xff", b""):
        low, high = vocabulary.beginning_with(prefix)
        found = sorted(token for token in vocabulary.tokens if token.startswith(prefix))
        assert vocabulary.tokens[low:high] == found
    odd = SortedVocabulary(Vocabulary([b"\xff", b"\xff\xffa", b"\xfe", b"", b"s", b"\xff"], [4]))
    assert odd.tokens == [b"\xfe", b"\xff", b"\xff", b"\xff\xffa"]
    assert odd.beginning_with(b"\xff") == (1, 4)
    assert odd.ids_of == {b"\xfe": [2], b"\xff": [0, 5], b"\xff\xffa": [1]}
    assert odd.single_bytes == b"\xfe\xff"


def test_masks_are_kept_within_bounds(monkeypatch):
    import numpy as np

    monkeypatch.setattr(RowCache, "MAX_BYTES", 0)
    cache = RowCache(64)
    for key in range(40):
        cache.put(key, np.full(2, key, dtype=np.int32))
    assert len(cache) == 16
    assert cache.get(39).tolist() == [39, 39]
    assert cache.get(0) is None
