"""Random schemas and instances: what we accept is what validators call valid."""

from __future__ import annotations

import json
import random

import jsonschema
import jsonschema_rs
import pytest

from dcmodel.constraints.schema.build import Options, compile_schema
from dcmodel.errors import InvalidConstraintError, UnsatisfiableConstraintError

KEYS = ("a", "b", "ab", "c\n")
SMALL = (
    *(
        True,
        {},
        False,
        {"type": "integer"},
        {"type": "string"},
        {"const": 1},
        {"const": [1]},
        {"const": {"a": 1}},
    ),
    *({"enum": [1, "a", None]}, {"enum": [1.5, [], {}]}, {"minimum": 1.5}, {"type": "number", "maximum": 2}),
    *({"maxLength": 1}, {"pattern": "^a"}, {"pattern": "^a|b$"}, {"pattern": "a.b"}, {"pattern": r"\d"}),
    *({"multipleOf": 2}, {"multipleOf": 0.5}, {"type": ["null", "object"]}, {"type": ["array", "boolean"]}),
)
NAMES = ({"maxLength": 1}, {"pattern": "a"}, {"enum": ["a", "b"]}, {"not": {"const": "a"}})
VALUES = (0, 1, 2, 1.5, 1.0, -1, 10, "a", "b", "ab", "", "xaxb", "3", None, True, False)


class Maker:
    """Makes schemas with any keyword of draft 2020-12, and instances for them."""

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def schema(self, depth=2):
        if depth == 0 or self.rng.random() < 0.15:
            return self.rng.choice(SMALL)
        schema = {}
        for _ in range(self.rng.randint(1, 3)):
            keyword = self.rng.choice(sorted(self.keywords(depth)))
            schema[keyword] = self.keywords(depth)[keyword]()
            if keyword == "if":
                schema |= {key: self.schema(depth - 1) for key in ("then", "else") if self.rng.random() < 0.7}
        return schema

    def keywords(self, depth):
        rng = self.rng

        def sub():
            return self.schema(depth - 1)

        def subs():
            return [sub() for _ in range(rng.randint(1, 2))]

        def count():
            return rng.randint(0, 2)

        return {
            **dict.fromkeys(("additionalProperties", "items", "contains", "not", "if"), sub),
            **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), subs),
            **dict.fromkeys(("minProperties", "maxProperties", "minItems", "maxItems"), count),
            **dict.fromkeys(("minContains", "maxContains"), count),
            "properties": lambda: {key: sub() for key in rng.sample(KEYS, 2)},
            "required": lambda: rng.sample(KEYS, rng.randint(0, 2)),
            "patternProperties": lambda: {
                key: sub() for key in rng.sample(("^a", "b", "^[ab]$"), rng.randint(1, 2))
            },
            "propertyNames": lambda: rng.choice(NAMES),
            "uniqueItems": lambda: True,
            "dependentRequired": lambda: {rng.choice(KEYS): [rng.choice(KEYS)]},
            "dependentSchemas": lambda: {rng.choice(KEYS): sub()},
            "type": lambda: rng.choice(
                ("object", "array", "string", "integer", "number", ["object", "null"])
            ),
            "unevaluatedProperties": lambda: rng.choice((False, {"type": "integer"})),
            "unevaluatedItems": lambda: False,
            "minimum": lambda: rng.choice((1, 0.5)),
            "enum": lambda: rng.sample((1, "a", [1], {"a": 1}, {"a": 1, "b": 2}, 2.0), 3),
            "$ref": lambda: "#/$defs/x",
        }

    def instance(self, depth=2):
        if depth == 0 or self.rng.random() < 0.3:
            return self.rng.choice(VALUES)
        if self.rng.random() < 0.5:
            return [self.instance(depth - 1) for _ in range(self.rng.randint(0, 3))]
        keys = self.rng.sample((*KEYS, "d", "xx"), self.rng.randint(0, 3))
        return {key: self.instance(depth - 1) for key in keys}


def leads_round(schema):
    """A `$defs/x` that refers to itself in place: what is valid then is not defined."""
    return '"$ref": "#/$defs/x"' in json.dumps(schema["$defs"]["x"])


def accepts(compiled, text, tokenizer):
    matcher = compiled.matcher()
    token_ids = tokenizer.encode(text)
    return matcher.advance(token_ids) == len(token_ids) and matcher.is_accepting


@pytest.mark.parametrize("key_order", ["any", "schema"])
@pytest.mark.parametrize("seed", range(4))
def test_random_schemas(small, seed, key_order):
    maker = Maker(f"{seed} {key_order}")
    options = Options("spaced", key_order, True)
    ways, lost, valid, invalid = {}, 0, 0, 0
    for _ in range(40):
        schema = maker.schema()
        schema = {**schema} if isinstance(schema, dict) else ({} if schema else {"not": {}})
        schema["$defs"] = {"x": maker.schema(1) or {"not": {}}}
        if leads_round(schema):
            continue
        validator = jsonschema_rs.validator_for(schema)
        second = jsonschema.Draft202012Validator(schema)
        try:
            plan, compiled = compile_schema(json.dumps(schema), options, small)
            ways[plan.way] = ways.get(plan.way, 0) + 1
        except UnsatisfiableConstraintError:
            compiled = None
        for _ in range(10):
            value = maker.instance()
            text = json.dumps(value, ensure_ascii=False)
            is_valid = validator.is_valid(value)
            assert second.is_valid(value) == is_valid, (schema, text)
            is_accepted = compiled is not None and accepts(compiled, text, small)
            valid += is_valid
            invalid += not is_valid
            assert is_valid or not is_accepted, (schema, text)
            if is_valid and not is_accepted:
                assert key_order == "schema", (schema, text)
                lost += 1
    assert ways["grammar"] > 1
    assert ways["checked"] > 1
    assert min(valid, invalid) > 40
    assert lost <= 0.1 * valid


@pytest.mark.parametrize("whitespace", ["compact", "bounded", "flexible"])
def test_random_schemas_in_other_layouts(small, whitespace):
    maker = Maker(whitespace)
    separators = (",", ":") if whitespace == "compact" else (" ,\n", "\t: ")
    for _ in range(40):
        schema = maker.schema()
        if not isinstance(schema, dict) or '"$ref"' in json.dumps(schema):
            continue
        try:
            _, compiled = compile_schema(json.dumps(schema), Options(whitespace, "any", True), small)
        except UnsatisfiableConstraintError:
            continue
        validator = jsonschema_rs.validator_for(schema)
        for _ in range(8):
            value = maker.instance()
            text = json.dumps(value, ensure_ascii=False, separators=separators)
            assert accepts(compiled, text, small) == validator.is_valid(value), (schema, text)


def test_random_text_is_no_reason_to_crash(small):
    rng = random.Random(8)
    maker = Maker(9)
    for _ in range(40):
        schema = maker.schema()
        if not isinstance(schema, dict):
            continue
        keyword = rng.choice([*schema, "type", "properties", "$ref", "pattern"])
        schema[keyword] = rng.choice((None, 5, "x", [], {}, [1], {"a": 5}, -1, True, ["a", "a"]))
        try:
            compile_schema(json.dumps(schema), Options("spaced", "any", True), small)
        except InvalidConstraintError:
            continue
