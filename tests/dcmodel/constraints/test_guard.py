"""What the mask engine does in silence, one fact after another: none of it reaches a user.

Errors that show as a mask of nothing but the end, and budgets that run out, are in test_llg; texts that
are forced for ever and rules of thousands of alternatives in test_grammar; crashes in test_trial.
"""

from __future__ import annotations

import json
import threading
import time

import pytest

from dcmodel.constraints import Choice, Grammar, Regex, guard
from dcmodel.constraints.guard import within
from dcmodel.constraints.lark.guards import guarded
from dcmodel.errors import InvalidConstraintError, UnsupportedConstraintError


def accepts(constraint, tokenizer, text: bytes) -> bool:
    matcher = constraint.compile(tokenizer).matcher()
    return matcher.advance(list(text)) == len(text) and matcher.is_accepting


@pytest.mark.parametrize(
    ("lark", "text"),
    [
        ("start: T\nT: ~/a/", "b"),
        ("start: T\nT: /a*b/ | ~/[a-z]+/ // a comment\n  | /c/", "c"),
        ("start: A\nA: B\nB: ~/ab?/{1}", "é"),
    ],
)
def test_a_complement_is_made_of_text(small, masks, lark, text):
    """In the engine it holds bytes that are no UTF-8."""
    grammar = Grammar(lark)
    assert accepts(grammar, small, text.encode())
    allowed = masks(grammar.compile(small).matcher(), small)
    assert not allowed & {0x80, 0xBF, 0xC0, 0xFE, 0xFF}
    assert 0xC3 in allowed


def test_a_match_that_nothing_can_follow_is_finished(small):
    """With `&` the engine finds that out one mask late."""
    matcher = Grammar("start: T\nT: /a.../ & /..bc/").compile(small).matcher()
    assert matcher.advance(list(b"axb")) == 3
    assert not matcher.is_finished
    assert matcher.advance(list(b"c")) == 1
    assert matcher.is_finished


def test_a_count_is_no_complement():
    text = 'start: A\nA: "a"~2..3 "b" ~ 2\n'
    assert guarded(text) == text


@pytest.mark.parametrize("option", ["lenient", "coerce_one_of"])
def test_options_that_let_invalid_json_pass_are_refused(small, option):
    schema = json.dumps({"type": "array", "uniqueItems": True, "x-guidance": {option: True}})
    with pytest.raises(UnsupportedConstraintError, match="invalid JSON would pass") as caught:
        Grammar(f"start: v\nv: %json {schema}").compile(small)
    assert caught.value.keyword == option
    assert caught.value.position == len("start: v\nv: ")


def test_a_key_in_a_grammars_schema_cannot_be_spelled_around_it(small):
    schema = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}})
    grammar = Grammar(f'start: "<" v ">"\nv: %json {schema}\n')
    assert accepts(grammar, small, b'<{"a": 1, "b": "x"}>')
    assert not accepts(grammar, small, b'<{"a": "x"}>')
    assert not accepts(grammar, small, b'<{"\\u0061": "x"}>')


def test_options_of_a_schema_in_a_grammar_are_kept(small):
    schema = '{"type": "array", "x-guidance": {"whitespace_flexible": false}}'
    assert not accepts(Grammar(f"start: %json {schema}"), small, b"[1, 2]")
    assert accepts(Grammar(f"start: %json {schema}"), small, b"[1,2]")


def test_a_schema_that_is_no_json_is_left_to_the_engine(small):
    with pytest.raises(InvalidConstraintError):
        Grammar('start: %json {"type": }').compile(small)


@pytest.mark.parametrize("attribute", ["max_tokens=2", 'stop="x"', "stop_capture", "temperature=0.3"])
def test_attributes_that_cut_lexemes_or_do_nothing_are_refused(small, attribute):
    if attribute == "stop_capture":
        attribute = 'stop_capture="c", stop="x"'
    with pytest.raises(UnsupportedConstraintError, match="rule attribute"):
        Grammar(f"start: a\na[{attribute}]: /x{{5,}}/").compile(small)


@pytest.mark.parametrize("attribute", ["lazy", 'suffix=";"', "capture"])
def test_attributes_that_can_be_rolled_back_are_taken(small, attribute):
    end = "" if "suffix" in attribute else ";"
    matcher = Grammar(f'start: a "!"\na[{attribute}]: /[a-z]*{end}/').compile(small).matcher()
    assert matcher.advance(list(b"ab;")) == 3
    matcher.rollback(2)
    assert matcher.advance(list(b"b;!")) == 3
    assert matcher.is_accepting


@pytest.mark.parametrize("statement", ["%declare X", '%override start: "b"', '%extend start: "b"'])
def test_statements_that_the_engine_has_not_are_errors(small, statement):
    with pytest.raises(InvalidConstraintError, match="at line 2"):
        Grammar(f'start: "a"\n{statement}').compile(small)


def test_alternatives_by_the_thousand_are_one_terminal(small):
    options = [f"w{index}" for index in range(2500)]
    rule = " | ".join(map(json.dumps, options))
    for constraint in (Choice(options), Choice(options[:900]), Grammar(f"start: {rule}")):
        assert accepts(constraint, small, b"w899")


def test_a_regex_beyond_any_measure_is_tried_elsewhere(small, monkeypatch):
    tried = []
    monkeypatch.setattr(
        "dcmodel.constraints.regex.check_in_child", lambda grammar, *, what: tried.append(what)
    )
    Regex("[a-z]{10}").compile(small)
    assert tried == []
    Regex("([ab]{1000}){1000}").compile(small)
    assert tried == ["regex"]


def test_what_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr(guard, "COMPILE_SECONDS", 0.05)
    ended = threading.Event()
    with pytest.raises(InvalidConstraintError, match=r"grammar took longer than 0\.05 s"):
        within(0.05, lambda: ended.wait(5), what="grammar")
    ended.set()
    with pytest.raises(KeyError):
        within(1, lambda: {}["x"], what="grammar")
    assert within(1, lambda: 5, what="grammar") == 5


def test_a_tree_that_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr("dcmodel.constraints.grammar.PARSE_SECONDS", 0.2)
    grammar = Grammar('start: s\ns: s s s | s s | "a" | "b"')
    assert grammar.has_tree
    text = "ab" * 60
    began = time.perf_counter()
    assert grammar.parse(text) == text
    assert time.perf_counter() - began < 30
    for _ in range(600):
        if not any(thread.name == "dcmodel-parse" for thread in threading.enumerate()):
            break
        time.sleep(0.05)
    else:
        pytest.fail("the thread was not ended")
    assert grammar.parse("ab") != "ab"
    with pytest.raises(KeyError):
        guard.unless_late(5, lambda: {}["x"])


def test_a_long_compile_holds_up_no_other(small):
    """The engine compiles without the interpreter's lock: others go on meanwhile."""
    options = " | ".join(f'"w{index}" "x"' for index in range(9000))
    heavy = threading.Thread(target=lambda: _quiet(Grammar(f"start: {options}"), small))
    heavy.start()
    began = time.perf_counter()
    for index in range(5):
        assert Regex(f"[a-z]{{{index + 1}}}").compile(small)
    assert time.perf_counter() - began < 30
    heavy.join()


def _quiet(constraint, tokenizer) -> None:
    try:
        constraint.compile(tokenizer)
    except InvalidConstraintError:
        return
