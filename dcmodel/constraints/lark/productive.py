"""Rules that can never end, and what is left of a grammar without them."""

from __future__ import annotations

from collections.abc import Mapping

from dcmodel.constraints.lark.fixpoint import names_where
from dcmodel.constraints.lark.syntax import (
    Choice,
    Expr,
    Ref,
    Repeat,
    Seq,
    choice,
    references,
    seq,
)


def unproductive_rules(rules: Mapping[str, Expr], empty: frozenset[str] = frozenset()) -> frozenset[str]:
    """Names of rules from which no text can be derived; `empty` names terminals without a text.

    A name that is not among `rules` counts as one that ends.
    """

    def ends(expr: Expr, alive: set[str]) -> bool:
        match expr:
            case Ref(name):
                return name not in empty and (name in alive or name not in rules)
            case Seq(parts):
                return all(ends(part, alive) for part in parts)
            case Choice(parts):
                return any(ends(part, alive) for part in parts)
            case Repeat(body, low, _):
                return low == 0 or ends(body, alive)
        return True

    return frozenset(rules.keys() - names_where(rules, ends))


def without(expr: Expr, dead: frozenset[str]) -> Expr | None:
    """The expression without alternatives that need a dead name; None where nothing is left."""
    match expr:
        case Ref(name):
            return None if name in dead else expr
        case Seq(parts):
            kept = [without(part, dead) for part in parts]
            return None if None in kept else seq(part for part in kept if part is not None)
        case Choice(parts):
            alternatives = [without(part, dead) for part in parts]
            living = [part for part in alternatives if part is not None]
            return choice(living) if living else None
        case Repeat(body, low, high):
            inner = without(body, dead)
            if inner is None:
                return Seq(()) if low == 0 else None
            return Repeat(inner, low, high)
    return expr


def culprit(rules: Mapping[str, Expr], dead: frozenset[str], start: str) -> str:
    """The name to blame for a dead `start`: the first on the way down that needs itself, or the last one."""
    seen: dict[str, None] = {}
    name = start
    while name not in seen:
        seen[name] = None
        if name not in rules:
            return name
        following = [used for used in references(rules[name]) if used in dead]
        if name in following or not following:
            return name
        name = following[0]
    return name
