"""Constraints from their wire form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dcmodel.constraint import Constraint
from dcmodel.constraints.choice import Choice
from dcmodel.constraints.grammar import Grammar
from dcmodel.constraints.json_schema import JsonSchema
from dcmodel.constraints.phrases.stop import Stop
from dcmodel.constraints.regex import Regex
from dcmodel.constraints.token_set import TokenSet
from dcmodel.errors import InvalidConstraintError

KINDS: Mapping[str, Callable[..., Constraint]] = {
    kind.kind: kind for kind in (Choice, Grammar, JsonSchema, Regex, Stop, TokenSet)
}


def from_dict(data: Mapping[str, Any]) -> Constraint:
    """The constraint whose `to_dict` is `data`.

    Raises `InvalidConstraintError` for an unknown kind, for missing or unknown fields, and for values
    of a wrong type.
    """
    if not isinstance(data, Mapping):
        raise InvalidConstraintError(f"a constraint is an object, not {data!r:.60}.")
    fields = dict(data)
    kind = fields.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidConstraintError(
            f"there is no constraint kind {kind!r:.40}.", remedy=f"Kinds: {', '.join(KINDS)}."
        )
    try:
        return KINDS[kind](**fields)
    except TypeError as error:
        raise InvalidConstraintError(f"the {kind} constraint has wrong fields: {error}.") from None
