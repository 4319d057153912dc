"""Rules for the objects of a canonical schema."""

from __future__ import annotations

from itertools import chain, combinations
from typing import TYPE_CHECKING

import jsonschema_rs.canonical as forms
from jsonschema_rs import CanonicalSchema, Validator

from dcmodel.constraints.schema.canonical import check_alone, matches, meet, resolve
from dcmodel.constraints.schema.members import Member, Others, write_members
from dcmodel.constraints.schema.strings import literal
from dcmodel.constraints.schema.texts import is_void, key_expression, pattern_expression

if TYPE_CHECKING:
    from dcmodel.constraints.schema.values import ValueWriter

MAX_PATTERNS = 4
"""Patterns of keys of which all combinations are told apart."""


def object_rules(view: forms.ObjectView, values: ValueWriter) -> list[str]:
    """The alternatives of a view of objects."""
    return _ObjectWriter(view, values).alternatives()


class _ObjectWriter:
    def __init__(self, view: forms.ObjectView, values: ValueWriter) -> None:
        self.view = view
        self.values = values
        self.writer = values.writer
        self.names = None if view.property_names is None else resolve(view.property_names)
        self.listed = _listed(self.names)
        self.patterns = view.pattern_properties
        self._name_check: Validator | None = None

    def alternatives(self) -> list[str]:
        view = self.view
        if view.violations:
            self.writer.note("not")
        required = set(view.required)
        members = []
        keys = dict.fromkeys((*view.properties, *view.required, *(self.listed or ())))
        refused = []
        for key in keys:
            value = self.value_of(key) if self.admits(key) else None
            if value is not None:
                members.append(Member(key, value, key in required))
            elif key in required:
                return []
            else:
                refused.append(key)
        known = [*(member.key for member in members), *refused]
        others = [] if self.listed is not None else self.others(known)
        least = view.min_properties or 0
        if others and least > len(required) + 1:
            # A repeated key counts once.
            self.writer.note("minProperties")
        order = self.values.order
        return list(
            write_members(
                self.writer,
                order.sort(members),
                others,
                order=order.order,
                least=least,
                most=view.max_properties,
            )
        )

    def admits(self, key: str) -> bool:
        """Whether `propertyNames` admits a key."""
        if self.names is None or self.listed is not None:
            return self.listed is None or key in self.listed
        if self._name_check is None:
            self._name_check = check_alone(self.names, formats=self.values.formats)
        return self._name_check.is_valid(key)

    def value_of(self, key: str) -> str | None:
        """The rule for the value of a known key; None where there is no such value."""
        parts = [node for pattern, node in self.patterns.items() if matches(pattern, key)]
        if key in self.view.properties:
            parts.insert(0, self.view.properties[key])
        elif not parts and self.view.additional_properties is not None:
            parts = [self.view.additional_properties]
        return self.rule_of(parts, "patternProperties")

    def rule_of(self, parts: list[CanonicalSchema], keyword: str) -> str | None:
        """The rule for what all the schemas admit; None where that is nothing."""
        if not parts:
            return self.values.any_value()
        met: CanonicalSchema | None = parts[0]
        for part in parts[1:]:
            met = met and meet(met, part)
        if met is None:
            self.writer.note(keyword)
            met = parts[0]
        return None if self.values.is_void(met) else self.values.value(met)

    def others(self, known: list[str]) -> list[Others]:
        """Members with keys that are not known, by the patterns that they match."""
        base = key_expression(self.names, self.writer, formats=self.values.formats)
        if known:
            base = f"({base}) & ~({' | '.join(map(literal, known))})"
        patterns = {}
        for pattern in self.patterns:
            expression = pattern_expression(pattern, self.writer, exact=True)
            if expression is not None:
                patterns[pattern] = expression
        choices = self.choices(list(patterns))
        result = []
        for chosen in choices:
            nodes = [self.patterns[pattern] for pattern in chosen]
            if not chosen and self.view.additional_properties is not None:
                nodes = [self.view.additional_properties]
            value = self.rule_of(nodes, "patternProperties")
            if value is None:
                continue
            said = [patterns[pattern] for pattern in chosen]
            if len(patterns) <= MAX_PATTERNS or not chosen:
                said += [f"~{patterns[pattern]}" for pattern in patterns if pattern not in chosen]
            expression = " & ".join([f"({base})", *said])
            if not is_void(expression):
                result.append(Others(self.writer.terminal(expression), value))
        return result

    def choices(self, patterns: list[str]) -> list[tuple[str, ...]]:
        """Which patterns a key may match together."""
        if len(patterns) <= MAX_PATTERNS:
            sizes = range(len(patterns) + 1)
            return list(chain.from_iterable(combinations(patterns, size) for size in sizes))
        self.writer.note("patternProperties")
        return [(), *((pattern,) for pattern in patterns)]


def _listed(names: CanonicalSchema | None) -> tuple[str, ...] | None:
    """The keys that a schema of names lists; None where it does not list them."""
    match None if names is None else names.view():
        case forms.ConstView(value):
            return (value,) if isinstance(value, str) else ()
        case forms.EnumView(values):
            return tuple(value for value in values if isinstance(value, str))
        case forms.FalseView():
            return ()
    return None
