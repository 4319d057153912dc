"""The kinds of constraint, their combinations, and a cache of their compiled forms.

Choice        one of a list of texts
Regex         a text that matches a regular expression
Type          a value of a Python type, or an email, uuid, ipv4 ...
JsonSchema    JSON text valid under a schema or a Python type
Grammar       a text of a Lark grammar
Stop          free text up to a stop string (stops_at, stops_before)
Until         free text up to a phrase that has to come
NotIn         a text without certain phrases
Length        a number of characters, words or tokens
PrefixOf      a beginning of a text; StartsWith: a text with such a beginning
Template      fixed text with holes
TokenSet      a number of tokens out of a set; FixedMask: every token out of one mask
MaskFunction  a caller's own function per step
And, Or, Not, Then   rules made of rules: ``a & b``, ``a | b``, ``~a``, ``a + b``
"""

from dcmodel.constraints.algebra import And, Not, Or, Then
from dcmodel.constraints.cache import ConstraintCache
from dcmodel.constraints.choice import Choice
from dcmodel.constraints.explain_text import TextExplanation, explain_text
from dcmodel.constraints.fixed_mask import FixedMask
from dcmodel.constraints.grammar import Grammar
from dcmodel.constraints.json_schema import JsonSchema
from dcmodel.constraints.length import Length
from dcmodel.constraints.mask_function import MaskFunction
from dcmodel.constraints.phrases.not_in import NotIn
from dcmodel.constraints.phrases.stop import Stop, StopMatcher, stops_at, stops_before, watch_stops
from dcmodel.constraints.prefixes import PrefixOf, StartsWith
from dcmodel.constraints.regex import Regex
from dcmodel.constraints.template import Hole, Template
from dcmodel.constraints.token_set import TokenSet
from dcmodel.constraints.until import Until
from dcmodel.constraints.value_types import Type
from dcmodel.constraints.wire import from_dict, from_json, to_json

__all__ = [
    "And",
    "Choice",
    "ConstraintCache",
    "FixedMask",
    "Grammar",
    "Hole",
    "JsonSchema",
    "Length",
    "MaskFunction",
    "Not",
    "NotIn",
    "Or",
    "PrefixOf",
    "Regex",
    "StartsWith",
    "Stop",
    "StopMatcher",
    "Template",
    "TextExplanation",
    "Then",
    "TokenSet",
    "Type",
    "Until",
    "explain_text",
    "from_dict",
    "from_json",
    "stops_at",
    "stops_before",
    "to_json",
    "watch_stops",
]
