"""Which of an endpoint's own grammars stands for a constraint."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from dcmodel.constraint import Constraint
from dcmodel.constraints import Choice, Grammar, JsonSchema, Regex
from dcmodel.errors import CapabilityError
from dcmodel.types import Completion, GenerateRequest
from lmql_backends.openai.capabilities import EndpointCapabilities, GrammarKind
from lmql_backends.openai.custom_tools import is_tool
from lmql_backends.openai.endpoint_api import ServerGrammar
from lmql_backends.openai.planner.strict_schema import strict_form

ONE_PATTERN = re.compile(r"\(?/((?:[^/\\]|\\.)*)/\)?")
"""A terminal of a Lark grammar that is a pattern and nothing else."""


@dataclass(frozen=True, slots=True)
class GrammarPlan:
    """A grammar to send."""

    grammar: ServerGrammar
    is_same: bool
    """Whether it allows what the constraint allows, so that the endpoint's masks are the constraint's. A
    schema is laid out as the endpoint likes it."""
    is_tool: bool = False
    """It goes as a custom tool, of which the model is told: another prompt than the one that was meant."""
    strict: ServerGrammar | None = None
    """The same in OpenAI's strict subset, to be tried where the first is refused."""


def loosened(request: GenerateRequest) -> GenerateRequest:
    """With JSON of the default layout in any white space."""
    rule = request.constraint
    if not isinstance(rule, JsonSchema) or rule.whitespace != "spaced":
        return request
    return replace(request, constraint=LoosenedJson(rule))


class LoosenedJson(JsonSchema):
    """The same values, with white space wherever JSON has it."""

    def __init__(self, rule: JsonSchema) -> None:
        super().__init__(rule.schema, whitespace="bounded", key_order=rule.key_order, formats=rule.formats)
        self._own = rule

    def parse(self, text: str) -> Any:
        return self._own.parse(text)


def any_layout(rule: JsonSchema) -> JsonSchema:
    """The same schema, in whatever layout and order of keys."""
    return JsonSchema(rule.schema, whitespace="flexible", key_order="any", formats="annotate")


def grammar_plan(request: GenerateRequest, capabilities: EndpointCapabilities) -> GrammarPlan | None:
    """The best grammar that the endpoint honours; None where there is none.

    A grammar begins at the beginning of an answer: nothing of the output may exist already.
    """
    rule = request.constraint
    if rule is None or request.resumed or request.healed or request.canonical:
        return None
    if isinstance(rule, JsonSchema) and rule.whitespace == "compact" and capabilities.continuation:
        # Endpoints lay JSON out in their way; its first space would be the end.
        capabilities = capabilities.without(GrammarKind.JSON_SCHEMA)
    for kind, source in _WAYS:
        if capabilities.honours(kind):
            found = source(rule)
            if found is not None:
                by_tool = is_tool(capabilities.grammars.get(kind))
                is_same = kind in _SAME and not by_tool
                return GrammarPlan(ServerGrammar(kind, found), is_same, by_tool, _strict_of(kind, found))
    return None


def kinds_of(request: GenerateRequest) -> list[GrammarKind]:
    """The kinds of grammars that could stand for its constraint, the best first."""
    rule = request.constraint
    if rule is None or request.resumed or request.healed or request.canonical:
        return []
    return [kind for kind, source in _WAYS if source(rule) is not None]


def canonical_text(result: Completion) -> Completion:
    """With the text laid out as `json.dumps` does it."""
    if not result.certificate.valid:
        return result
    return replace(result, text=json.dumps(json.loads(result.text), ensure_ascii=False))


def _strict_of(kind: GrammarKind, source: Any) -> ServerGrammar | None:
    if kind is not GrammarKind.JSON_SCHEMA:
        return None
    strict = strict_form(source)
    return None if strict is None or strict == source else ServerGrammar(kind, strict)


def _own_form(rule: Constraint) -> Any:
    try:
        return rule.to_dict()
    except CapabilityError:  # a caller's function
        return None


def _schema(rule: Constraint) -> Any:
    return rule.schema if isinstance(rule, JsonSchema) else None


def _regex(rule: Constraint) -> Any:
    if isinstance(rule, Regex):
        return rule.pattern
    if isinstance(rule, Choice | JsonSchema | Grammar):
        return None
    found = ONE_PATTERN.fullmatch(rule.terminal() or "")
    return None if found is None else found[1].replace(r"\/", "/")


def _options(rule: Constraint) -> Any:
    return list(rule.options) if isinstance(rule, Choice) else None


def _lark(rule: Constraint) -> Any:
    if isinstance(rule, Grammar):
        return rule.lark
    terminal = rule.terminal()
    return None if terminal is None else f"start: TEXT\nTEXT: {terminal}"


_WAYS: tuple[tuple[GrammarKind, Callable[[Constraint], Any]], ...] = (
    (GrammarKind.CONSTRAINT, _own_form),
    (GrammarKind.CHOICE, _options),
    (GrammarKind.JSON_SCHEMA, _schema),
    (GrammarKind.REGEX, _regex),
    (GrammarKind.LARK, _lark),
)
_SAME = (GrammarKind.CONSTRAINT, GrammarKind.CHOICE, GrammarKind.REGEX)
