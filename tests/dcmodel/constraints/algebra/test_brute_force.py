"""Combined rules against brute force: at every state, every token, over a small vocabulary.

A case is one state of one rule: a text that may still be completed. There the mask, `advance`,
`is_accepting`, `is_finished` and the forced tokens must be what the enumerated language says.
"""

from __future__ import annotations

import random
from functools import cache

import pytest
from fakes.small_languages import LETTERS, UP_TO_LONGEST, example

from dcmodel.constraint import Matcher
from dcmodel.constraints.algebra.compiling import label
from dcmodel.errors import InvalidConstraintError, UnsatisfiableConstraintError

CHUNKS = 8
RULES_PER_CHUNK = 24
MIN_CASES = 20_000


@cache
def letter_tokens(tokenizer) -> dict[int, str]:
    """The tokens that are made of the letters."""
    texts = {i: tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)}
    return {
        i: text.decode()
        for i, text in texts.items()
        if text and i not in tokenizer.special_token_ids and set(text) <= set(LETTERS.encode())
    }


def cases_of(rule, language, tokenizer, masks) -> int:
    """Check all states of a rule, bounded to the language's longest word; how many there were."""
    try:
        compiled = (rule & UP_TO_LONGEST).compile(tokenizer)
    except UnsatisfiableConstraintError:
        assert not language
        return 1
    except InvalidConstraintError as error:
        if "no text was found" not in str(error):
            raise
        # An intersection of two grammars inside, for which neither a text nor a proof was found.
        return 0
    assert language
    beginnings = {word[:n] for word in language for n in range(len(word) + 1)}
    stack: list[tuple[str, Matcher]] = [("", compiled.matcher())]
    seen = {""}
    while stack:
        text, matcher = stack.pop()
        for token_id, after in check_state(text, matcher, language, beginnings, tokenizer, masks):
            if after not in seen:
                seen.add(after)
                twin = matcher.fork()
                twin.advance([token_id])
                stack.append((after, twin))
    assert seen == beginnings
    return len(seen)


def check_state(text, matcher, language, beginnings, tokenizer, masks) -> list[tuple[int, str]]:
    ends = set(tokenizer.eos_token_ids)
    letters = letter_tokens(tokenizer)
    live = {i: text + piece for i, piece in letters.items() if text + piece in beginnings}
    is_complete = text in language
    assert matcher.is_accepting == is_complete, text
    assert matcher.is_finished == (is_complete and not live), text
    for token_id in letters:
        assert matcher.fork().advance([token_id]) == (token_id in live), (text, letters[token_id])
    allowed = masks(matcher, tokenizer)
    assert allowed & ends == (ends if is_complete else set()), text
    allowed = {i for i in allowed - ends if matcher.is_exact or matcher.fork().advance([i])}
    assert allowed <= live.keys(), text
    for token_id in live.keys() - allowed:
        # A part that forces its text leaves the usual token only: another spelling of the same text.
        piece = letters[token_id]
        assert any(letters[i].startswith(piece) or piece.startswith(letters[i]) for i in allowed), (
            text,
            piece,
        )
    forced = matcher.forced()
    if forced:
        assert not is_complete
        spelled = text + "".join(letters[i] for i in forced)
        assert all(word.startswith(spelled) for word in language if word.startswith(text)), (text, spelled)
        assert matcher.fork().advance(forced) == len(forced)
    return list(live.items())


COUNTED: dict[int, int] = {}


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_masks_of_combined_rules_are_what_enumeration_says(chunk, small, masks):
    count = 0
    for seed in range(chunk * RULES_PER_CHUNK, (chunk + 1) * RULES_PER_CHUNK):
        rng = random.Random(seed)
        item = example(rng, depth=rng.choice([1, 2, 2, 3]))
        try:
            count += cases_of(item.rule, item.language, small, masks)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {label(item.rule)}: {error}") from error
    assert count > 0
    COUNTED[chunk] = count


def test_there_were_as_many_cases_as_promised():
    if len(COUNTED) < CHUNKS:
        pytest.skip("only a part of the chunks ran here")
    assert sum(COUNTED.values()) >= MIN_CASES, COUNTED
