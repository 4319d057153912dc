"""From a JSON schema to what is compiled for a vocabulary, the cheapest way that is exact.

1. The engine's own compiler, for schemas that it reads exactly (`rewrite`), with keys in schema order.
2. A grammar of ours from the canonical form (`values`), where it says everything.
3. The same where it says too little, together with an exact check (`walker`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llguidance import LLMatcher

from dcmodel.constraint import CompiledConstraint
from dcmodel.constraints.guard import COMPILE_SECONDS, within
from dcmodel.constraints.llg import LlgCompiled
from dcmodel.constraints.llg_engine import (
    build_engine,
    engine_error,
    first_mask_error,
    is_dead_end,
    without_forcing,
)
from dcmodel.constraints.schema.canonical import canonicalize, is_empty, make_validator, read_schema
from dcmodel.constraints.schema.checked import CheckedCompiled
from dcmodel.constraints.schema.lark import LarkWriter
from dcmodel.constraints.schema.order import KeyOrder, Order
from dcmodel.constraints.schema.places import Places
from dcmodel.constraints.schema.rewrite import rewrite_schema
from dcmodel.constraints.schema.values import ValueWriter
from dcmodel.constraints.schema.walker import SchemaCheck
from dcmodel.constraints.trial import check_in_child
from dcmodel.errors import InvalidConstraintError, UnsatisfiableConstraintError
from dctokenizers import Tokenizer

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

STYLES: dict[str, JsonCompileOptions] = {
    "spaced": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
    "compact": {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"},
    "bounded": {"whitespace_flexible": True, "whitespace_pattern": r"[ \n\t]{0,20}"},
    "flexible": {"whitespace_flexible": True},
}
# Without \u escapes: the engine accepts a key that is spelled with them under any schema.
STRICT: JsonCompileOptions = {"lenient": False, "coerce_one_of": False, "json_allowed_escapes": 'nrbtf\\"'}
MAX_SCHEMA = 4_000_000
MAX_CHEAP = 200_000
LARGE_COUNT = re.compile(r'"m(?:in|ax)(?:Length|Items|Properties|Contains)"\s*:\s*\d{4,}|\{[\d,]*\d{3}')

Way = Literal["engine", "grammar", "checked"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a schema is compiled."""

    way: Way
    grammar: str
    """As the engine takes it."""
    forcing: bool
    check: SchemaCheck | None = None
    loose: tuple[str, ...] = ()
    """Keywords that only the check knows."""


@dataclass(frozen=True, slots=True)
class Options:
    """What `JsonSchema` was told beside the schema."""

    whitespace: str
    key_order: Order
    formats: bool


def compile_schema(text: str, options: Options, tokenizer: Tokenizer) -> tuple[Plan, CompiledConstraint]:
    """Compile a schema given as JSON text. Raises `InvalidConstraintError` and its kinds."""
    if len(text) > MAX_SCHEMA:
        raise InvalidConstraintError(
            f"the JSON schema has {len(text)} characters.", remedy=f"At most {MAX_SCHEMA} are read."
        )
    if options.key_order == "schema" and options.formats and (plan := plan_for_engine(text, options)):
        _try_what_may_run_wild(text, plan)
        engine = build_engine(plan.grammar, tokenizer)
        # What it cannot do, a grammar of ours can; what is wrong is said better from there.
        if not engine_error(engine):
            return plan, LlgCompiled(engine, plan.grammar, tokenizer, forcing=plan.forcing)
    return within(COMPILE_SECONDS, lambda: _compile(text, options, tokenizer), what="JSON schema")


def _compile(text: str, options: Options, tokenizer: Tokenizer) -> tuple[Plan, CompiledConstraint]:
    try:
        plan = plan_grammar(text, options)
    except RecursionError:
        raise InvalidConstraintError("the JSON schema is nested too deeply.") from None
    _try_what_may_run_wild(text, plan)
    return plan, _build(plan, tokenizer)


def _try_what_may_run_wild(text: str, plan: Plan) -> None:
    """Large counts, and very long schemas, are compiled in a process with limits first."""
    if len(text) > MAX_CHEAP or LARGE_COUNT.search(text):
        check_in_child(plan.grammar, what="JSON schema")


def plan_for_engine(text: str, options: Options) -> Plan | None:
    """The engine's own compiler; None where a schema is not surely one that it reads exactly."""
    schema = json.loads(text)
    if schema is False:
        return None
    try:
        rewritten, may_force = rewrite_schema({} if schema is True else schema, text)
        style: JsonCompileOptions = {**STYLES[options.whitespace], **STRICT}
        grammar = LLMatcher.grammar_from_json_schema(rewritten, overrides=style)
    except (InvalidConstraintError, ValueError):
        return None
    return Plan("engine", grammar if may_force else without_forcing(grammar), may_force)


def plan_grammar(text: str, options: Options) -> Plan:
    """A grammar from the canonical form, and a check where it says too little."""
    formats = options.formats
    schema = read_schema(text)
    root = canonicalize(schema, formats=formats)
    if schema is False:
        raise UnsatisfiableConstraintError("no JSON value is valid under the schema `false`.")
    if is_empty(root):
        raise _unsatisfiable()
    writer = LarkWriter(options.whitespace)
    order = KeyOrder(schema, options.key_order)
    values = ValueWriter(writer, order, formats=formats, draft=root.draft)
    grammar = LLMatcher.grammar_from_lark(writer.text(values.value(root)))
    if not writer.loose:
        return Plan("grammar", grammar, writer.may_force)
    places = Places(root, frozenset(values.loose_nodes), formats=formats)
    check = SchemaCheck(make_validator(schema, formats=formats), places)
    return Plan("checked", grammar, writer.may_force, check, tuple(writer.loose))


def _build(plan: Plan, tokenizer: Tokenizer) -> CompiledConstraint:
    engine = build_engine(plan.grammar, tokenizer)
    if message := engine_error(engine):
        raise InvalidConstraintError(f"the JSON schema is too complex: {message:.300}.")
    if message := first_mask_error(engine, tokenizer):
        if is_dead_end(message):
            raise _unsatisfiable()
        raise InvalidConstraintError(f"the JSON schema is too complex: {message:.300}.")
    is_composed = " & " in plan.grammar or " ~" in plan.grammar
    compiled = LlgCompiled(engine, plan.grammar, tokenizer, forcing=plan.forcing, stops_late=is_composed)
    if plan.check is None:
        return compiled
    return CheckedCompiled(compiled, plan.check, tokenizer)


def _unsatisfiable() -> UnsatisfiableConstraintError:
    return UnsatisfiableConstraintError("no JSON value is valid under the schema.")
