"""Rules for given JSON values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dcmodel.constraints.schema.lark import LarkWriter
from dcmodel.constraints.schema.members import Member, write_members
from dcmodel.constraints.schema.numbers import constant
from dcmodel.constraints.schema.order import KeyOrder
from dcmodel.constraints.schema.strings import literal


class ConstantWriter:
    """Writes values: scalars of one kind together as a terminal, arrays and objects as rules."""

    def __init__(self, writer: LarkWriter, order: KeyOrder) -> None:
        self.writer = writer
        self.order = order

    def alternatives(self, values: Sequence[Any]) -> list[str]:
        """One alternative or more for all the values."""
        strings = [literal(value) for value in values if isinstance(value, str)]
        numbers = [constant(value) for value in values if _is_number(value)]
        texts = [f'"{json.dumps(value)}"' for value in values if value is None or isinstance(value, bool)]
        for value in values:
            if isinstance(value, str):
                self.writer.limit_forcing(len(value))
        # Many alternatives have to be a terminal: the engine's rules are limited.
        for group in (strings, numbers):
            if group:
                texts.append(self.writer.terminal(" | ".join(group)))
        return texts + [self._composed(value) for value in values if isinstance(value, list | dict)]

    def integers(self, values: Sequence[Any]) -> list[str]:
        """Whole numbers that may not be written with a point."""
        texts = "|".join(str(int(value)) for value in values)
        return [self.writer.terminal(f"/(?:{texts})/")] if values else []

    def value(self, value: Any) -> str:
        """The name of a rule for one value."""
        return self.writer.rule(self.alternatives([value]))

    def _composed(self, value: list[Any] | dict[str, Any]) -> str:
        layout = self.writer.layout
        if isinstance(value, list):
            items = f" {layout.comma} ".join(map(self.value, value))
            return f"{layout.open_array} {items} {layout.close_array}" if value else layout.empty_array
        members = [Member(key, self.value(inner), is_required=True) for key, inner in value.items()]
        return write_members(self.writer, self.order.sort(members), [], order=self.order.order)[0]


def _is_number(value: Any) -> bool:
    return value is not None and not isinstance(value, bool | str | list | dict)
