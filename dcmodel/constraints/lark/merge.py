"""Rules that spell text out character by character become terminals.

A step of the parser for each character costs the engine some hundred times what a step of its lexer
costs. Inside a terminal, one thing after another is exact; at its end the lexer is greedy. So rules are
merged in two ways: an alternative of single terminals always, since the lexer reads alternatives
together anyway; and larger parts only where `find_conflict` finds that greed changes nothing. Where greed
would change the language of the grammar's own terminals, they are merged with what stands beside them, if
that mends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dcmodel.constraints.lark.automaton import Meter, TooLargeError
from dcmodel.constraints.lark.fixpoint import names_where
from dcmodel.constraints.lark.lexemes import find_conflict, reachable
from dcmodel.constraints.lark.nodes import Nodes, UnknownNodeError, has_loop, is_nullable
from dcmodel.constraints.lark.syntax import (
    EMPTY,
    Atom,
    Choice,
    Definition,
    Expr,
    GrammarTree,
    Ref,
    Repeat,
    Seq,
    choice,
    seq,
)
from dcmodel.constraints.lark_scan import is_terminal_name
from dcmodel.constraints.regex_syntax import Node

MIN_ALTERNATIVES = 4
MAX_TERMINAL = 4_000
"""Largest merged terminal, in characters with its repeats written out."""
MAX_ATTEMPTS = 40
MAX_STEPS = 400_000
"""Work that may go into finding out what can be merged: tenths of a second."""


class Merger:
    """Rewrites the rules of one grammar, and collects the new terminals."""

    def __init__(self, tree: GrammarTree, rules: Mapping[str, Expr], prefix: str) -> None:
        self._tree = tree
        self._rules = dict(rules)
        self._prefix = prefix
        self._vetoed: set[Expr] = set()
        self.terminals: dict[str, Expr] = {}
        self._names: dict[Expr, str] = {}
        self._single = names_where(self._rules, self._is_single)
        self._takes_loops = False
        self._regular: set[str] = set()
        self._nullable: set[str] = set()
        self._repeating: set[str] = set()
        self._nodes = Nodes(tree)

    def merge(self, start: str) -> dict[str, Expr]:
        """The rules, merged as far as that is exact."""
        self._rules = {name: self._join_singles(body) for name, body in self._rules.items()}
        joined, terminals = dict(self._rules), dict(self.terminals)
        if self._tree.ignores or any(
            definition.body is None and not definition.is_terminal
            for definition in self._tree.definitions.values()
        ):
            # Ignored text could not stand inside a terminal; of what is unknown nothing is known.
            return joined
        self._nodes = Nodes(self._whole_tree())
        self._nullable = names_where(self._rules, self._is_nullable)
        meter = Meter(MAX_STEPS)
        for self._takes_loops in (False, True):
            self._vetoed.clear()
            self._regular = names_where(self._rules, self._is_regular)
            self._repeating = names_where(self._rules, self._repeats)
            try:
                merged = self._attempt(joined, terminals, start, meter)
            except (UnknownNodeError, TooLargeError, RecursionError):
                break
            if merged is not None:
                return merged
        self.terminals = terminals
        return joined

    def _attempt(
        self, rules: Mapping[str, Expr], terminals: Mapping[str, Expr], start: str, meter: Meter
    ) -> dict[str, Expr] | None:
        """The rules with as much merged as leaves no conflict; None where there is always one."""
        for _ in range(MAX_ATTEMPTS):
            self.terminals, self._names = dict(terminals), {}
            merged = {name: self._merge(body) for name, body in rules.items()}
            living = {name: merged[name] for name in reachable(merged, start)}
            conflict = find_conflict(living, self._whole_tree(), start, meter)
            if conflict is None:
                return merged
            made = {name: expr for expr, name in self._names.items()}
            guilty = [made[item.name] for item in conflict if isinstance(item, Ref) and item.name in made]
            if not guilty:
                break
            # A run of parts rather than one of them.
            self._vetoed.add(max(guilty, key=self._nodes.size))
        return None

    # -- single terminals side by side -------------------------------------------------------------

    def _is_single(self, expr: Expr, known: set[str]) -> bool:
        match expr:
            case Atom():
                return not expr.is_special
            case Ref(name):
                return is_terminal_name(name) or name in known
            case Choice(parts):
                return all(self._is_single(part, known) for part in parts)
        return False

    def _join_singles(self, expr: Expr) -> Expr:
        match expr:
            case Seq(parts):
                return seq(map(self._join_singles, parts))
            case Repeat(body, low, high):
                return Repeat(self._join_singles(body), low, high)
            case Choice(parts):
                single = [self._is_single(part, self._single) for part in parts]
                singles = [part for part, is_single in zip(parts, single, strict=True) if is_single]
                flat = list(self._alternatives(singles))
                if len(flat) < MIN_ALTERNATIVES:
                    return choice(map(self._join_singles, parts))
                rest = [part for part, is_single in zip(parts, single, strict=True) if not is_single]
                others = map(self._join_singles, rest)
                return choice([self._terminal(choice(dict.fromkeys(flat)), "SET"), *others])
        return expr

    def _alternatives(self, parts: Iterable[Expr]) -> Iterable[Expr]:
        for part in parts:
            match part:
                case Choice(inner):
                    yield from self._alternatives(inner)
                case Ref(name) if not is_terminal_name(name):
                    yield from self._alternatives([self._rules[name]])
                case _:
                    yield part

    # -- spelled text ------------------------------------------------------------------------------

    def _is_regular(self, expr: Expr, known: set[str]) -> bool:
        """Whether it may be part of a terminal: no recursion, and no loops but those of the rules.

        What is spelled out has none. Only where greed would change the language, the grammar's own
        terminals take part, loops included.
        """
        match expr:
            case Atom(_, node):
                return not expr.is_special and node is not None and self._is_part(node)
            case Ref(name) if is_terminal_name(name):
                try:
                    return self._nodes.size(expr) <= MAX_TERMINAL and self._is_part(self._nodes.of(expr))
                except (UnknownNodeError, RecursionError):
                    return False
            case Ref(name):
                return name in known
            case Seq(parts) | Choice(parts):
                return all(self._is_regular(part, known) for part in parts)
            case Repeat(body):
                return self._is_regular(body, known)

    def _is_part(self, node: Node) -> bool:
        return not is_nullable(node) and (self._takes_loops or not has_loop(node))

    def _repeats(self, expr: Expr, known: set[str]) -> bool:
        match expr:
            case Ref(name) if is_terminal_name(name):
                return self._takes_loops
            case Ref(name):
                return name in known
            case Atom(_, node):
                return self._takes_loops and node is not None and has_loop(node)
            case Seq(parts) | Choice(parts):
                return any(self._repeats(part, known) for part in parts)
            case Repeat(body, _, high):
                return high is None or high > 1 or self._repeats(body, known)

    def _may_merge(self, expr: Expr) -> bool:
        return (
            expr not in self._vetoed
            and self._is_regular(expr, self._regular)
            and self._repeats(expr, self._repeating)
            and self._nodes.size(expr) <= MAX_TERMINAL
        )

    def _merge(self, expr: Expr) -> Expr:
        target = self._rules[expr.name] if isinstance(expr, Ref) and expr.name in self._rules else expr
        if self._may_merge(target):
            name = Ref(self._name(target))
            return Repeat(name, 0, 1) if self._is_nullable(target) else name
        match expr:
            case Seq(parts):
                return seq(self._merge_run(parts))
            case Choice(parts):
                return choice(map(self._merge, parts))
            case Repeat(body, low, high):
                return Repeat(self._merge(body), low, high)
        return expr

    def _merge_run(self, parts: tuple[Expr, ...]) -> Iterable[Expr]:
        """Longest runs of parts that merge together; others one by one."""
        start = 0
        while start < len(parts):
            end = start
            while end < len(parts) and self._is_regular(parts[end], self._regular):
                end += 1
            run = Seq(parts[start:end])
            if 1 < end - start < len(parts) and self._may_merge(run):
                yield self._merge(run)
                start = end
            else:
                yield self._merge(parts[start])
                start += 1

    def _name(self, expr: Expr) -> str:
        """The terminal of the texts of `expr`, but for the empty one."""
        if expr not in self._names:
            name = f"{self._prefix}{len(self.terminals)}"
            self._names[expr] = name
            self.terminals[name] = EMPTY  # its place; parts of it come after
            self.terminals[name] = self._inlined(self._filled(expr))
        return self._names[expr]

    def _inlined(self, expr: Expr) -> Expr:
        """With terminals of their own instead of the rules that it names."""
        match expr:
            case Ref(name) if name in self._rules:
                body = self._rules[name]
                part = Ref(self._name(body))
                return Repeat(part, 0, 1) if self._is_nullable(body) else part
            case Seq(parts):
                return seq(map(self._inlined, parts))
            case Choice(parts):
                return choice(map(self._inlined, parts))
            case Repeat(body, low, high):
                return Repeat(self._inlined(body), low, high)
        return expr

    def _filled(self, expr: Expr) -> Expr:
        """An expression of the same texts without the empty one."""
        if not self._is_nullable(expr):
            return expr
        match expr:
            case Ref(name):
                return self._filled(self._rules[name])
            case Seq(parts):
                head, rest = parts[0], Seq(parts[1:]) if len(parts) > 2 else parts[1]
                return choice([seq([self._filled(head), rest]), self._filled(rest)])
            case Choice(parts):
                return choice(self._filled(part) for part in parts if part != EMPTY)
            case Repeat(body, _, high):
                return Repeat(self._filled(body), 1, high)
        return expr

    def _is_nullable(self, expr: Expr, known: set[str] | None = None) -> bool:
        names = self._nullable if known is None else known
        match expr:
            case Ref(name):
                return name in names
            case Seq(parts):
                return all(self._is_nullable(part, known) for part in parts)
            case Choice(parts):
                return any(self._is_nullable(part, known) for part in parts)
            case Repeat(body, low, _):
                return low == 0 or self._is_nullable(body, known)
        return False

    # -- common ------------------------------------------------------------------------------------

    def _terminal(self, expr: Expr, kind: str) -> Expr:
        for name, known in self.terminals.items():
            if known == expr:
                return Ref(name)
        name = f"{self._prefix}{kind}{len(self.terminals)}"
        self.terminals[name] = expr
        return Ref(name)

    def _whole_tree(self) -> GrammarTree:
        """The tree with the new terminals."""
        made = {name: Definition(name, body, ()) for name, body in self.terminals.items()}
        rules = {name: Definition(name, body, ()) for name, body in self._rules.items()}
        return GrammarTree(
            {**self._tree.definitions, **rules, **made},
            self._tree.directives,
            self._tree.imported,
            self._tree.ignores,
        )
