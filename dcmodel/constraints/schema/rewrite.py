"""A JSON schema made exact for the engine: same meaning, or narrower, or an error; never wider.

The engine ignores or approximates some keywords. Here those are said otherwise (`format: date` becomes
a pattern that knows leap years, a `oneOf` of cases that exclude each other an `anyOf`), dropped where
they say nothing (`uniqueItems: false`), or refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from dcmodel.constraints.forced_text import MAX_RUN, forced_text
from dcmodel.constraints.regex_syntax import RegexSyntaxError, parse_regex
from dcmodel.constraints.schema.cases import exclude_each_other
from dcmodel.constraints.schema.ecma_tree import NotRegularError
from dcmodel.constraints.schema.formats import FORMATS, SILENT_FORMATS
from dcmodel.constraints.schema.strings import plain_pattern
from dcmodel.errors import InvalidConstraintError, UnsupportedConstraintError

Schema = dict[str, Any]

OF_SCHEMAS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
ONE_SCHEMA = frozenset(
    {
        *("items", "additionalItems", "additionalProperties", "contains", "not", "if", "then", "else"),
        *("propertyNames", "unevaluatedItems", "unevaluatedProperties"),
    }
)
COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})
SHAPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(NAMED_SCHEMAS, dict),
    **dict.fromkeys(OF_SCHEMAS, list),
    **dict.fromkeys(("pattern", "format", "$ref"), str),
    **dict.fromkeys(("enum", "required"), list),
    "type": (str, list),
}
TEXTS = ("const", "enum", "properties", "required")
EMPTY_DEPENDENCIES = ("dependentRequired", "dependentSchemas", "dependencies")
OTHER_BASES = ("$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveRef")
REWRITTEN = COUNTS.union(
    TEXTS,
    EMPTY_DEPENDENCIES,
    ("uniqueItems", "minContains", "maxContains", "if", "then", "else"),
    ("format", "oneOf", "pattern", "patternProperties"),
    OTHER_BASES,
)
"""Keywords that one of the steps below looks at."""
# Written as \u escapes, which are switched off: a key could be spelled with them and miss its schema.
NEEDS_ESCAPE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")


def rewrite_schema(schema: Schema, text: str | None = None) -> tuple[str, bool]:
    """The schema for the engine as JSON text, and whether text may be forced; `schema` is changed.

    `text` is the schema as `json.dumps` writes it, if that is known.

    Raises `UnsupportedConstraintError` for what would be accepted wrongly, and
    `InvalidConstraintError` for a keyword whose value has a wrong type.
    """
    schema.pop("x-guidance", None)  # options of the engine, which a schema must not set
    rewriter = _Rewriter(schema, may_need_escapes=text is None or "\\u00" in text or "\x7f" in text)
    try:
        rewriter.visit(schema)
    except RecursionError:
        raise InvalidConstraintError("the JSON schema is nested too deeply.") from None
    return json.dumps(schema), rewriter.may_force


class _Rewriter:
    def __init__(self, root: Schema, *, may_need_escapes: bool) -> None:
        self.root = root
        self.may_need_escapes = may_need_escapes
        self.seen: set[int] = set()
        self.may_force = True

    def visit(self, schema: Any) -> None:
        """Rewrite a schema and all those in it, in place."""
        if not isinstance(schema, dict) or id(schema) in self.seen:
            return
        self.seen.add(id(schema))
        if schema is not self.root and isinstance(schema.get("$id", schema.get("id")), str):
            raise _unsupported("$id", "`$id` below the root is", "Leave it out.")
        for key, value in schema.items():
            if key in SHAPES and not isinstance(value, SHAPES[key]):
                raise InvalidConstraintError(f"the JSON schema is wrong: `{key}` is {value!r:.60}.")
            if key in NAMED_SCHEMAS:
                for inner in value.values():
                    self.visit(inner)
            elif key in OF_SCHEMAS or (key in ONE_SCHEMA and isinstance(value, list)):
                for inner in value:
                    self.visit(inner)
            elif key in ONE_SCHEMA:
                self.visit(value)
            elif key == "$ref":
                self.visit(self.resolve(schema))
        if not REWRITTEN.isdisjoint(schema):
            self.rewrite(schema)

    def rewrite(self, schema: Schema) -> None:
        """Rewrite this schema alone."""
        _check_base(schema)
        _say_patterns(schema)
        _make_counts_whole(schema)
        if self.may_need_escapes:
            _check_text(schema)
        _drop_what_says_nothing(schema)
        _check_property_count(schema)
        self.check_length(schema)
        _say_format(schema)
        self.say_one_of(schema)

    def check_length(self, schema: Schema) -> None:
        """Force nothing where very much might be forced (see `forced_text`)."""
        patterns = [*schema.get("patternProperties", ())]
        if "pattern" in schema:
            patterns.append(schema["pattern"])
        longest = [_longest_run(pattern) for pattern in patterns]
        for key, text_per_count in (("minLength", 1), ("minItems", 10), ("minProperties", 10)):
            if isinstance(schema.get(key), int):
                longest.append(schema[key] * text_per_count)
        longest += [len(text) for key in ("const", "enum") if key in schema for text in _texts(schema[key])]
        if longest and max(longest) > MAX_RUN:
            self.may_force = False

    def say_one_of(self, schema: Schema) -> None:
        cases = schema.get("oneOf")
        if cases is None or not exclude_each_other([self.resolve(case) for case in cases]):
            return
        del schema["oneOf"]
        if "anyOf" in schema:
            schema["allOf"] = [*schema.get("allOf", []), {"anyOf": cases}]
        else:
            schema["anyOf"] = cases

    def resolve(self, schema: Any) -> Any:
        """What a schema's local `$ref`, if it has one, leads to; the schema itself where it does not."""
        for _ in range(32):
            if not isinstance(schema, dict) or not str(schema.get("$ref", "")).startswith("#"):
                return schema
            target: Any = self.root
            for part in unquote(schema["$ref"][1:]).split("/")[1:]:
                part = part.replace("~1", "/").replace("~0", "~")
                if isinstance(target, dict) and part in target:
                    target = target[part]
                elif isinstance(target, list) and part.isdecimal() and int(part) < len(target):
                    target = target[int(part)]
                else:
                    return schema
            schema = target
        return schema


@lru_cache(maxsize=1024)
def _longest_run(pattern: str) -> int:
    """How much text a pattern may force; more than is good where it cannot be read."""
    try:
        return forced_text(parse_regex(pattern)).run
    except (RegexSyntaxError, UnsupportedConstraintError):
        return MAX_RUN + 1


def _check_base(schema: Schema) -> None:
    for keyword in OTHER_BASES:
        if keyword in schema:
            raise _unsupported(keyword, f"`{keyword}` is", "Use `$ref` with a JSON pointer.")


def _say_patterns(schema: Schema) -> None:
    """Patterns are those of ECMA 262: digits are ASCII, and an anchor may stand in an alternative."""
    try:
        if "pattern" in schema:
            schema["pattern"] = plain_pattern(schema["pattern"])
        if "patternProperties" in schema:
            named = schema["patternProperties"]
            schema["patternProperties"] = {plain_pattern(name): inner for name, inner in named.items()}
    except NotRegularError as error:
        raise _unsupported("pattern", f"a pattern with {error} is", "Say it otherwise.") from None


def _make_counts_whole(schema: Schema) -> None:
    for key in COUNTS.intersection(schema):
        if isinstance(schema[key], float) and schema[key].is_integer():
            schema[key] = int(schema[key])


def _check_text(schema: Schema) -> None:
    for key in TEXTS:
        if key in schema:
            value = list(schema[key]) if key == "properties" else schema[key]
            if any(NEEDS_ESCAPE.search(text) for text in _texts(value)):
                raise _unsupported(key, f"control characters in `{key}` are", "Leave them out.")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        yield from _texts([*value.keys(), *value.values()])


def _drop_what_says_nothing(schema: Schema) -> None:
    if schema.get("uniqueItems") is False:
        del schema["uniqueItems"]
    if "contains" not in schema:
        schema.pop("minContains", None)
        schema.pop("maxContains", None)
    if "if" not in schema:
        schema.pop("then", None)
        schema.pop("else", None)
    elif "then" not in schema and "else" not in schema:
        del schema["if"]
    for key in EMPTY_DEPENDENCIES:
        if schema.get(key) == {}:
            del schema[key]


def _check_property_count(schema: Schema) -> None:
    """Nothing keeps a key from coming twice, and the second time it does not count."""
    least = schema.get("minProperties", 0)
    if isinstance(least, int) and least > len(set(map(str, schema.get("required", ())))) + 1:
        raise _unsupported(
            "minProperties", "`minProperties` above the number of `required` properties is", "Name them."
        )


def _say_format(schema: Schema) -> None:
    name = schema.get("format")
    if name in SILENT_FORMATS:
        del schema["format"]
    elif name in FORMATS:
        del schema["format"]
        for part in FORMATS[name]:
            if schema.keys() & part:
                schema["allOf"] = [*schema.get("allOf", []), dict(part)]
            else:
                schema.update(part)


def _unsupported(keyword: str, what: str, remedy: str) -> UnsupportedConstraintError:
    return UnsupportedConstraintError(
        f"the JSON schema cannot be used: {what} not supported.", remedy=remedy, keyword=keyword
    )
