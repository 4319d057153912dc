"""Whether a grammar's greedy lexer reads exactly the grammar's language.

The engine reads the longest text that any terminal allowed at a place can still become. That is exact
where no terminal, at its end, can be read on with what may follow it there, neither as itself nor as
another terminal that is allowed at the same place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from dcmodel.constraints.chars import union
from dcmodel.constraints.lark.automaton import (
    Automaton,
    Meter,
    TooLargeError,
    automaton,
    may_read_on,
    share_a_text,
)
from dcmodel.constraints.lark.nodes import Nodes, UnknownNodeError
from dcmodel.constraints.lark.syntax import Atom, Choice, Expr, GrammarTree, Ref, Repeat, Seq, references
from dcmodel.constraints.lark_scan import is_terminal_name

MAX_LEXEMES = 250


@dataclass(slots=True)
class _Edges:
    """What an expression may begin and end with, in terminals."""

    first: set[Expr] = field(default_factory=set)
    last: set[Expr] = field(default_factory=set)
    is_nullable: bool = False


def find_conflict(
    rules: Mapping[str, Expr], tree: GrammarTree, start: str, meter: Meter
) -> tuple[Expr, Expr] | None:
    """Two terminals of which the first can be read on as the second; None where there are none.

    `rules` are those of the grammar; `tree` resolves terminals. Raises `UnknownNodeError` and
    `TooLargeError` where that cannot be found out.
    """
    reader = _Adjacency(rules, Nodes(tree), meter)
    automata = reader.automata
    following: dict[Expr, set[Expr]] = {lexeme: set() for lexeme in automata}
    for before, after in reader.pairs():
        following[before].add(after)
    begins = {
        lexeme: union(chars for after in following[lexeme] for chars in automata[after].start_chars)
        for lexeme in automata
    }
    seen: set[tuple[Expr, Expr]] = set()
    todo = [(one, other) for one in reader.named[start].first for other in reader.named[start].first]
    while todo:
        pair = todo.pop()
        if pair in seen:
            continue
        seen.add(pair)
        one, other = pair
        if may_read_on(automata[one], automata[other], begins[one], meter):
            return pair
        if one == other or share_a_text(automata[one], automata[other], meter):
            meter.spend(len(following[one]) * len(following[other]))
            todo += ((a, b) for a in following[one] for b in following[other])
            todo += ((b, a) for a in following[one] for b in following[other])
    return None


class _Adjacency:
    """Which terminals may stand next to each other."""

    def __init__(self, rules: Mapping[str, Expr], nodes: Nodes, meter: Meter) -> None:
        self._rules = rules
        self._nodes = nodes
        self._meter = meter
        self.automata: dict[Expr, Automaton] = {}
        self.named = {name: _Edges() for name in rules}
        changed = True
        while changed:
            changed = False
            for name, body in rules.items():
                edges, before = self.edges(body), self.named[name]
                if edges != before:
                    self.named[name] = edges
                    changed = True

    def edges(self, expr: Expr) -> _Edges:
        self._meter.spend(1)
        match expr:
            case Ref(name) if not is_terminal_name(name):
                if name not in self.named:
                    raise UnknownNodeError(name)
                return self.named[name]
            case Atom() | Ref():
                return _Edges({expr}, {expr}, self._automaton(expr).is_nullable)
            case Seq(parts):
                return self._row([self.edges(part) for part in parts])
            case Choice(parts):
                items = [self.edges(part) for part in parts]
                return _Edges(
                    set().union(*(item.first for item in items)),
                    set().union(*(item.last for item in items)),
                    any(item.is_nullable for item in items),
                )
            case Repeat(body, low, _):
                item = self.edges(body)
                return _Edges(item.first, item.last, item.is_nullable or low == 0)

    def pairs(self) -> Iterator[tuple[Expr, Expr]]:
        """All neighbours, of which the second may follow the first."""
        for body in self._rules.values():
            yield from self._inside(body)

    def _inside(self, expr: Expr) -> Iterator[tuple[Expr, Expr]]:
        match expr:
            case Seq(parts):
                before: set[Expr] = set()
                for part in parts:
                    edges = self.edges(part)
                    self._meter.spend(len(before) * len(edges.first))
                    yield from ((one, other) for one in before for other in edges.first)
                    before = edges.last | (before if edges.is_nullable else set())
                    yield from self._inside(part)
            case Choice(parts):
                for part in parts:
                    yield from self._inside(part)
            case Repeat(body, _, high):
                if high is None or high > 1:
                    edges = self.edges(body)
                    yield from ((one, other) for one in edges.last for other in edges.first)
                yield from self._inside(body)

    def _row(self, items: list[_Edges]) -> _Edges:
        whole = _Edges(is_nullable=True)
        for item in items:
            if whole.is_nullable:
                whole.first = whole.first | item.first
            whole.last = item.last | (whole.last if item.is_nullable else set())
            whole.is_nullable = whole.is_nullable and item.is_nullable
        return whole

    def _automaton(self, lexeme: Expr) -> Automaton:
        if lexeme not in self.automata:
            if len(self.automata) >= MAX_LEXEMES:
                raise TooLargeError
            self.automata[lexeme] = automaton(self._nodes.of(lexeme))
        return self.automata[lexeme]


def reachable(rules: Mapping[str, Expr], start: str) -> set[str]:
    """Names of rules that `start` leads to."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        if name not in seen and name in rules:
            seen.add(name)
            todo += references(rules[name])
    return seen
