"""The text of a grammar while it is being written: terminals and rules by name, and the layout of JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dcmodel.constraints.forced_text import MAX_RUN, forced_text
from dcmodel.constraints.llg_engine import NO_FORCING
from dcmodel.constraints.regex_syntax import RegexSyntaxError, parse_regex
from dcmodel.constraints.schema.strings import STRING
from dcmodel.errors import UnsupportedConstraintError

BLANKS = {"bounded": r"[ \n\t]{0,20}", "flexible": r"[ \n\t\r]*"}
EMPTY = '""'
TAKES_PARAMETER = re.compile(r"%if|::(?!0)")


@dataclass(frozen=True, slots=True)
class Layout:
    """Structural signs of JSON with the white space around them, as terminals."""

    open_object: str
    close_object: str
    empty_object: str
    open_array: str
    close_array: str
    empty_array: str
    comma: str
    colon: str


def make_layout(whitespace: str) -> Layout:
    """The signs for a style of `JsonSchema`."""
    if whitespace in BLANKS:
        blank = BLANKS[whitespace]
        signs = (rf"\{{{blank}", rf"{blank}\}}", rf"\{{{blank}\}}", rf"\[{blank}", rf"{blank}\]")
        return Layout(
            *(f"/{sign}/" for sign in (*signs, rf"\[{blank}\]", f"{blank},{blank}", f"{blank}:{blank}"))
        )
    comma, colon = (", ", ": ") if whitespace == "spaced" else (",", ":")
    return Layout(*(json.dumps(sign) for sign in ("{", "}", "{}", "[", "]", "[]", comma, colon)))


class LarkWriter:
    """Names terminals and rules, each once, and notes what the grammar does not say."""

    def __init__(self, whitespace: str) -> None:
        self.layout = make_layout(whitespace)
        self.loose: dict[str, None] = {}
        """Keywords that the grammar says too little of: whoever uses it has to check them."""
        self.notes = 0
        """How often something was noted as loose."""
        self.may_force = True
        self._terminals: dict[str, str] = {}
        self._leaves: dict[str, str] = {}
        self._rules: dict[str, list[str]] = {}
        self._written: set[str] = set()

    def note(self, keyword: str) -> None:
        """The grammar says too little of a keyword."""
        self.loose[keyword] = None
        self.notes += 1

    def terminal(self, expression: str) -> str:
        """The name of a terminal."""
        return self._terminals.setdefault(expression, f"T{len(self._terminals)}")

    def string(self) -> str:
        """The name of the terminal of all strings."""
        return self.terminal(STRING)

    def leaf(self, schema: dict[str, Any]) -> str:
        """The name of a rule for a scalar that the engine's own compiler says."""
        return self._leaves.setdefault(json.dumps(schema), f"leaf{len(self._leaves)}")

    def new_rule(self) -> str:
        """A name for a rule, which is to be given alternatives."""
        name = f"r{len(self._rules)}"
        self._rules[name] = []
        return name

    def set_rule(self, name: str, alternatives: Iterable[str]) -> None:
        """Give a rule its alternatives; with none of them nothing matches."""
        self._rules[name] = list(dict.fromkeys(alternatives))
        self._written.add(name)

    def is_void(self, name: str) -> bool:
        """Whether nothing matches a rule that has been written."""
        return name in self._written and not self._rules[name]

    def rule(self, alternatives: Sequence[str]) -> str:
        """The name of a rule for these alternatives."""
        if len(alternatives) == 1 and alternatives[0].isalnum():
            return alternatives[0]
        name = self.new_rule()
        self.set_rule(name, alternatives)
        return name

    def limit_forcing(self, length: int) -> None:
        """Force nothing where more might be forced than is good."""
        if length > MAX_RUN:
            self.may_force = False

    def limit_pattern(self, regex: str) -> None:
        """The same for a regex in the engine's dialect."""
        try:
            self.limit_forcing(forced_text(parse_regex(regex)).run)
        except (RegexSyntaxError, UnsupportedConstraintError):
            self.may_force = False

    def text(self, start: str) -> str:
        """The grammar, which begins with the rule `start`."""
        never = [name for name, alternatives in self._rules.items() if not alternatives]
        # An empty terminal: what cannot match is found out by the engine.
        nothing = self.terminal("/a/ & /b/") if never else ""
        lines = [NO_FORCING] if not self.may_force else []
        lines.append(f"start: {start}")
        for name, alternatives in self._rules.items():
            head = f"{name}::_" if any(map(TAKES_PARAMETER.search, alternatives)) else name
            lines.append(f"{head}: " + "\n  | ".join(alternatives or [nothing]))
        lines += [f"{name}: %json {schema}" for schema, name in self._leaves.items()]
        lines += [f"{name}: {expression}" for expression, name in self._terminals.items()]
        return "\n".join(lines) + "\n"
