from __future__ import annotations

import json
import random

import numpy as np
import pytest

from dcmodel.constraints import JsonSchema
from dcmodel.constraints.schema.build import Options, compile_schema
from dcmodel.constraints.schema.checked import CheckedCompiled
from dcmodel.errors import DeadEndError, UnsatisfiableConstraintError
from dcmodel.mask import row_to_ids

UNIQUE = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "uniqueItems": True}


def compiled_of(schema, tokenizer):
    plan, compiled = compile_schema(json.dumps(schema), Options("spaced", "any", True), tokenizer)
    assert plan.way == "checked"
    assert plan.loose
    assert isinstance(compiled, CheckedCompiled)
    return compiled


def test_a_token_that_makes_the_text_invalid_is_in_the_mask_and_refused(small, masks):
    matcher = compiled_of(UNIQUE, small).matcher()
    assert not matcher.is_exact
    assert matcher.may_dead_end
    assert matcher.advance(small.encode("[1, 1")) == len(small.encode("[1, 1"))
    close = ord("]")
    assert close in masks(matcher, small)
    assert matcher.advance([close]) == 0
    explanation = matcher.explain(close)
    assert not explanation.allowed
    assert "invalid under the JSON schema" in explanation.reason
    matcher.rollback(1)
    assert matcher.advance([ord("2"), close]) == 2
    assert matcher.is_accepting
    assert matcher.is_finished
    assert masks(matcher, small) == set(small.eos_token_ids)


def test_the_end_is_allowed_only_where_the_text_is_valid(small, masks):
    matcher = compiled_of({"not": {"multipleOf": 5}, "type": "integer"}, small).matcher()
    ends = set(small.eos_token_ids)
    assert matcher.advance([ord("1")]) == 1
    assert ends <= masks(matcher, small)
    assert matcher.advance([ord("0")]) == 1
    assert not ends & masks(matcher, small)
    assert matcher.advance([min(ends)]) == 0
    assert matcher.advance([ord("1"), min(ends)]) == 2
    matcher.rollback(2)
    assert not matcher.is_accepting


def test_forks_and_rollbacks_are_independent(small):
    matcher = compiled_of(UNIQUE, small).matcher()
    first, rest = small.encode("[1, 2"), small.encode(", 3]")
    assert matcher.advance(first) == len(first)
    twin = matcher.fork()
    assert twin.advance(rest) == len(rest)
    assert twin.is_accepting
    assert not matcher.is_accepting
    twin.rollback(len(rest))
    assert twin.advance(small.encode("]")) == 1
    with pytest.raises(ValueError, match="cannot take back"):
        matcher.rollback(len(first) + 1)
    assert matcher.advance(small.encode(", 2]")) < len(small.encode(", 2]"))


def test_what_surely_has_no_completion_is_refused_before(small):
    pair = {
        "type": "array",
        "prefixItems": [{"const": "a"}, {"enum": ["a", "b"]}],
        "minItems": 2,
        "maxItems": 2,
    }
    matcher = compiled_of({**pair, "uniqueItems": True}, small).matcher()
    wrong, right = small.encode('["a", "a'), small.encode('["a", "b"]')
    assert matcher.advance(wrong) == len(wrong) - 1
    assert matcher.advance(right[len(wrong) - 1 :]) == len(right) - len(wrong) + 1
    assert matcher.is_accepting


def test_a_schema_of_nothing_is_found_out_by_searching(small):
    pair = {"type": "array", "prefixItems": [{"const": "a"}, {"enum": ["a"]}], "minItems": 2, "maxItems": 2}
    with pytest.raises(UnsatisfiableConstraintError):
        compile_schema(json.dumps({**pair, "uniqueItems": True}), Options("spaced", "any", True), small)


def sample(matcher, tokenizer, rng, longest=120):
    """A text drawn as the runtime does: what is refused is banned, and drawn again."""
    row = np.zeros(9, dtype=np.int32)
    out = []
    for step in range(longest):
        try:
            matcher.fill_mask(row)
        except DeadEndError:
            return None
        allowed = row_to_ids(row, tokenizer.vocab_size).tolist()
        ends = [i for i in allowed if i in tokenizer.eos_token_ids]
        if ends and rng.random() < 0.4:
            return tokenizer.decode_bytes(out).decode()
        closing = [i for i in allowed if tokenizer.token_bytes(i)[:1] in b'"}],' and i not in ends]
        rng.shuffle(allowed)
        order = [*closing, *allowed] if rng.random() < 0.2 + step / longest else allowed
        for token_id in order:
            if token_id not in ends and matcher.advance([token_id]):
                out.append(token_id)
                break
        else:
            return tokenizer.decode_bytes(out).decode() if ends else None
    return None


@pytest.mark.parametrize(
    "schema",
    [
        UNIQUE,
        {"type": "object", "propertyNames": {"pattern": "^a"}, "minProperties": 3, "maxProperties": 3},
        {"oneOf": [{"multipleOf": 3, "type": "integer"}, {"multipleOf": 2, "type": "integer"}]},
        {"type": "string", "format": "idn-hostname", "maxLength": 3},
        {"type": "string", "pattern": "^(?!a)[a-c]{1,4}$"},
        {
            "type": "array",
            "items": {"enum": [1, 2]},
            "contains": {"const": 2},
            "maxContains": 1,
            "maxItems": 4,
        },
    ],
)
def test_every_sample_is_valid(small, schema):
    rule = JsonSchema(schema, key_order="any")
    compiled = compiled_of(schema, small)
    rng = random.Random(4)
    texts = [text for _ in range(25) if (text := sample(compiled.matcher(), small, rng)) is not None]
    assert len(texts) > 5
    check = compiled.check.validator
    assert all(check.is_valid(rule.parse(text)) for text in texts)


def test_forced_text_passes_the_check(small):
    schema = {
        "type": "object",
        "properties": {"name": {"const": "Ann"}, "n": {"type": "integer", "not": {"multipleOf": 5}}},
        "required": ["name", "n"],
        "additionalProperties": False,
    }
    plan, compiled = compile_schema(json.dumps(schema), Options("spaced", "schema", True), small)
    assert plan.way == "checked"
    matcher = compiled.matcher()
    forced = matcher.forced()
    assert small.decode_bytes(forced).startswith(b'{"name": "Ann", "n')
    assert matcher.advance(forced) == len(forced)
