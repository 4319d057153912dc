"""Rules over three letters beside the finite languages that they stand for, up to a length."""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass

from dcmodel.constraint import Constraint
from dcmodel.constraints import Choice, Grammar, Length, NotIn, PrefixOf, Regex, StartsWith

LETTERS = "abc"
LONGEST = 5
WORDS = tuple("".join(w) for n in range(LONGEST + 1) for w in itertools.product(LETTERS, repeat=n))
UP_TO_LONGEST = Regex(f"[{LETTERS}]{{0,{LONGEST}}}")

PATTERNS = ("a*b", "(ab|c)+", "a{1,3}", "[ab]*c", "(a|bc)*", "abc?", "[abc]{2}", "c+a*", "b?", "(abc|a)c*")
PALINDROMES = Grammar('start: "a" start "a" | "b" start "b" | "c"')
NESTED = Grammar('start: "a" start "b" | "a" "b"')


@dataclass(frozen=True)
class Example:
    """A rule, and which of `WORDS` it allows."""

    rule: Constraint
    language: frozenset[str]


def _where(rule: Constraint, test) -> Example:
    return Example(rule, frozenset(word for word in WORDS if test(word)))


def _is_palindrome(word: str) -> bool:
    return len(word) % 2 == 1 and word == word[::-1] and word.count("c") == 1


def _is_nested(word: str) -> bool:
    half = len(word) // 2
    return half > 0 and word == "a" * half + "b" * half


def _short(rng: random.Random, count: int) -> list[str]:
    return rng.sample([word for word in WORDS if 0 < len(word) <= 3], count)


def leaf(rng: random.Random) -> Example:
    """A rule of one kind."""
    kind = rng.randrange(9)
    if kind <= 2:
        pattern = rng.choice(PATTERNS)
        return _where(Regex(pattern), lambda word: re.fullmatch(pattern, word))
    if kind == 3:
        options = _short(rng, rng.randint(1, 5))
        return Example(Choice(options), frozenset(options))
    if kind == 4:
        return _where(*rng.choice([(PALINDROMES, _is_palindrome), (NESTED, _is_nested)]))
    if kind == 5:
        phrases = _short(rng, rng.randint(1, 3))
        return _where(NotIn(phrases), lambda word: not any(phrase in word for phrase in phrases))
    if kind == 6:
        low = rng.randint(0, 3)
        rule = Length(max(low, 1)) if rng.random() < 0.3 else Length(low, low + rng.randint(1, 2))
        low = rule.minimum
        top = LONGEST if rule.maximum is None else rule.maximum
        return _where(rule, lambda word: low <= len(word) <= top)
    texts = _short(rng, rng.randint(1, 3))
    if kind == 7:
        return _where(StartsWith(texts), lambda word: word.startswith(tuple(texts)))
    return _where(PrefixOf(texts), lambda word: word and any(text.startswith(word) for text in texts))


def example(rng: random.Random, depth: int) -> Example:
    """A random rule made of rules."""
    if depth == 0 or rng.random() < 0.25:
        return leaf(rng)
    operator = rng.choice("&|~+")
    one = example(rng, depth - 1)
    if operator == "~":
        return Example(~one.rule, frozenset(WORDS) - one.language)
    two = example(rng, depth - 1)
    if operator == "&":
        return Example(one.rule & two.rule, one.language & two.language)
    if operator == "|":
        return Example(one.rule | two.rule, one.language | two.language)
    joined = (a + b for a in one.language for b in two.language)
    return Example(one.rule + two.rule, frozenset(word for word in joined if len(word) <= LONGEST))
