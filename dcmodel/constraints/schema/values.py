"""A grammar of the JSON texts that a canonical schema admits.

Where it cannot say something it says less, so that all valid texts are in it, and notes the keyword as
`loose`: then a check has to go with it. Without loose keywords the grammar is exact, up to the spelling
of numbers (no exponents beside a bound) and repeated keys that the schema does not name.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from itertools import combinations
from typing import Any, Literal

import jsonschema_rs.canonical as forms
from jsonschema_rs import CanonicalSchema

from dcmodel.constraints.schema.arrays import array_rules
from dcmodel.constraints.schema.canonical import are_apart, is_empty, meet, resolve
from dcmodel.constraints.schema.constants import ConstantWriter
from dcmodel.constraints.schema.lark import LarkWriter
from dcmodel.constraints.schema.numbers import (
    BROKEN,
    INTEGER,
    NUMBER,
    WHOLE,
    ZEROS,
    integer_leaf,
    number_leaf,
)
from dcmodel.constraints.schema.objects import object_rules
from dcmodel.constraints.schema.order import KeyOrder
from dcmodel.constraints.schema.texts import is_void, string_expression
from dcmodel.errors import InvalidConstraintError

MAX_NODES = 20_000
MAX_DEPTH = 200
MAX_BRANCHES = 32
"""Cases of a `oneOf` that are compared with one another."""
ALL_TYPES = ("null", "boolean", "number", "string", "array", "object")
TYPE_OF_VIEW: dict[type, str] = {
    forms.StringView: "string",
    forms.IntegerView: "number",
    forms.NumberView: "number",
    forms.ArrayView: "array",
    forms.ObjectView: "object",
}
Type = Literal["null", "boolean", "integer", "number", "string", "array", "object"]


class ValueWriter:
    """Writes rules for canonical schemas, each once."""

    def __init__(self, writer: LarkWriter, order: KeyOrder, *, formats: bool, draft: int) -> None:
        # In draft 4 a number with a point is no integer, 1.0 neither.
        self.is_strict = draft == 4
        self.writer = writer
        self.order = order
        self.formats = formats
        self.constants = ConstantWriter(writer, order)
        self.loose_nodes: set[CanonicalSchema] = set()
        """Schemas of which the rule itself, or that of a branch, says too little."""
        self._rules: dict[CanonicalSchema, str] = {}
        self._inner = [0]
        """For each rule being written, what was noted within other rules meanwhile."""
        self._generic: dict[str, str] = {}
        self._depth = 0

    def value(self, node: CanonicalSchema) -> str:
        """The name of the rule for what a schema admits."""
        if node in self._rules:
            return self._rules[node]
        if len(self._rules) >= MAX_NODES or self._depth > MAX_DEPTH:
            raise InvalidConstraintError(
                "the JSON schema is too large or nested too deeply.",
                remedy=f"At most {MAX_NODES} different subschemas, {MAX_DEPTH} in one another, are read.",
            )
        name = self._rules[node] = self.writer.new_rule()
        self._depth += 1
        before = self.writer.notes
        self._inner.append(0)
        self.writer.set_rule(name, self.alternatives(node))
        noted = self.writer.notes - before
        if noted > self._inner.pop():
            self.loose_nodes.add(node)
        self._inner[-1] += noted
        self._depth -= 1
        return name

    def is_void(self, node: CanonicalSchema) -> bool:
        """Whether surely no value is admitted."""
        return is_empty(node) or self.writer.is_void(self.value(node))

    def any_value(self) -> str:
        """The rule for all JSON."""
        if "any" not in self._generic:
            name = self._generic["any"] = self.writer.new_rule()
            self.writer.set_rule(name, [text for kind in ALL_TYPES for text in self.of_type(kind)])
        return self._generic["any"]

    def of_type(self, kind: str) -> list[str]:
        """The alternatives of all values of a type."""
        match kind:
            case "null":
                return ['"null"']
            case "boolean":
                return ['"true"', '"false"']
            case "integer":
                return [self.writer.terminal(f"/{INTEGER}/" if self.is_strict else WHOLE)]
            case "number":
                return [self.writer.terminal(NUMBER)]
            case "string":
                return [self.writer.string()]
        if kind not in self._generic:
            name = self._generic[kind] = self.writer.new_rule()
            layout, value = self.writer.layout, self.any_value()
            first = value
            if kind == "object":
                first = f"{self.writer.string()} {layout.colon} {value}"
            is_array = kind == "array"
            begin, end = (
                (layout.open_array, layout.close_array)
                if is_array
                else (layout.open_object, layout.close_object)
            )
            empty = layout.empty_array if is_array else layout.empty_object
            self.writer.set_rule(name, [empty, f"{begin} {first} ({layout.comma} {first})* {end}"])
        return [self._generic[kind]]

    # -- the canonical form ------------------------------------------------------------------------

    def alternatives(self, node: CanonicalSchema, only: str | None = None) -> list[str]:
        """The alternatives of a schema, of all types or of one."""
        view = node.view()
        kind = TYPE_OF_VIEW.get(type(view))
        if kind is not None and not _may_be(kind, only):
            return []
        match view:
            case forms.FalseView():
                return []
            case forms.TrueView():
                return [self.any_value()] if only is None else self.of_type(only)
            case forms.MultiTypeView(types):
                return self._types(types, only)
            case forms.ConstView(value):
                return self._constants([value], only)
            case forms.EnumView(values):
                return self._constants(values, only)
            case forms.StringView():
                expression = string_expression(view, self.writer, formats=self.formats)
                return [] if is_void(expression) else [self.writer.terminal(expression)]
            case forms.IntegerView():
                return self._integers(view)
            case forms.NumberView():
                return self._numbers(view, only)
            case forms.ArrayView():
                return array_rules(view, self)
            case forms.ObjectView():
                return object_rules(view, self)
            case forms.ReferenceView():
                target = resolve(node)
                return self._branch(target, only)
            case forms.TypedGroupView(type_name, body):
                if {only, type_name} == {"number", "integer"}:
                    return self.alternatives(body, "integer")
                return [] if only not in (None, type_name) else self.alternatives(body, type_name)
            case forms.AnyOfView(branches):
                return [text for branch in branches for text in self._branch(branch, only)]
            case forms.OneOfView(branches):
                return self._one_of(branches, only)
            case forms.AllOfView(branches):
                return self._all_of(branches, only)
        return self._unsaid(view, only)

    def _branch(self, node: CanonicalSchema, only: str | None) -> list[str]:
        """A schema of the same value, which may be loose for its own reasons."""
        if only is not None:
            return self.alternatives(node, only)
        name = self.value(node)
        if node in self.loose_nodes:
            self.writer.note("anyOf" if not self.writer.loose else next(iter(self.writer.loose)))
        return [] if self.writer.is_void(name) else [name]

    def _types(self, types: Iterable[str], only: str | None) -> list[str]:
        if only in ("number", "integer"):
            is_any = "number" in types and only == "number"
            return self.of_type("number" if is_any else "integer") if {"number", "integer"} & {*types} else []
        return [text for kind in types if only in (None, kind) for text in self.of_type(kind)]

    def _constants(self, values: list[Any], only: str | None) -> list[str]:
        if only == "integer":
            whole = [value for value in values if json_type(value) == "number" and value == int(value)]
            return self.constants.integers(whole) if self.is_strict else self.constants.alternatives(whole)
        return self.constants.alternatives([value for value in values if only in (None, json_type(value))])

    def _integers(self, view: forms.IntegerView) -> list[str]:
        leaf, is_exact = integer_leaf(view)
        if not is_exact:
            self.writer.note("multipleOf")
        if leaf is None:
            return self.of_type("integer")
        name = self.writer.leaf(leaf)
        return [name] if self.is_strict else [name, f"{name} {self.writer.terminal(ZEROS)}"]

    def _numbers(self, view: forms.NumberView, only: str | None) -> list[str]:
        leaf, is_exact = number_leaf(view)
        is_exact = is_exact and only != "integer"
        is_plain = leaf is None and not view.not_multiple_of and not view.multiple_of
        if view.excludes_integers and is_plain and only != "integer":
            return [self.writer.terminal(BROKEN)]
        if not is_exact:
            self.writer.note("multipleOf")
        return self.of_type("number") if leaf is None else [self.writer.leaf(leaf)]

    def _one_of(self, branches: list[CanonicalSchema], only: str | None) -> list[str]:
        pairs = combinations(branches, 2)
        if len(branches) > MAX_BRANCHES or not all(are_apart(one, other) for one, other in pairs):
            self.writer.note("oneOf")
        return [text for branch in branches for text in self._branch(branch, only)]

    def _all_of(self, branches: list[CanonicalSchema], only: str | None) -> list[str]:
        """The intersection where it can be said, else the branch that says most."""
        met: CanonicalSchema | None = resolve(branches[0])
        for branch in branches[1:]:
            met = met and meet(met, resolve(branch))
        if met is not None and not isinstance(met.view(), forms.AllOfView):
            return self._branch(met, only)
        sayable = [branch for branch in branches if not isinstance(branch.view(), forms.NotView)]
        self.writer.note("allOf" if len(sayable) > 1 else "not")
        if not sayable:
            return [self.any_value()] if only is None else self.of_type(only)
        return self._branch(max(sayable, key=_weight), only)

    def _unsaid(self, view: object, only: str | None) -> list[str]:
        if isinstance(view, forms.NotView):
            self.writer.note("not")
        else:
            assert isinstance(view, forms.RawView), view
            self.writer.note((view.pointer or "").rpartition("/")[2] or "schema")
        return [self.any_value()] if only is None else self.of_type(only)


def _weight(node: CanonicalSchema) -> int:
    """How much a schema says, roughly."""
    return len(str(resolve(node).to_json_schema()))


def _may_be(kind: str, only: str | None) -> bool:
    return only is None or kind == only or (kind == "number" and only == "integer")


def json_type(value: Any) -> str:
    """The JSON type of a value; whole numbers are numbers."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", list: "array", dict: "object", int: "number", float: "number", Decimal: "number"}
    return names[type(value)]
