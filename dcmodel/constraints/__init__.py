"""The kinds of constraint."""

from dcmodel.constraints.choice import Choice
from dcmodel.constraints.json_schema import JsonSchema
from dcmodel.constraints.regex import Regex

__all__ = ["Choice", "JsonSchema", "Regex"]
