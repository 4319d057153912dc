"""Rules for the arrays of a canonical schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jsonschema_rs.canonical as forms
from jsonschema_rs import CanonicalSchema
from jsonschema_rs.canonical import Distinctness

from dcmodel.constraints.schema.canonical import meet, resolve
from dcmodel.constraints.schema.lark import EMPTY

if TYPE_CHECKING:
    from dcmodel.constraints.schema.values import ValueWriter

MAX_DISTINCT = 60
"""Values that are told apart by a bit each."""
MAX_CONTAINS = 8
MAX_ITEMS = 100_000
ITEM_LENGTH = 10


def array_rules(view: forms.ArrayView, values: ValueWriter) -> list[str]:
    """The alternatives of a view of arrays."""
    return _ArrayWriter(view, values).alternatives()


class _ArrayWriter:
    def __init__(self, view: forms.ArrayView, values: ValueWriter) -> None:
        self.view = view
        self.values = values
        self.writer = values.writer
        self.layout = values.writer.layout
        self.least = view.min_items or 0
        self.most = view.max_items
        self.prefix = list(view.prefix_items)
        self.items = view.items

    def alternatives(self) -> list[str]:
        self.cut()
        if self.most is not None and self.most < self.least:
            return []
        empty = [] if self.least else [self.layout.empty_array]
        if self.most == 0:
            return empty
        body = self.body()
        if body is None:
            return empty
        return [*empty, f"{self.layout.open_array} {body} {self.layout.close_array}"]

    def cut(self) -> None:
        """Where an item cannot be, the array ends; and counts are kept within reason."""
        for place, node in enumerate(self.prefix):
            if self.values.is_void(node):
                self.most = min(self.most, place) if self.most is not None else place
        if self.items is not None and self.values.is_void(self.items):
            end = len(self.prefix)
            self.most = min(self.most, end) if self.most is not None else end
        for contains in self.view.contains:
            needed = 1 if contains.min_contains is None else contains.min_contains
            self.least = max(self.least, needed)
        if self.most is not None:
            self.prefix = self.prefix[: self.most]
        if self.least > MAX_ITEMS:
            self.writer.note("minItems")
            self.least = MAX_ITEMS
        if self.most is not None and self.most > MAX_ITEMS:
            self.writer.note("maxItems")
            self.most = None
        self.writer.limit_forcing(self.least * ITEM_LENGTH)

    def body(self) -> str | None:
        """The items of an array that is not empty; None where there is no such array."""
        if self.view.contains:
            said = self.containing()
            if said is not None:
                return said
            self.writer.note("contains")
        if self.view.distinctness == Distinctness.ALL_DISTINCT and (self.most is None or self.most > 1):
            said = self.distinct()
            if said is not None:
                return said
            self.writer.note("uniqueItems")
        elif self.view.distinctness == Distinctness.SOME_REPEATED:
            self.writer.note("not")
        return self.sequence()

    def item(self) -> str:
        return self.values.any_value() if self.items is None else self.values.value(self.items)

    def sequence(self) -> str:
        """Prefix and items, as many as there may be, at least one."""
        comma = self.layout.comma
        rest = EMPTY
        if self.most is None or self.most > len(self.prefix):
            low = max(self.least - len(self.prefix), 0)
            high = None if self.most is None else self.most - len(self.prefix)
            if not self.prefix:
                return self.repeat(self.item(), f"{comma} {self.item()}", max(low, 1), high)
            rest = self.writer.rule([_times(f"{comma} {self.item()}", low, high)])
        for place in range(len(self.prefix) - 1, 0, -1):
            text = f"{comma} {self.values.value(self.prefix[place])} {rest}"
            rest = self.writer.rule([text] if self.least > place else [EMPTY, text])
        return f"{self.values.value(self.prefix[0])} {rest}"

    @staticmethod
    def repeat(first: str, later: str, low: int, high: int | None) -> str:
        return f"{first} {_times(later, low - 1, None if high is None else high - 1)}"

    def containing(self) -> str | None:
        """Arrays with enough items of a kind; None where they are more than a grammar says."""
        (contains, *others) = self.view.contains
        needed = 1 if contains.min_contains is None else contains.min_contains
        if others or self.prefix or contains.max_contains is not None or not 1 <= needed <= MAX_CONTAINS:
            return None
        if (
            self.most is not None
            or self.least > needed
            or self.view.distinctness != Distinctness.UNCONSTRAINED
        ):
            return None
        wanted: CanonicalSchema | None = contains.schema
        if self.items is not None and wanted is not None:
            wanted = meet(self.items, wanted)
        if wanted is None:
            return None
        item, comma = self.item(), self.layout.comma
        if self.values.is_void(wanted):
            return self.writer.rule([])
        one = self.values.value(wanted)
        between = f"({comma} {item})*"
        more = " ".join([f"{comma} {one} {between}"] * (needed - 1))
        return f"({item} {comma})* {one} {between} {more}"

    def distinct(self) -> str | None:
        """Arrays of different values out of a few; None where they are not a few."""
        if self.prefix or self.items is None or self.view.contains:
            return None
        values = _listed(self.items)
        if values is None or len(values) > MAX_DISTINCT:
            return None
        if self.least > len(values):
            return self.writer.rule([])
        more, rest = self.writer.new_rule(), self.writer.new_rule()
        bits = f"[0:{len(values)}]"
        self.writer.set_rule(
            more,
            (
                f"{self.values.constants.value(value)} {rest}::set_bit({bit}) %if bit_clear({bit})"
                for bit, value in enumerate(values)
            ),
        )
        end = f"{EMPTY} %if bit_count_ge({bits},{self.least})" if self.least > 1 else EMPTY
        # A comma only where a value is left for it.
        last = min(self.most or len(values), len(values))
        self.writer.set_rule(rest, [end, f"{self.layout.comma} {more}::_ %if bit_count_lt({bits},{last})"])
        return f"{more}::0"


def _times(text: str, low: int, high: int | None) -> str:
    if high == 0:
        return EMPTY
    if low == 0 and high is None:
        return f"({text})*"
    return f"({text}){{{low},{'' if high is None else high}}}"


def _listed(node: CanonicalSchema) -> list[object] | None:
    match resolve(node).view():
        case forms.ConstView(value):
            return [value]
        case forms.EnumView(values):
            return list(values)
    return None
