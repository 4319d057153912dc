"""The kinds of constraint, and a cache of their compiled forms.

Choice        one of a list of texts
Regex         a text that matches a regular expression
JsonSchema    JSON text valid under a schema
Grammar       a text of a Lark grammar
Stop          free text up to a stop string
TokenSet      a number of tokens out of a set
MaskFunction  a caller's own function per step
"""

from dcmodel.constraints.cache import ConstraintCache
from dcmodel.constraints.choice import Choice
from dcmodel.constraints.grammar import Grammar
from dcmodel.constraints.json_schema import JsonSchema
from dcmodel.constraints.mask_function import MaskFunction
from dcmodel.constraints.phrases.stop import Stop, StopMatcher, watch_stops
from dcmodel.constraints.regex import Regex
from dcmodel.constraints.token_set import TokenSet
from dcmodel.constraints.wire import from_dict

__all__ = [
    "Choice",
    "ConstraintCache",
    "Grammar",
    "JsonSchema",
    "MaskFunction",
    "Regex",
    "Stop",
    "StopMatcher",
    "TokenSet",
    "from_dict",
    "watch_stops",
]
