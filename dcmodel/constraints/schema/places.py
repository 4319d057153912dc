"""Which schema surely applies at a place in a JSON text, for checks before the text is complete."""

from __future__ import annotations

from typing import Any

import jsonschema_rs.canonical as forms
from jsonschema_rs import CanonicalSchema, Validator
from jsonschema_rs.canonical import Distinctness

from dcmodel.constraints.schema.canonical import check_alone, matches, resolve

View = forms.ObjectView | forms.ArrayView
MAX_PLACES = 2_000


class Places:
    """All places of a schema, made when a text first comes to them."""

    def __init__(self, root: CanonicalSchema, loose: frozenset[CanonicalSchema], *, formats: bool) -> None:
        """`loose` are the nodes of which a grammar says too little."""
        self.loose = loose
        self.formats = formats
        self._made: dict[CanonicalSchema, Place] = {}
        self.root = self.of(root)

    def of(self, node: CanonicalSchema) -> Place | None:
        """The place of a node; None for one too many."""
        place = self._made.get(node)
        if place is None and len(self._made) < MAX_PLACES:
            place = self._made[node] = Place(node, self)
        return place


class Place:
    """A node that surely applies to a value."""

    __slots__ = ("_array", "_children", "_object", "_places", "_validator", "is_unique", "node")

    def __init__(self, node: CanonicalSchema, places: Places) -> None:
        self.node = node
        self._places = places
        self._object = _only(node, forms.ObjectView)
        self._array = _only(node, forms.ArrayView)
        self._children: dict[str | int, Place | None] = {}
        self._validator: Validator | None = None
        self.is_unique = (
            isinstance(self._array, forms.ArrayView) and self._array.distinctness == Distinctness.ALL_DISTINCT
        )

    def admits(self, value: Any) -> bool:
        """Whether a complete value may stand here, as far as the grammar does not say it."""
        if self.node not in self._places.loose:
            return True
        if self._validator is None:
            self._validator = check_alone(self.node, formats=self._places.formats)
        return self._validator.is_valid(value)

    @property
    def is_checked(self) -> bool:
        """Whether `admits` has anything to say."""
        return self.node in self._places.loose

    def member(self, key: str) -> Place | None:
        """The place of a member's value; None where it is not sure which."""
        if key not in self._children:
            node = self._member(key)
            self._children[key] = None if node is None else self._places.of(node)
        return self._children[key]

    def item(self, index: int) -> Place | None:
        """The place of an item; None where it is not sure which."""
        view = self._array
        if not isinstance(view, forms.ArrayView):
            return None
        index = min(index, len(view.prefix_items))
        if index not in self._children:
            node = view.prefix_items[index] if index < len(view.prefix_items) else view.items
            self._children[index] = None if node is None else self._places.of(node)
        return self._children[index]

    def _member(self, key: str) -> CanonicalSchema | None:
        view = self._object
        if not isinstance(view, forms.ObjectView):
            return None
        if key in view.properties:
            return view.properties[key]
        nodes = [node for pattern, node in view.pattern_properties.items() if matches(pattern, key)]
        return nodes[0] if nodes else view.additional_properties


def _only(node: CanonicalSchema, kind: type[View]) -> View | None:
    """The one view of a type that a schema has for it; None where it has none, or several."""
    found: list[View] = []
    if not _collect(node, kind, found, 0) or len(found) != 1:
        return None
    return found[0]


def _collect(node: CanonicalSchema, kind: type[View], found: list[View], depth: int) -> bool:
    """Add the views; False where there may be others."""
    view = resolve(node).view()
    name = "object" if kind is forms.ObjectView else "array"
    match view:
        case forms.ObjectView() | forms.ArrayView():
            if isinstance(view, kind):
                found.append(view)
            return True
        case forms.AnyOfView(branches) | forms.OneOfView(branches) if depth < 8:
            return all(_collect(branch, kind, found, depth + 1) for branch in branches)
        case forms.TypedGroupView(type_name, body):
            return type_name != name or _collect(body, kind, found, depth + 1)
        case forms.MultiTypeView(types):
            return name not in types
        case forms.StringView() | forms.NumberView() | forms.IntegerView() | forms.FalseView():
            return True
        case forms.ConstView(value):
            return not isinstance(value, dict | list)
        case forms.EnumView(values):
            return not any(isinstance(value, dict | list) for value in values)
    return False
