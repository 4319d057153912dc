from __future__ import annotations

import os
import time

import pytest
from lark import Tree

from dcmodel.constraints import Grammar, guard
from dcmodel.constraints.guard import within
from dcmodel.constraints.lark_scan import scan_lark
from dcmodel.errors import InvalidConstraintError, UnsatisfiableConstraintError, UnsupportedConstraintError

ARITHMETIC = 'start: e\ne: e /[+-]/ t | t\nt: /[0-9]{1,3}/ | "(" e ")"'


@pytest.mark.parametrize(
    ("lark", "place", "message"),
    [
        ("start: FOO", (1, 8), "unknown name"),
        ('start: a\na: "x" b\n', (2, 4), "Lark says: Rule 'b' used but not defined"),
        ('start: "x"\n  | /a(/', (1, 8), "unclosed group"),
        ('start: "a" )\n', (1, 12), "expecting"),
        ('start: (("a")', (1, 14), r"Expected token '\)'"),
        ("start: 'a'", (1, 8), "lexer error"),
        ('start: A\nA: "a" A | "b"', (2, 4), "circular reference"),
        ('start: "a" <|foo|>', (1, 8), "unknown special token"),
        ("start: N\n%import python.NAME -> N", (2, 1), "Unknown common regex"),
    ],
)
def test_a_wrong_grammar_is_an_error_with_line_and_column(small, lark, place, message):
    with pytest.raises(InvalidConstraintError, match=message) as caught:
        Grammar(lark).compile(small)
    line, column = place
    assert f"at line {line} column {column}" in caught.value.message
    assert caught.value.position == sum(len(part) + 1 for part in lark.split("\n")[: line - 1]) + column - 1
    assert f"    {lark.split(chr(10))[line - 1]}\n    {' ' * (column - 1)}^" in str(caught.value)


@pytest.mark.parametrize(
    ("lark", "keyword"),
    [
        ("start: a\na[max_tokens=3]: /x*/", "max_tokens"),
        ('start: a\na[capture, stop="x"]: /x*/', "stop"),
        ('start: r\nr.2: "a"', "priority"),
        ('start: _s{"a"}\n_s{x}: x', "params"),
        ("start: /(?!a)b/", "look-around"),
        ('start: "a" <|endoftext|>', "<|endoftext|>"),
        ('start: "a" <[1-3,285]>', "<[1-3,285]>"),
        ('start: "a" <[^1-3]>', "<[^1-3]>"),
        ('start: "a" <[*]>', "<[*]>"),
        ('%llguidance {"no_forcing": false}\nstart: "a"', "no_forcing"),
        ('start: %json {"type":"integer","not":{}}', "not"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(small, lark, keyword):
    with pytest.raises(UnsupportedConstraintError) as caught:
        Grammar(lark).compile(small)
    assert caught.value.keyword == keyword


@pytest.mark.parametrize(
    "lark", ["start: T\nT: /a../ & /b../", "start: start", r"start: A" "\n" r"A: /[^\s\S]/"]
)
def test_a_grammar_of_nothing_is_unsatisfiable(small, lark):
    with pytest.raises(UnsatisfiableConstraintError):
        Grammar(lark).compile(small)


@pytest.mark.parametrize("lark", ["", "  \n", None, 5])
def test_a_grammar_must_be_text(lark):
    with pytest.raises(InvalidConstraintError, match="the grammar is"):
        Grammar(lark)


@pytest.mark.parametrize(
    ("lark", "text"),
    [
        ('start: WS " x"\nWS: / +/', "  "),
        ('start: WS WS "x"\nWS: " "+', "  "),
        ('start: A "a"\nA: /(aa|aaa)+/', "aa"),
        ('start: A B\nA: "a"+\nB: "a"+', "aaa"),
        ('start: WS " x"\nWS: /[ a]+/ & /[ b]+/', " "),
        ('start: "(" n ")"\nn: %lark {\nstart: WS " x"\nWS: / +/\n}', "( "),
        ('start: A "ab"\nA: B+\nB: C | "abab"\nC: "a" "b"', "ab"),
        ('start: "x" /(b)+/ "b"', "xb"),
        ('start: A "é"\nA: /é{3,}/', "ééé"),
        ('start: "x" "(x" ")"\n%ignore A\nA: "("+', "x("),
        ('%llguidance {"no_forcing": true}\nstart: WS " x"\nWS: / +/', "  "),
        ('start: A "b"\nA: /(a{1000}){10000}/', "a"),
    ],
)
def test_a_grammar_that_forces_text_without_end_does_not_hang(small, masks, lark, text):
    """Each of these makes the engine compute for ever, or until memory ends, when text is forced."""
    begin = time.process_time()
    matcher = Grammar(lark).compile(small).matcher()
    for token_id in text.encode():
        assert masks(matcher, small)
        assert matcher.forced() == []
        assert matcher.advance([token_id]) == 1
    assert masks(matcher, small)
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    ("lark", "rule", "position"),
    [
        ('start: "a" start', "start", 0),
        ('start: s\ns: "ab" s', "s", 9),
        ('start: "(" start ")" | [x] y\nx: "x"\ny: x y x | y', "start", 0),
        ('start: x+\nx: "x" y\ny: "y" x', "x", 10),
    ],
)
def test_a_rule_that_never_ends_is_named(small, lark, rule, position):
    with pytest.raises(UnsatisfiableConstraintError, match=f"the rule `{rule}` never ends") as caught:
        Grammar(lark).compile(small)
    assert caught.value.position == position


def test_an_empty_terminal_is_named(small):
    lark = 'start: "x" T\nT: A & /b../\nA: /a../'
    with pytest.raises(UnsatisfiableConstraintError, match="the terminal `T` matches nothing") as caught:
        Grammar(lark).compile(small)
    assert "    T: A & /b../\n    ^" in str(caught.value)


@pytest.mark.parametrize(
    "lark",
    [
        'start: ("x" T) | "y"\nT: /a[0-9]+/ & /b[0-9]+/',
        'start: "x" endless | "y"\nendless: "a" endless',
        'start: ("x" endless)? "y"\nendless: "a" other\nother: endless endless',
    ],
)
def test_an_alternative_of_nothing_is_left_out(small, masks, lark):
    matcher = Grammar(lark).compile(small).matcher()
    assert masks(matcher, small) == {ord("y")}


@pytest.mark.parametrize("lark", ['start: x{1000}\nx: y{1000}\ny: "a"{100}'])
def test_rules_that_force_without_end_are_bounded_by_the_engine(small, masks, lark):
    begin = time.process_time()
    matcher = Grammar(lark).compile(small).matcher()
    assert masks(matcher, small)
    assert time.process_time() - begin < 20


@pytest.mark.parametrize(
    ("lark", "may_force"),
    [
        (ARITHMETIC, True),
        ('start: "a"+ "b"\n%ignore /[ \\t]+/', True),
        ("start: WORD\n%import common.WORD\n%import common (WS, INT)\n%ignore WS", True),
        (
            'start: A~2..3 | B{2} | "x".."z"\nA: "ab" [C] // / +/\nB: (A | "c")* # / +/\nC: /[a-z]+/i',
            True,
        ),
        ("start: A\nA: / +/", False),
        ("start: A\nA: B & /a/\nB: /b/", False),
        ("start: A\nA: NOPE", False),
        ('start: A\nA: "a"{20000}', False),
        ("start: A\nA: A", False),
        ("%wrong x", False),
        ("start: A\nA: (", False),
        ('start: A\nA: "\\x"', False),
    ],
)
def test_where_text_may_be_forced(lark, may_force):
    assert scan_lark(lark).may_force == may_force


def test_the_usual_terminals_may_be_forced(small):
    matcher = Grammar(ARITHMETIC.replace("/[+-]/", '"123"')).compile(small).matcher()
    matcher.advance(small.encode("(1"))
    assert matcher.forced() == []
    matcher.advance(small.encode("23"))
    assert matcher.forced() == [] or small.decode_bytes(matcher.forced())


def test_a_match_becomes_a_tree():
    grammar = Grammar(ARITHMETIC)
    assert grammar.has_tree
    tree = grammar.parse("1+(22-3)")
    assert isinstance(tree, Tree)
    assert tree.data == "start"
    assert [str(token) for token in tree.scan_values(lambda token: True)] == ["1", "+", "22", "-", "3"]
    assert grammar.parse("1+") == "1+"


def test_a_text_that_needs_the_complete_lexer_becomes_a_tree():
    tree = Grammar("start: A B\nA: /[a-z]+/\nB: /[a-z][0-9]/").parse("abc1")
    assert [str(token) for token in tree.children] == ["ab", "c1"]


@pytest.mark.parametrize(
    "lark", ['start: "a"{2}', "start: x\nx[lazy]: /a*b/", 'start: %json {"type":"integer"}']
)
def test_an_extension_of_the_engine_has_no_tree(small, lark):
    grammar = Grammar(lark)
    assert grammar.compile(small)
    assert not grammar.has_tree
    assert grammar.parse("aa") == "aa"


def test_options_of_the_engine_do_not_hinder_the_tree():
    grammar = Grammar('%llguidance {"allow_initial_skip": true}\nstart: "a" "b"\n%ignore / +/')
    assert isinstance(grammar.parse(" a b"), Tree)


def test_lark_never_reads_files_for_a_grammar(tmp_path, monkeypatch):
    (tmp_path / "secret.lark").write_text('A: "a"\n')
    monkeypatch.chdir(tmp_path)
    assert not Grammar("start: A\n%import .secret (A)").has_tree
    assert not Grammar("start: A\n%import secret.A").has_tree


def test_a_special_token_in_a_grammar(small, masks):
    matcher = Grammar('start: "a" <|tool|> "b"').compile(small).matcher()
    matcher.advance(small.encode("a"))
    assert masks(matcher, small) == {287}
    assert matcher.advance([287, ord("b"), small.eos_token_ids[1]]) == 3


def test_what_takes_too_long_is_given_up(small, monkeypatch):
    monkeypatch.setattr(guard, "COMPILE_SECONDS", 0.05)
    with pytest.raises(InvalidConstraintError, match=r"grammar took longer than 0\.05 s"):
        within(0.05, lambda: time.sleep(0.3), what="grammar")
    with pytest.raises(KeyError):
        within(1, lambda: {}["x"], what="grammar")
    assert within(1, lambda: 5, what="grammar") == 5


def test_a_rule_of_many_texts_is_no_matter(small):
    """The engine itself gives up at 2,000 alternatives in a rule."""
    options = " | ".join(f'"w{index}"' for index in range(3000))
    matcher = Grammar(f'start: "<" option ">"\noption: {options}').compile(small).matcher()
    text = small.encode("<w2999>")
    assert matcher.advance(text) == len(text)
    assert matcher.is_finished


def test_a_spelled_grammar_keeps_its_tree(small):
    grammar = Grammar('start: "(" number ")"\nnumber: digit+\ndigit: "1" | "2" | "3" | "4"')
    matcher = grammar.compile(small).matcher()
    assert matcher.advance(small.encode("(123)")) == len(small.encode("(123)"))
    tree = grammar.parse("(123)")
    assert [child.data for child in next(tree.find_data("number")).children] == ["digit"] * 3


CHAIN = "start: r0\n" + "\n".join(f'r{index}: r{index + 1} "a"' for index in range(20_000)) + '\nr20000: "b"'
BOMB = "start: R0\n" + "\n".join(f"R{index}: R{index + 1} R{index + 1}" for index in range(40)) + '\nR40: "b"'


@pytest.mark.skipif(os.name != "posix", reason="limits are the system's")
@pytest.mark.parametrize(
    ("lark", "message"),
    [
        (CHAIN, "crash"),
        (BOMB, r"took more than 0\.3 s"),
        (BOMB.replace("start: R0", 'start: R0 <|tool|> "x"'), r"took more than 0\.3 s"),
    ],
    ids=["chain", "bomb", "bomb-with-a-special-token"],
)
def test_what_would_take_the_process_down_is_refused(small, monkeypatch, lark, message):
    monkeypatch.setattr("dcmodel.constraints.grammar.TRIAL_SECONDS", 0.3)
    with pytest.raises(InvalidConstraintError, match=message):
        Grammar(lark).compile(small)


def test_a_cheap_grammar_has_no_trial(small, monkeypatch):
    monkeypatch.setattr("dcmodel.constraints.grammar.check_in_child", pytest.fail)
    assert Grammar(ARITHMETIC).compile(small)
