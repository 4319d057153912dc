"""Constraints as JSON and back: a versioned envelope around what `Constraint.to_dict` gives.

    {"version": 1, "constraint": {"kind": "and", "parts": [{"kind": "regex", ...}, ...]}}

The decoder trusts nothing: sizes, depth, kinds, fields and the types of values are checked, and what is
wrong is an `InvalidConstraintError` that names the place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from dcmodel.constraint import Constraint
from dcmodel.constraints.algebra.rules import MAX_DEPTH, And, Not, Or, Then
from dcmodel.constraints.choice import Choice
from dcmodel.constraints.fixed_mask import FixedMask
from dcmodel.constraints.grammar import Grammar
from dcmodel.constraints.json_schema import JsonSchema
from dcmodel.constraints.length import Length
from dcmodel.constraints.mask_function import MaskFunction
from dcmodel.constraints.phrases.not_in import NotIn
from dcmodel.constraints.phrases.stop import Stop
from dcmodel.constraints.prefixes import PrefixOf, StartsWith
from dcmodel.constraints.regex import Regex
from dcmodel.constraints.template import Template
from dcmodel.constraints.token_set import TokenSet
from dcmodel.constraints.until import Until
from dcmodel.constraints.value_types import Type
from dcmodel.errors import InvalidConstraintError

VERSION = 1
MAX_BYTES = 16 << 20
MAX_RULES = 10_000
"""Rules inside one another, all together."""

PLAIN_KINDS: Mapping[str, Callable[..., Constraint]] = {
    kind.kind: kind
    for kind in (
        *(Choice, FixedMask, Grammar, JsonSchema, Length, NotIn, PrefixOf),
        *(Regex, StartsWith, Stop, TokenSet, Type, Until),
    )
}
COMBINATIONS: Mapping[str, Callable[..., Constraint]] = {kind.kind: kind for kind in (And, Or, Then)}
KINDS = tuple(sorted([*PLAIN_KINDS, *COMBINATIONS, Not.kind, Template.kind]))


def to_json(constraint: Constraint) -> str:
    """The wire form of a constraint.

    Raises `CapabilityError` for a caller's own function, alone or as a part.
    """
    return json.dumps({"version": VERSION, "constraint": constraint.to_dict()}, ensure_ascii=False)


def from_json(text: str | bytes) -> Constraint:
    """The constraint of a wire form. Raises `InvalidConstraintError` for anything else."""
    if len(text) > MAX_BYTES:
        raise InvalidConstraintError(
            f"the constraint has {len(text)} bytes.", remedy=f"At most {MAX_BYTES} are accepted."
        )
    try:
        data = json.loads(text)
    except RecursionError:
        raise InvalidConstraintError("the constraint is nested too deeply.") from None
    except ValueError as error:
        raise InvalidConstraintError(f"the constraint is not JSON: {error}.") from None
    if not isinstance(data, dict) or data.keys() != {"version", "constraint"}:
        raise InvalidConstraintError(
            "the wire form has other fields than `version` and `constraint`.",
            remedy=f'Send {{"version": {VERSION}, "constraint": {{"kind": ...}}}}.',
        )
    if data["version"] != VERSION or isinstance(data["version"], bool):
        raise InvalidConstraintError(
            f"the wire form has the version {data['version']!r:.20}.",
            remedy=f"This side knows version {VERSION}; use the same dcmodel on both sides.",
        )
    return from_dict(data["constraint"])


def from_dict(data: Mapping[str, Any]) -> Constraint:
    """The constraint whose `to_dict` is `data`.

    Raises `InvalidConstraintError` for an unknown kind, for missing or unknown fields, for values of a
    wrong type, and for what is too large or too deep.
    """
    return _Decoder().rule(data, "constraint", 1)


class _Decoder:
    def __init__(self) -> None:
        self.rules = 0

    def rule(self, data: object, place: str, depth: int) -> Constraint:
        """A rule at a place of the wire form."""
        self.rules += 1
        if self.rules > MAX_RULES or depth > MAX_DEPTH:
            raise InvalidConstraintError(
                f"the constraint is too large at {place}: more than {MAX_RULES} rules, or {MAX_DEPTH} deep."
            )
        if not isinstance(data, Mapping):
            raise InvalidConstraintError(f"{place} is {data!r:.60}, no object.", remedy="Send an object.")
        fields = dict(data)
        kind = fields.pop("kind", None)
        if kind == MaskFunction.kind:
            raise InvalidConstraintError(
                f"{place} is a function of the caller's, which cannot be sent.",
                remedy="Open a session and send the mask of each step.",
            )
        if not isinstance(kind, str) or kind not in KINDS:
            raise InvalidConstraintError(
                f"{place} has the kind {kind!r:.40}, which there is not.",
                remedy=f"Kinds: {', '.join(KINDS)}.",
            )
        try:
            return self.made(kind, fields, place, depth)
        except InvalidConstraintError as error:
            raise _located(error, place) from None
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InvalidConstraintError(f"{place} ({kind}) has wrong fields: {error}.") from None

    def made(self, kind: str, fields: dict[str, Any], place: str, depth: int) -> Constraint:
        """A rule of a known kind."""
        if kind in PLAIN_KINDS:
            if not all(isinstance(name, str) for name in fields):
                raise InvalidConstraintError(f"{place} has a field whose name is no text.")
            return PLAIN_KINDS[kind](**fields)
        wanted = "part" if kind == Not.kind else "parts"
        if fields.keys() != {wanted}:
            raise InvalidConstraintError(
                f"{place} ({kind}) has the fields {sorted(map(str, fields))}, not `{wanted}`."
            )
        if kind == Not.kind:
            return Not(self.rule(fields["part"], f"{place}.part", depth + 1))
        parts = fields["parts"]
        if not isinstance(parts, list | tuple):
            raise InvalidConstraintError(f"{place}.parts is {parts!r:.40}, no list.")
        if kind == Template.kind:
            holes = [self.hole(part, f"{place}.parts[{at}]", depth) for at, part in enumerate(parts)]
            return Template(holes)
        rules = [self.rule(part, f"{place}.parts[{at}]", depth + 1) for at, part in enumerate(parts)]
        return COMBINATIONS[kind](*rules)

    def hole(self, part: object, place: str, depth: int) -> str | Mapping[str, Any]:
        """A part of a template."""
        if isinstance(part, str):
            return part
        if not isinstance(part, Mapping) or "constraint" not in part:
            raise InvalidConstraintError(f"{place} is {part!r:.60}, neither text nor hole.")
        return {**part, "constraint": self.rule(part["constraint"], f"{place}.constraint", depth + 1)}


def _located(error: InvalidConstraintError, place: str) -> InvalidConstraintError:
    """The error with the place in front, once: the innermost rule knows best."""
    if not error.message.startswith("constraint"):
        error.message = f"{place}: {error.message}"
        error.args = (error.message,)
    return error
