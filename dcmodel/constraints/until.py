"""Free text up to a phrase that has to come."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from dcmodel.constraint import CompiledConstraint, Constraint
from dcmodel.constraints.algebra.regular import ANY_TEXT, compile_terminal, one_of
from dcmodel.constraints.checked_texts import checked_texts
from dctokenizers import Tokenizer


class Until(Constraint):
    """Any text that ends with the first appearance of one of `strings`; it has to appear.

    What `stops_at(strings)` means in the middle of a sequence: ``Until("```json\\n") + JsonSchema(...)``.
    """

    kind = "until"

    def __init__(self, strings: Iterable[str]) -> None:
        self.strings = checked_texts(strings, what="phrase")

    @property
    def key(self) -> Hashable:
        return (self.kind, self.strings)

    def terminal(self) -> str:
        phrase = one_of([json.dumps(string) for string in self.strings])
        return f"(({ANY_TEXT} {phrase}) & ~({ANY_TEXT} {phrase} /(?s:.)+/))"

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        label = f"text until {' or '.join(map(repr, self.strings))}"
        return compile_terminal(self.terminal(), tokenizer, label=label, forcing=True)

    def to_dict(self) -> Mapping[str, Any]:
        return {"kind": self.kind, "strings": list(self.strings)}
