"""Properties of rules that follow from those of the rules they name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dcmodel.constraints.lark.syntax import Expr, references

Holds = Callable[[Expr, set[str]], bool]
"""Whether a body has the property, given the names that have it."""


def names_where(rules: Mapping[str, Expr], holds: Holds) -> set[str]:
    """The least set of rules that have a property; recursion by itself gives none."""
    known: set[str] = set()
    users: dict[str, list[str]] = {}
    for name, body in rules.items():
        for used in set(references(body)):
            users.setdefault(used, []).append(name)
    todo = list(rules)
    while todo:
        name = todo.pop()
        if name in rules and name not in known and holds(rules[name], known):
            known.add(name)
            todo += users.get(name, ())
    return known
