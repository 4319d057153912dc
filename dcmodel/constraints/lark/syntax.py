"""A Lark grammar in llguidance's dialect as a tree, and as text again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from dcmodel.constraints.lark_scan import Token
from dcmodel.constraints.regex_syntax import Node


@dataclass(frozen=True, slots=True)
class Atom:
    """A literal, a regex, a range or a special token, as written."""

    text: str
    node: Node | None = field(compare=False)
    """Its shape, at least as wide as it is; None for what cannot be told."""
    is_special: bool = False


@dataclass(frozen=True, slots=True)
class Ref:
    """A rule or a terminal by its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Seq:
    """One after the other; of no parts, the empty text."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One or another."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """From `low` to `high` times; None has no end."""

    body: Expr
    low: int
    high: int | None


Expr = Atom | Ref | Seq | Choice | Repeat
EMPTY = Seq(())


@dataclass(frozen=True, slots=True)
class Definition:
    """A rule or a terminal."""

    name: str
    body: Expr | None
    """None where it is beyond the reader: attributes, parameters, nested grammars, `&` and `~`."""
    tokens: tuple[Token, ...]

    @property
    def is_terminal(self) -> bool:
        return self.name.upper() == self.name


@dataclass(slots=True)
class GrammarTree:
    """All definitions by name, and the other statements as text."""

    definitions: dict[str, Definition] = field(default_factory=dict)
    directives: list[str] = field(default_factory=list)
    imported: set[str] = field(default_factory=set)
    ignores: bool = False
    """Whether some text may stand between any two terminals."""

    def body(self, name: str) -> Expr | None:
        """What a name stands for, where that is known."""
        definition = self.definitions.get(name)
        return None if definition is None else definition.body


def seq(parts: Iterable[Expr]) -> Expr:
    """Parts in a row, without rows inside rows."""
    flat: list[Expr] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Seq) else (part,))
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def choice(parts: Iterable[Expr]) -> Expr:
    """One of some parts, without choices inside choices; an empty alternative becomes an optional."""
    flat: list[Expr] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Choice) else (part,))
    filled = [part for part in dict.fromkeys(flat) if part != EMPTY]
    if not filled:
        return EMPTY
    body = filled[0] if len(filled) == 1 else Choice(tuple(filled))
    return body if EMPTY not in flat else Repeat(body, 0, 1)


def references(expr: Expr) -> Iterator[str]:
    """The names in an expression."""
    match expr:
        case Ref(name):
            yield name
        case Seq(parts) | Choice(parts):
            for part in parts:
                yield from references(part)
        case Repeat(body):
            yield from references(body)


def to_text(expr: Expr) -> str:
    """The expression as Lark."""
    match expr:
        case Atom(text):
            return text
        case Ref(name):
            return name
        case Seq(()):
            return '""'
        case Seq(parts):
            return " ".join(map(to_text, parts))
        case Choice(parts):
            return f"({' | '.join(map(to_text, parts))})"
        case Repeat(body, low, high):
            marks = {(0, None): "*", (1, None): "+", (0, 1): "?"}
            counts = f"{{{low},{'' if high is None else high}}}" if low != high else f"{{{low}}}"
            return f"({to_text(body)}){marks.get((low, high), counts)}"


def write_grammar(
    tree: GrammarTree, rules: Mapping[str, Expr], terminals: Mapping[str, Expr], text: str
) -> str:
    """The grammar as text: what was not rewritten as it stood."""
    lines = list(tree.directives)
    for name, definition in tree.definitions.items():
        if name in rules:
            lines.append(f"{name}: {to_text(rules[name])}")
        elif definition.is_terminal or definition.body is None:
            first, last = definition.tokens[0], definition.tokens[-1]
            lines.append(text[first.position : last.position + len(last.text)])
    lines += (f"{name}: {to_text(body)}" for name, body in terminals.items())
    return "\n".join(lines) + "\n"
