"""What is made of a grammar before it is compiled accepts the same texts, or exactly those of the grammar."""

from __future__ import annotations

import itertools
import random
import re

import pytest
from llguidance import LLMatcher

from dcmodel.constraints.lark import prepare_grammar
from dcmodel.constraints.lark.guards import guarded
from dcmodel.constraints.lark.reader import read_grammar
from dcmodel.constraints.lark.syntax import Atom, Choice, Ref, Repeat, Seq
from dcmodel.constraints.lark_scan import scan_lark
from dcmodel.constraints.llg_walker import build_byte_engine, byte_tokenizer
from dcmodel.errors import UnsatisfiableConstraintError, UnsupportedConstraintError

ALPHABET = "abc"
LONGEST = 5
ATOMS = ('"a"', '"b"', '"c"', '"ab"', '"ba"', "/[ab]/", "/[^a\\n]/", '"a".."c"', "/a+/", "/[ab]*c/", "A", "B")
TERMINALS = '\nA: "a" | "b"\nB: "c" "a"?\n'
PYTHON = {"A": "[ab]", "B": "ca?"}
CASES = 400


def random_expr(choices: random.Random, names: list[str], depth: int) -> str:
    kind = choices.choice(("atom", "atom", "name", "seq", "choice", "repeat")) if depth else "atom"
    if kind == "name" and names:
        return choices.choice(names)
    if kind == "seq":
        return " ".join(random_expr(choices, names, depth - 1) for _ in range(choices.randint(2, 3)))
    if kind == "choice":
        parts = [random_expr(choices, names, depth - 1) for _ in range(choices.randint(2, 4))]
        return f"({' | '.join(parts)})"
    if kind == "repeat":
        return f"({random_expr(choices, names, depth - 1)}){choices.choice(('*', '+', '?', '{2}', '{1,3}'))}"
    return choices.choice(ATOMS if choices.random() < 0.4 else ATOMS[:3])


def random_grammar(seed: int) -> str:
    choices = random.Random(seed)
    names = [f"r{index}" for index in range(choices.randint(1, 4))]
    lines = [f"start: {random_expr(choices, names, 3)}"]
    for index, name in enumerate(names):
        # Mostly names further down; sometimes any, so that rules are recursive.
        known = names if choices.random() < 0.25 else names[index + 1 :]
        lines.append(f"{name}: {random_expr(choices, known, 3)} | {random_expr(choices, known, 1)}")
    return "\n".join(lines) + TERMINALS


def language(text: str) -> set[str]:
    """All texts of a grammar up to a length, by its definition."""
    tree = read_grammar(text)
    known: dict[str, frozenset[str]] = {name: frozenset() for name in tree.definitions}
    everything = [
        "".join(letters)
        for length in range(LONGEST + 1)
        for letters in itertools.product(ALPHABET, repeat=length)
    ]

    def joined(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
        return frozenset(a + b for a in one for b in other if len(a) + len(b) <= LONGEST)

    def texts(expr) -> frozenset[str]:
        match expr:
            case Atom(source):
                pattern = (
                    source.strip("/")
                    if source[0] == "/"
                    else re.sub(r'"(.)"\.\."(.)"', r"[\1-\2]", source).strip('"')
                )
                return frozenset(text for text in everything if re.fullmatch(pattern, text))
            case Ref(name):
                return known[name]
            case Seq(parts):
                result = frozenset([""])
                for part in parts:
                    result = joined(result, texts(part))
                return result
            case Choice(parts):
                return frozenset().union(*map(texts, parts))
            case Repeat(body, low, high):
                one, result, found = texts(body), frozenset([""]), frozenset()
                for count in range((high if high is not None else low + LONGEST + 1) + 1):
                    if count >= low:
                        found |= result
                    result = joined(result, one)
                return found

    while True:
        new = {name: texts(definition.body) for name, definition in tree.definitions.items()}
        if new == known:
            return set(known["start"])
        known = new


def accepted(text: str, alphabet: str = ALPHABET) -> set[str]:
    """All texts up to a length that the engine accepts."""
    engine = build_byte_engine(LLMatcher.grammar_from_lark(f'%llguidance {{"no_forcing": true}}\n{text}'))
    found = set()
    todo = [("", engine)]
    while todo:
        so_far, state = todo.pop()
        if state.is_accepting():
            found.add(so_far)
        if len(so_far) < LONGEST:
            for letter in alphabet:
                further = state.deep_copy()
                if further.try_consume_tokens([ord(letter)]):
                    todo.append((so_far + letter, further))
    return found


@pytest.mark.parametrize("block", range(8))
def test_random_grammars_keep_their_texts(block):
    changed = wider = 0
    for seed in range(block * CASES // 8, (block + 1) * CASES // 8):
        text = random_grammar(seed)
        try:
            prepared = prepare_grammar(text)
        except UnsatisfiableConstraintError:
            assert not language(text), text
            continue
        if not prepared.was_changed:
            continue
        before, after, exact = accepted(text), accepted(prepared.text), language(text)
        assert before <= after <= exact, f"{text}\n{prepared.text}\n{before - after} {after - exact}"
        changed += 1
        wider += before < after
    assert changed > CASES // 40


def test_random_grammars_that_ignore_text_keep_exactly_their_texts():
    changed = 0
    for seed in range(1000, 1120):
        text = random_grammar(seed) + "%ignore /x/\n"
        try:
            prepared = prepare_grammar(text)
        except UnsatisfiableConstraintError:
            continue
        if prepared.was_changed:
            changed += 1
            assert accepted(prepared.text, "abcx") == accepted(text, "abcx"), text
    assert changed > 10


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("start: A B\nA: /[a-z]+/\nB: /[a-z][0-9]/", "abc1"),
        ('start: WS " x"\nWS: / +/', "   x"),
        ('start: A "ab"\nA: "ab"+', "ababab"),
        (
            'start: "<" pair ("," pair)* ">"\npair: NAME "x" NUMBER\nNAME: /[a-z]+/\nNUMBER: /[0-9]+/',
            "<axx1,bx2>",
        ),
    ],
)
def test_where_greed_would_change_the_language_it_is_mended(text, good):
    """The engine by itself reads the first terminal too far, and refuses these."""
    engine = build_byte_engine(LLMatcher.grammar_from_lark(f'%llguidance {{"no_forcing": true}}\n{text}'))
    assert engine.try_consume_tokens(list(good.encode())) < len(good) or not engine.is_accepting()
    mended = f'%llguidance {{"no_forcing": true}}\n{prepare_grammar(text).text}'
    engine = build_byte_engine(LLMatcher.grammar_from_lark(mended))
    assert engine.try_consume_tokens(list(good.encode())) == len(good)
    assert engine.is_accepting()


def test_what_no_merging_mends_stays_as_it_is():
    text = 'start: e\ne: NAME e? "x" | NAME\nNAME: /[a-z]+/'
    assert not prepare_grammar(text).was_changed


NAIVE = r"""start: value
value: object | string | number | "true"
object: "{" ws (member ("," ws member)*)? "}"
member: string ws ":" ws value ws
string: "\"" char* "\""
char: /[^"\\\x00-\x1f]/ | "\\" ("\"" | "\\" | "n" | "u" hex hex hex hex)
hex: digit | "a" | "b" | "c" | "d" | "e" | "f"
number: "-"? digit+ ("." digit+)?
digit: "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9"
ws: (" " ws | "\n" ws)?
"""


def rule_of(prepared: str, name: str) -> str:
    return next(line for line in prepared.splitlines() if line.startswith(f"{name}: "))


def test_spelled_rules_become_terminals():
    prepared = prepare_grammar(NAIVE)
    assert prepared.is_cheap
    assert prepared.was_changed
    for name in ("string", "number"):
        assert re.fullmatch(rf"{name}: M_\d+", rule_of(prepared.text, name))
    assert re.fullmatch(r"ws: \(M_\d+\)\?", rule_of(prepared.text, "ws"))


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        # a greedy number would swallow the last digit
        ('start: int digit "x"\nint: digit+\ndigit: "0".."9"', "12x", "1x"),
        ('start: a+ b\na: "x" | "y" | "z" | "w"\nb: "x" "v"', "xyxv", "xy"),
        ('start: word+ "."\nword: l l* " "?\nl: "a".."z"', "ab cd.", "ab  cd."),
        ('start: list\nlist: "x" "," list | "x"', "x,x,x", "x,x,"),
        ('start: sum\nsum: sum "+" n | n\nn: ("1" | "2")+', "1+22+1", "1+"),
        ('start: e? "a" e? "b"\ne:', "ab", "a"),
        ('start: "a" ("b" | "c" | "d" | "e" | "f" "g")* "f"', "abfgf", "abfg"),
        ('start: "k"i+ "A"', "kKA", "kKa"),
    ],
)
def test_what_is_merged_reads_the_same_texts(text, good, bad):
    prepared = prepare_grammar(text).text
    for grammar in (text, prepared):
        engine = build_byte_engine(LLMatcher.grammar_from_lark(grammar))
        whole = engine.deep_copy()
        assert whole.try_consume_tokens(list(good.encode())) == len(good)
        assert whole.is_accepting()
        part = engine.deep_copy()
        assert part.try_consume_tokens(list(bad.encode())) < len(bad) or not part.is_accepting()


def test_where_text_is_ignored_only_alternatives_are_joined():
    text = 'start: word+\nword: l+ ";"\nl: "a" | "b" | "c" | "d"\n%ignore / +/'
    prepared = prepare_grammar(text)
    assert rule_of(prepared.text, "word") == 'word: (l)+ ";"'
    engine = build_byte_engine(LLMatcher.grammar_from_lark(prepared.text))
    assert engine.try_consume_tokens(list(b"a b ;c;")) == 7


@pytest.mark.parametrize(
    "text",
    [
        "not a grammar",
        "begin: x",
        'start: a::0\na::_: "" %if is_ones([0:2]) | "a" a::set_bit(0)',
        'start: n\nn: %lark {\nstart: "a" "b"*\n}',
        "start: a\na[lazy]: /x*y/",
        'start: "a" "b"',
        "start: " + "(" * 100 + '"a"' + ")" * 100,
        "start: r0\n" + "\n".join(f'r{index}: r{index + 1} "a"' for index in range(3000)) + '\nr3000: "b"',
    ],
)
def test_what_cannot_be_read_or_bettered_stays_as_it_is(text):
    assert prepare_grammar(text).text == text


def test_what_may_be_dear_is_not_called_cheap():
    assert prepare_grammar('start: A "b"\nA: /[ab]{3}/').is_cheap
    for text in (
        "start: A\nA: /[ab]{30000}/",
        "start: A\nA: /a../ & /b../",
        "start: x{300}\nx: y{300}\ny: /[ab]/",
        "start: R0\n" + "\n".join(f"R{n}: R{n + 1} R{n + 1}" for n in range(40)) + '\nR40: "b"',
    ):
        assert not prepare_grammar(text).is_cheap


def test_rules_that_double_are_not_written_out():
    text = "start: r0\n" + "\n".join(f"r{n}: r{n + 1} r{n + 1}" for n in range(40)) + '\nr40: "b"+ | "c"'
    assert len(prepare_grammar(text).text) < 20 * len(text)


PIECES = (
    "{",
    "}",
    "(",
    ")",
    "|",
    "*",
    "~2..",
    "..",
    '"',
    '"a"',
    "/",
    "#",
    "\n",
    ":",
    "->",
    "%json",
    "%ignore",
)
MORE_PIECES = (
    "::",
    "<|x|>",
    "&",
    "{1,",
    "{2}",
    "{0}",
    "\\",
    "i",
    "A",
    "start",
    "!",
    '"\\u12"',
    "/(?i)a/",
    "{3,1}",
)


@pytest.mark.parametrize("seed", range(300))
def test_a_broken_grammar_is_never_more_than_refused(seed):
    """Whatever stands in the text, it is read, or left to the engine, which has the same to say of both."""
    choices = random.Random(seed)
    letters = list(random_grammar(seed) if choices.random() < 0.7 else NAIVE)
    for _ in range(choices.randint(1, 6)):
        at = choices.randrange(len(letters))
        letters[at : at + choices.randint(0, 3)] = choices.choice((*PIECES, *MORE_PIECES, ""))
    text = "".join(letters)
    scan_lark(text)
    try:
        prepared = guarded(prepare_grammar(text).text)
    except (UnsatisfiableConstraintError, UnsupportedConstraintError):
        return
    said = [
        LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(each), byte_tokenizer())
        for each in (text, prepared)
    ]
    assert bool(said[0]) == bool(said[1]), (text, prepared, said)
