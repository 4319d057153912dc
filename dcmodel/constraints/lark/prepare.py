"""A grammar made ready for the engine: without what never ends, with terminals for what is spelled out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dcmodel.constraints.caret import with_caret
from dcmodel.constraints.lark.merge import Merger
from dcmodel.constraints.lark.nodes import MAX_SIZE, Nodes
from dcmodel.constraints.lark.productive import culprit, unproductive_rules, without
from dcmodel.constraints.lark.reader import UnknownSyntaxError, read_grammar
from dcmodel.constraints.lark.syntax import (
    EMPTY,
    Choice,
    Expr,
    GrammarTree,
    Ref,
    Repeat,
    Seq,
    choice,
    references,
    seq,
    write_grammar,
)
from dcmodel.errors import UnsatisfiableConstraintError

MAX_CHARACTERS = 300_000
MAX_DEFINITIONS = 1_000
MAX_CHEAP_SIZE = 20_000
MAX_CHEAP_CHAIN = 200

IsEmpty = Callable[[str, str], bool]
"""Whether a terminal, by its name, of a grammar of terminals matches nothing."""


@dataclass(frozen=True, slots=True)
class PreparedGrammar:
    """The text for the engine; every text of the grammar is one of it, and the other way round."""

    text: str
    is_cheap: bool = False
    """Whether it surely compiles in no time."""
    was_changed: bool = False
    has_suspects: bool = False
    """Whether there are terminals with `&` or `~`, which may match nothing."""


def prepare_grammar(text: str, *, is_empty: IsEmpty | None = None) -> PreparedGrammar:
    """Rewrite a grammar as far as it can be read; one that cannot stays as it is.

    `is_empty` is asked about terminals with `&` or `~`. Raises `UnsatisfiableConstraintError`, which names
    the rule or terminal at fault, where no text can ever be complete.
    """
    if len(text) > MAX_CHARACTERS:
        return PreparedGrammar(text)
    try:
        tree = read_grammar(text)
        if "start" not in tree.definitions or len(tree.definitions) > MAX_DEFINITIONS:
            return PreparedGrammar(text)
        return _prepare(tree, text, is_empty)
    except (UnknownSyntaxError, RecursionError):
        return PreparedGrammar(text)


def _prepare(tree: GrammarTree, text: str, is_empty: IsEmpty | None) -> PreparedGrammar:
    original = {
        name: definition.body
        for name, definition in tree.definitions.items()
        if definition.body is not None and not definition.is_terminal
    }
    rules = _without_dead(tree, original, text, is_empty)
    if "start" not in rules:
        return PreparedGrammar(text)
    rules = {name: _unrolled(name, body) for name, body in _without_empty(rules).items()}
    merger = Merger(tree, rules, _free_prefix(tree))
    merged = merger.merge("start")
    cheap, suspects = _is_cheap(tree, rules), bool(_suspects(tree))
    changed = {name: body for name, body in merged.items() if body != original.get(name)}
    if not changed and not merger.terminals and len(rules) == len(original):
        return PreparedGrammar(text, is_cheap=cheap, has_suspects=suspects)
    written = write_grammar(tree, merged, merger.terminals, text)
    return PreparedGrammar(written, is_cheap=cheap, was_changed=True, has_suspects=suspects)


def _without_dead(
    tree: GrammarTree, rules: dict[str, Expr], text: str, is_empty: IsEmpty | None
) -> dict[str, Expr]:
    empty = _empty_terminals(tree, text, is_empty)
    dead = unproductive_rules(rules, empty) | empty
    if "start" in dead:
        name = culprit(rules, dead, "start")
        position = tree.definitions[name].tokens[0].position
        is_terminal = name in empty
        what = f"the terminal `{name}` matches nothing" if is_terminal else f"the rule `{name}` never ends"
        error = UnsatisfiableConstraintError(
            with_caret(f"no text matches the grammar: {what}.", text, position),
            remedy=f"Give it an alternative {'that matches' if is_terminal else 'without itself'}.",
        )
        error.position = position
        raise error
    living = {name: without(body, dead) for name, body in rules.items() if name not in dead}
    return {name: body for name, body in living.items() if body is not None}


def _empty_terminals(tree: GrammarTree, text: str, is_empty: IsEmpty | None) -> frozenset[str]:
    suspects = _suspects(tree)
    if is_empty is None or not suspects:
        return frozenset()
    sources = [directive for directive in tree.directives if directive.startswith("%import")]
    for definition in tree.definitions.values():
        if definition.is_terminal:
            last = definition.tokens[-1]
            sources.append(text[definition.tokens[0].position : last.position + len(last.text)])
    terminals = "\n".join(sources)
    return frozenset(name for name in suspects if is_empty(name, terminals))


def _suspects(tree: GrammarTree) -> list[str]:
    """Terminals that may match nothing, though each of their parts does."""
    return [
        name
        for name, definition in tree.definitions.items()
        if definition.is_terminal
        and definition.body is None
        and any(token.text in ("&", "~") for token in definition.tokens)
    ]


def _without_empty(rules: dict[str, Expr]) -> dict[str, Expr]:
    """Rules of the empty text only are taken out of the others."""
    while True:
        empty = frozenset(name for name, body in rules.items() if body == EMPTY)
        if not any(not empty.isdisjoint(references(body)) for body in rules.values()):
            return rules
        rules = {name: _emptied(body, empty) for name, body in rules.items()}


def _emptied(expr: Expr, empty: frozenset[str]) -> Expr:
    match expr:
        case Ref(name):
            return EMPTY if name in empty else expr
        case Seq(parts):
            return seq(_emptied(part, empty) for part in parts)
        case Choice(parts):
            return choice(_emptied(part, empty) for part in parts)
        case Repeat(body, low, high):
            inner = _emptied(body, empty)
            return EMPTY if inner == EMPTY else Repeat(inner, low, high)
    return expr


def _unrolled(name: str, body: Expr) -> Expr:
    """``r: a r | b`` as ``r: a* b``, and ``r: r a | b`` as ``r: b a*``; other recursion as it is."""
    alternatives = _alternatives(body)
    looping = [part for part in alternatives if name in references(part)]
    ending = [part for part in alternatives if part not in looping]
    if not looping or not ending:
        return body
    for at in (-1, 0):
        rests = []
        for part in looping:
            parts = part.parts if isinstance(part, Seq) else (part,)
            if len(parts) < 2 or parts[at] != Ref(name):
                break
            rests.append(seq(parts[:-1] if at else parts[1:]))
        else:
            if any(name in references(rest) for rest in rests):
                continue
            loop = Repeat(choice(rests), 0, None)
            return seq([loop, choice(ending)] if at else [choice(ending), loop])
    return body


def _alternatives(expr: Expr) -> list[Expr]:
    match expr:
        case Choice(parts):
            return [part for whole in parts for part in _alternatives(whole)]
        case Repeat(body, 0, 1):
            return [*_alternatives(body), EMPTY]
    return [expr]


def _free_prefix(tree: GrammarTree) -> str:
    """The beginning of no terminal's name."""
    prefix = "M_"
    while any(name.startswith(prefix) for name in (*tree.definitions, *tree.imported)):
        prefix = f"M{prefix}"
    return prefix


def _is_cheap(tree: GrammarTree, rules: dict[str, Expr]) -> bool:
    """Whether everything is known, and small when it is written out."""
    if any(definition.body is None for definition in tree.definitions.values()):
        return False
    if len(tree.definitions) > MAX_CHEAP_CHAIN:
        return False
    nodes = Nodes(tree)
    sizes = (
        nodes.size(definition.body)
        for definition in tree.definitions.values()
        if definition.is_terminal and definition.body is not None
    )
    spelled = sum(_length(body) for body in rules.values())
    return sum(min(size, MAX_SIZE) for size in sizes) + spelled <= MAX_CHEAP_SIZE


def _length(expr: Expr) -> int:
    """Parts of a rule with its repeats written out, names counted as one."""
    match expr:
        case Seq(parts) | Choice(parts):
            return min(sum(map(_length, parts)), MAX_SIZE)
        case Repeat(body, low, high):
            return min(_length(body) * max(low, high or 1), MAX_SIZE)
    return 1
