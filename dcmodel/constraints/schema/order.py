"""The order in which the keys of an object come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from dcmodel.constraints.schema.members import Member

Order = Literal["schema", "any"]


class KeyOrder:
    """Knows in which order a schema's document names properties: its canonical form sorts them."""

    def __init__(self, schema: Any, order: Order) -> None:
        self.order: Order = order
        self._lists = [tuple(keys) for keys in _key_lists(schema)] if order == "schema" else []
        self._ranks: dict[str, int] = {}
        for keys in self._lists:
            for key in keys:
                self._ranks.setdefault(key, len(self._ranks))

    def sort(self, members: Sequence[Member]) -> list[Member]:
        """As the list of properties that names most of them does; in any order, required ones first."""
        if self.order == "any":
            return sorted(members, key=lambda member: not member.is_required)
        names = {member.key for member in members}
        best = max(self._lists, key=lambda keys: len(names.intersection(keys)), default=())
        places = {key: place for place, key in enumerate(best)}
        last = len(self._ranks)
        return sorted(
            members,
            key=lambda member: (places.get(member.key, last), self._ranks.get(member.key, last)),
        )


def _key_lists(schema: Any) -> Iterator[Sequence[str]]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if isinstance(value, dict) and (key == "properties" or key in ("const", "default")):
                yield list(value)
            elif key == "required" and isinstance(value, list):
                yield [name for name in value if isinstance(name, str)]
            yield from _key_lists(value)
    elif isinstance(schema, list):
        for item in schema:
            if isinstance(item, dict):
                yield from _key_lists(item)
