from __future__ import annotations

import contextlib
import datetime
import enum
import itertools
import json
import math
import random
import re
import time
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

import jsonschema
import numpy as np
import pydantic
import pytest

from dcmodel.constraints import JsonSchema
from dcmodel.constraints.schema.cases import exclude_each_other
from dcmodel.constraints.schema.formats import FORMATS
from dcmodel.errors import (
    ConstraintRuntimeError,
    DeadEndError,
    InvalidConstraintError,
    UnsatisfiableConstraintError,
    UnsupportedConstraintError,
)
from dcmodel.mask import row_to_ids

DATA = Path(__file__).parents[4] / "shared" / "data"
OBJECT = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "array", "items": {"type": "boolean"}}},
    "required": ["a"],
    "additionalProperties": False,
}


def accepts(schema, text, tokenizer, **options):
    matcher = JsonSchema(schema, **options).compile(tokenizer).matcher()
    token_ids = tokenizer.encode(text)
    return matcher.advance(token_ids) == len(token_ids) and matcher.is_accepting


# -- the layout of the text ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("whitespace", "accepted", "refused"),
    [
        (
            "spaced",
            ['{"a": 1, "b": [true, false]}'],
            ['{"a":1}', '{"a": 1 }', '{ "a": 1}', '{"a":  1}', '{"a": 1}\n'],
        ),
        ("compact", ['{"a":1,"b":[true,false]}'], ['{"a": 1}', '{"a":1, "b":[]}']),
        ("bounded", ['{"a":1}', '{\n\t"a" : 1 ,  "b": [ ]\n}'], ['{"a":' + " " * 21 + "1}", '{"a": 1}\n']),
        ("flexible", ['{"a":1}', '{"a":' + " \n" * 50 + "1}"], ['{"a": 1}\n']),
    ],
)
def test_the_layout(small, whitespace, accepted, refused):
    for text in accepted:
        assert accepts(OBJECT, text, small, whitespace=whitespace), text
    for text in refused:
        assert not accepts(OBJECT, text, small, whitespace=whitespace), text


def test_the_default_layout_is_that_of_json_dumps_and_mostly_forced(small):
    value = {"a": 12, "b": [True]}
    matcher = JsonSchema(OBJECT).compile(small).matcher()
    assert small.decode_bytes(matcher.forced()) == b'{"a": '
    assert matcher.advance(small.encode(json.dumps(value))) > 0
    assert matcher.is_finished


def test_whitespace_never_goes_on_for_ever_unless_asked_for(small, masks):
    blank = set(b" \t\n\r")
    for whitespace in ("spaced", "compact", "bounded"):
        matcher = JsonSchema(OBJECT, whitespace=whitespace).compile(small).matcher()
        matcher.advance([ord("{")])
        for _ in range(30):
            blanks = masks(matcher, small) & blank
            if not blanks:
                break
            matcher.advance([min(blanks)])
        else:
            pytest.fail(f"{whitespace} allows 30 blanks")


def test_a_layout_must_be_known():
    with pytest.raises(InvalidConstraintError, match="spaced, compact, bounded, flexible"):
        JsonSchema({}, whitespace="lots")


# -- keys in any order, and formats as remarks -----------------------------------------------------


def test_keys_in_any_order(small):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}, "c": {"enum": ["x"]}},
        "required": ["a", "c"],
        "additionalProperties": False,
    }
    members = {"a": "1", "b": "true", "c": '"x"'}
    for size in range(4):
        for keys in itertools.permutations(members, size):
            text = "{" + ", ".join(f'"{key}": {members[key]}' for key in keys) + "}"
            is_valid = {"a", "c"} <= {*keys}
            assert accepts(schema, text, small, key_order="any") == is_valid, text
            assert accepts(schema, text, small) == (is_valid and [*keys] == sorted(keys)), text
    assert not accepts(schema, '{"a": 1, "c": "x", "a": 1}', small, key_order="any")


def test_more_keys_than_the_engines_parameters_have_bits(small):
    names = [f"k{i}" for i in range(90)]
    schema = {"properties": {name: {"type": "integer"} for name in names}, "required": names[40:60]}
    keys = names[40:60]
    random.Random(1).shuffle(keys)
    keys += ["k89", "k0", "other"]
    text = json.dumps(dict.fromkeys(keys, 1))
    assert accepts(schema, text, small, key_order="any")
    assert not accepts(schema, text.replace('"k45": 1, ', ""), small, key_order="any")
    assert not accepts(schema, text.replace('"k0": 1', '"k0": "a"'), small, key_order="any")


@pytest.mark.parametrize("order", ["schema", "any"])
def test_a_member_that_is_counted(small, order):
    schema = {"type": "object", "properties": {key: {} for key in "abcd"}, "additionalProperties": False}
    schema |= {"minProperties": 2, "maxProperties": 3}
    for size in range(5):
        text = json.dumps(dict.fromkeys("abcd"[:size], 1))
        assert accepts(schema, text, small, key_order=order) == (2 <= size <= 3), text


def test_the_last_member_is_not_followed_by_a_comma(small, masks):
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "additionalProperties": False}
    matcher = JsonSchema(schema, key_order="any").compile(small).matcher()
    assert matcher.advance(small.encode('{"a": 1')) == len(small.encode('{"a": 1'))
    assert b"," not in {small.token_bytes(i)[:1] for i in masks(matcher, small)}


def test_a_draft_4_integer_has_no_point(small):
    for draft, is_integer in (("http://json-schema.org/draft-04/schema#", False), (None, True)):
        schema = {"type": "integer", "minimum": 1, **({"$schema": draft} if draft else {})}
        assert accepts(schema, "2.0", small, key_order="any") == is_integer
        assert accepts(schema, "2", small, key_order="any")


def test_formats_hold_or_are_remarks(small):
    schema = {"properties": {"at": {"format": "date"}, "who": {"format": "idn-email"}}}
    text = '{"at": "soon", "who": "me"}'
    assert not accepts(schema, text, small)
    assert accepts(schema, text, small, formats="annotate")
    assert accepts({"format": "no such format"}, '"x"', small)


def test_the_options_are_checked_and_belong_to_the_rule():
    rules = [JsonSchema({}), JsonSchema({}, key_order="any"), JsonSchema({}, formats="annotate")]
    assert len({rule.key for rule in rules}) == 3
    assert rules[1].to_dict() == {
        "kind": "json_schema",
        "schema": {},
        "whitespace": "spaced",
        "key_order": "any",
    }
    assert rules[2].to_dict()["formats"] == "annotate"
    with pytest.raises(InvalidConstraintError, match="schema, any"):
        JsonSchema({}, key_order="random")
    with pytest.raises(InvalidConstraintError, match="assert, annotate"):
        JsonSchema({}, formats="ignore")


# -- where schemas come from -----------------------------------------------------------------------


def test_a_schema_may_be_a_dict_a_boolean_or_text(small):
    assert JsonSchema(json.dumps(OBJECT)) == JsonSchema(OBJECT)
    assert accepts(True, '{"x": [1]}', small)
    assert accepts("true", "null", small)
    assert JsonSchema(OBJECT).schema == OBJECT
    with pytest.raises(UnsatisfiableConstraintError, match="`false`"):
        JsonSchema(False).compile(small)


def test_the_order_of_properties_belongs_to_the_rule():
    turned = {**OBJECT, "properties": dict(reversed(OBJECT["properties"].items()))}
    assert JsonSchema(turned) != JsonSchema(OBJECT)


def test_malformed_text_is_an_error_with_its_position():
    with pytest.raises(InvalidConstraintError, match="line 2 column 7") as caught:
        JsonSchema('{\n "a": }')
    assert caught.value.position == 8
    assert '   "a": }\n        ^' in str(caught.value)


@pytest.mark.parametrize("schema", [5, None, [1], {"a": math.nan}, {"a": {1}}, {"a": object()}, "5", "null"])
def test_what_is_no_schema_is_an_error(schema):
    with pytest.raises(InvalidConstraintError):
        JsonSchema(schema)


def test_a_later_change_of_the_dict_changes_nothing(small):
    schema = {"enum": ["a"]}
    rule = JsonSchema(schema)
    schema["enum"].append("b")
    matcher = rule.compile(small).matcher()
    assert matcher.advance(small.encode('"b"')) < 3
    rule.schema["enum"].append("c")
    assert rule.schema == {"enum": ["a"]}


# -- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1e400", "-1e400", "0." + "1" * 5000, "1E-99999", "-0", "[1e999999999]"])
def test_odd_numbers_do_not_break_parse(small, text):
    assert accepts({}, text, small)
    JsonSchema({}).parse(text)


def test_a_number_too_long_for_int_keeps_its_value(small):
    digits = "7" * 6000
    assert accepts({"type": "integer"}, digits, small)
    assert JsonSchema({}).parse(f"[{digits}]") == [Decimal(digits)]


def test_a_text_that_python_cannot_read_is_a_typed_error():
    with pytest.raises(ConstraintRuntimeError, match="cannot be made a value"):
        JsonSchema({}).parse("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ConstraintRuntimeError):
        JsonSchema({}).parse("{")


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: int = pydantic.Field(ge=0, le=9)


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    name: str = pydantic.Field(min_length=1, max_length=20)


class Order(pydantic.BaseModel):
    id: UUID
    colour: Colour
    born: datetime.date
    at: datetime.datetime | None = None
    pet: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]
    tags: list[str] = pydantic.Field(default=[], max_length=3)
    price: float = pydantic.Field(ge=0, le=1000)
    secret: pydantic.SecretStr = pydantic.SecretStr("")
    parent: Order | None = None


def test_a_pydantic_model_makes_the_round_trip(small):
    order = Order(
        id=UUID(int=5),
        colour=Colour.RED,
        born=datetime.date(2024, 2, 29),
        at=datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC),
        pet=Dog(kind="dog", name="Ré"),
        price=12.5,
        tags=["x"],
        parent=None,
    )
    rule = JsonSchema(Order)
    text = json.dumps(order.model_dump(mode="json"), ensure_ascii=False)
    matcher = rule.compile(small).matcher()
    token_ids = small.encode(text)
    assert matcher.advance(token_ids) == len(token_ids)
    assert matcher.is_finished
    parsed = rule.parse(text)
    assert isinstance(parsed, Order)
    assert (parsed.pet, parsed.born, parsed.at) == (order.pet, order.born, order.at)
    assert not accepts(Order.model_json_schema(), text.replace("02-29", "02-30"), small)
    assert rule == JsonSchema(Order.model_json_schema())


def test_every_sample_of_a_model_is_an_instance(small):
    rule = JsonSchema(Order)
    compiled = rule.compile(small)
    rng = random.Random(1)
    texts = [text for _ in range(30) if (text := sample(compiled.matcher(), small, rng)) is not None]
    assert len(texts) > 15
    for text in texts:
        assert isinstance(rule.parse(text), Order)


def test_what_a_model_refuses_is_a_typed_error_with_its_cause():
    class Even(pydantic.BaseModel):
        n: int

        @pydantic.field_validator("n")
        @classmethod
        def is_even(cls, n: int) -> int:
            if n % 2:
                raise ValueError("odd")
            return n

    rule = JsonSchema(Even)
    assert rule.parse('{"n": 2}') == Even(n=2)
    with pytest.raises(ConstraintRuntimeError, match="odd") as caught:
        rule.parse('{"n": 3}')
    assert isinstance(caught.value.__cause__, pydantic.ValidationError)


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"$ref": "http://example.com/x"}, "$ref"),
        ({"$ref": "#/nowhere"}, "$ref"),
        ({"$ref": "#nowhere"}, "$ref"),
        ({"$ref": "file:///etc/passwd"}, "$ref"),
        ({"properties": {"a": {"items": {"$dynamicRef": "http://example.com/y#z"}}}}, "$ref"),
        ({"uniqueItems": True, "items": {"pattern": "^(b{1000}){100000}$"}}, "pattern"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(small, schema, keyword):
    with pytest.raises(UnsupportedConstraintError, match=re.escape(f"`{keyword}")) as caught:
        JsonSchema(schema).compile(small)
    assert caught.value.keyword == keyword
    assert caught.value.remedy


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"enum": []},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"allOf": [{"type": "string", "pattern": "^a+$"}, {"type": "string", "pattern": "b$"}]},
        {"type": "object", "required": ["a"], "properties": {"a": False}},
        {"type": "string", "format": "date", "minLength": 30},
    ],
)
def test_a_schema_of_nothing_is_unsatisfiable(small, schema):
    with pytest.raises(UnsatisfiableConstraintError, match="no JSON value is valid"):
        JsonSchema(schema).compile(small)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "foo"}, "#/type"),
        ({"minimum": "x"}, "minimum"),
        ({"properties": []}, "`properties`"),
        ({"properties": {"a": {"required": True}}}, "#/properties/a/required"),
        ({"anyOf": {"a": 1}}, "`anyOf`"),
        ({"pattern": 5}, "`pattern`"),
        ({"type": "string", "pattern": "a(b"}, "`pattern`.*unmatched parenthesis"),
        ({"minItems": -1}, "minItems"),
        ({"a": "\ud800", "enum": ["\ud800"]}, "schema"),
    ],
)
def test_a_wrong_schema_is_an_error(small, schema, message):
    with pytest.raises(InvalidConstraintError, match=message) as caught:
        JsonSchema(schema).compile(small)
    assert not isinstance(caught.value, UnsupportedConstraintError)


def test_a_schema_nested_too_deeply_is_an_error(small):
    schema = {}
    for _ in range(400):
        schema = {"items": schema}
    with pytest.raises(InvalidConstraintError):
        JsonSchema(schema).compile(small)
    with pytest.raises(InvalidConstraintError):
        JsonSchema("[" * 100_000)


# -- exact where the engine alone is not -----------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"properties": {"a": {"type": "integer"}}}, '{"\\u0061": "x"}'),
        ({"patternProperties": {"^a": {"type": "integer"}}}, '{"\\u0061": "x"}'),
        ({"properties": {'q"': {"type": "integer"}}}, '{"q\\u0022": "x"}'),
        ({"properties": {"a": {"type": "integer"}}}, '{"b": 1, "a": "x"}'),
        ({"x-guidance": {"lenient": True}, "type": "array", "items": {"type": "integer"}}, '["a"]'),
        ({"x-guidance": {"item_separator": ";"}, "type": "array"}, "[1;2]"),
        ({"x-guidance": {"whitespace_pattern": "[ab]+"}, "type": "array"}, "[a1, 2]"),
        ({"type": "string", "format": "date"}, '"2021-02-29"'),
        ({"format": "date-time"}, '"2021-02-28T23:59:60Z"'),
        ({"format": "time"}, '"24:00:00Z"'),
        ({"pattern": r"^\d$"}, '"٣"'),
        ({"pattern": "^a|b$"}, '"xa"'),
        ({"patternProperties": {r"^\w$": {"type": "integer"}}, "additionalProperties": False}, '{"é": 1}'),
        ({"$defs": {"a": {"$id": "http://x/y", "$ref": "#/z", "z": {"const": 1}}}, "$ref": "#/$defs/a"}, "2"),
        ({"format": "hostname"}, '"xn--x"'),
        ({"format": "hostname"}, json.dumps(".".join(["a" * 60] * 5))),
    ],
)
def test_what_the_engine_would_accept_wrongly(small, schema, text):
    assert not accepts(schema, text, small)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "array", "uniqueItems": False}, "[1, 1]"),
        ({"if": True, "minContains": 1, "dependentRequired": {}}, "[]"),
        ({"type": "string", "minLength": 2.0, "maxLength": 3.0}, '"ab"'),
        ({"type": "string", "format": "password"}, '"x"'),
        ({"type": "string", "format": "date", "pattern": "^2"}, '"2024-02-29"'),
        ({"type": "object", "minProperties": 1, "required": ["a"]}, '{"a": 1}'),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, "null"),
        ({"oneOf": [{"const": 1}, {"const": 2}], "anyOf": [{"type": "integer"}]}, "2"),
        ({"$defs": {"a/b": {"enum": ["x"]}}, "oneOf": [{"$ref": "#/$defs/a~1b"}, {"type": "null"}]}, '"x"'),
    ],
)
def test_what_the_engine_would_refuse_without_need(small, schema, text):
    assert accepts(schema, text, small)


@pytest.mark.parametrize("keyword", ["items", "not", "allOf", "anyOf", "additionalProperties"])
@pytest.mark.parametrize("depth", [20, 120, 240, 800])
def test_deep_schemas_compile_or_are_refused(small, keyword, depth):
    schema = {"uniqueItems": True}
    for _ in range(depth):
        schema = {keyword: [schema, {"maxItems": 3}] if keyword in ("allOf", "anyOf") else schema}
    try:
        compiled = JsonSchema(schema, key_order="any").compile(small)
    except InvalidConstraintError:
        assert depth > 20
        return
    assert compiled.matcher().advance([ord("[")]) == 1


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"const": 1}, "minItems": 10**9},
        {"type": "array", "uniqueItems": True, "maxItems": 10**12},
        {"type": "object", "minProperties": 10**9},
        {"type": "string", "minLength": 10**9, "format": "iri"},
        {"enum": [f"word {number}" for number in range(20_000)]},
        {"properties": {f"p{number}": {"type": "integer"} for number in range(2_000)}},
        {"type": "string", "pattern": "^(a+)+(?!b)$"},
        {"type": "integer", "minimum": 10**30, "multipleOf": 7**40},
    ],
    ids=lambda schema: str(schema)[:40],
)
def test_large_schemas_in_any_order_compile_soon_or_are_refused(small, schema):
    begin = time.process_time()
    with contextlib.suppress(InvalidConstraintError):
        JsonSchema(schema, key_order="any").compile(small)
    assert time.process_time() - begin < 20


@pytest.mark.parametrize(
    ("cases", "exclusive"),
    [
        ([{"type": "string"}, {"type": ["null", "integer"]}], True),
        ([{"type": "integer"}, {"type": "number"}], False),
        ([{"const": 1}, {"const": 1.0}], False),
        ([{"const": 1}, {"const": True}], True),
        ([{"enum": ["a", "b"]}, {"enum": ["c"]}, {"const": "b"}], False),
        ([{"enum": [[1], {"a": 1.0}]}, {"const": {"a": 1}}], False),
        ([{"const": "a"}, {"type": "integer"}], True),
        ([{}, {"type": "integer"}], False),
        ([True, {"type": "integer"}], False),
        ([{"type": "integer"}], False),
        ([{"type": "object", "required": ["k"], "properties": {"k": {"const": k}}} for k in "abc"], True),
        ([{"type": "object", "properties": {"k": {"const": k}}} for k in "abc"], False),
        ([{"required": ["k"], "properties": {"k": {"const": k}}} for k in "abc"], False),
        (
            [
                {"type": "object", "required": ["k"], "properties": {"k": {"type": t}}}
                for t in ("null", "array")
            ],
            True,
        ),
    ],
)
def test_whether_cases_exclude_each_other(cases, exclusive):
    assert exclude_each_other(cases) == exclusive


def test_the_date_pattern_is_the_calendar():
    (schema,) = FORMATS["date"]
    pattern = re.compile(schema["pattern"])
    years = [*range(0, 30), *range(95, 105), *range(396, 405), *range(1896, 2105), 9999]
    for year in years:
        for month in range(14):
            for day in (0, 1, 9, 28, 29, 30, 31, 32):
                text = f"{year:04}-{month:02}-{day:02}"
                try:
                    datetime.date.fromisoformat(text)
                    is_date = True
                except ValueError:
                    is_date = False
                assert bool(pattern.search(text)) == is_date, text


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^a*$", "minLength": 10**9},
        {"type": "string", "pattern": "^(aaaaaaaaaa){1000000}$"},
        {"type": "array", "items": {"const": 1}, "minItems": 10**9},
        {"const": "a" * 100_000},
        {"patternProperties": {"^(a{1000}){10000}$": {}}, "additionalProperties": False},
    ],
    ids=lambda schema: str(schema)[:40],
)
def test_schemas_that_force_very_long_texts_are_compiled_at_once(small, masks, schema):
    begin = time.process_time()
    matcher = JsonSchema(schema).compile(small).matcher()
    for _ in range(30):
        allowed = masks(matcher, small)
        assert matcher.advance([min(allowed)]) == 1
    assert time.process_time() - begin < 5


# -- many schemas ----------------------------------------------------------------------------------


def load(path):
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def sample(matcher, tokenizer, rng, longest=300):
    """A random text, which is driven to its end; None if it does not come to it.

    What an exact matcher allows it accepts; of others a refused token is banned, and drawn again.
    """
    row = np.zeros(9, dtype=np.int32)
    out = []
    for step in range(longest):
        try:
            matcher.fill_mask(row)
        except DeadEndError:
            assert matcher.may_dead_end
            return None
        allowed = row_to_ids(row, tokenizer.vocab_size).tolist()
        ends = [i for i in allowed if i in tokenizer.eos_token_ids]
        plain = [i for i in allowed if i not in ends]
        if not plain or (ends and rng.random() < 0.3):
            return tokenizer.decode_bytes(out).decode() if ends else None
        plain = [i for i in plain if i < 128 or i >= 256] or plain
        closing = [i for i in plain if tokenizer.token_bytes(i)[:1] in b'"}],']
        rng.shuffle(plain)
        if closing and rng.random() < min(0.9, 0.15 + step / longest):
            plain = [*rng.sample(closing, len(closing)), *plain]
        accepted = next((i for i in plain[:40] if matcher.advance([i])), None)
        assert accepted == plain[0] or not matcher.is_exact
        if accepted is None:
            return None
        out.append(accepted)
    return None


@pytest.mark.parametrize("name", ["jsonschemabench_sample", "json_schema_test_suite_sample"])
@pytest.mark.parametrize(("key_order", "least_right"), [("any", 0.92), ("schema", 0.85)])
def test_collected_schemas(small, name, key_order, least_right):
    """Nearly all are fully right; nothing invalid is accepted; what is refused is refused by name.

    A third of them; `benchmarks.json_schema` counts all.
    """
    rows = load(DATA / f"{name}.jsonl")[::3]
    right, refused = 0, []
    for row in rows:
        formats = "annotate" if row.get("file") == "format" else "assert"
        try:
            compiled = JsonSchema(row["schema"], key_order=key_order, formats=formats).compile(small)
        except UnsatisfiableConstraintError:
            assert not any(test["valid"] for test in row["tests"])
            right += 1
            continue
        except UnsupportedConstraintError as error:
            refused.append(error.keyword)
            continue
        verdicts = []
        for test in row["tests"]:
            token_ids = small.encode(json.dumps(test["data"], ensure_ascii=False))
            matcher = compiled.matcher()
            is_accepted = matcher.advance(token_ids) == len(token_ids) and matcher.is_accepting
            assert test["valid"] or not is_accepted, (row.get("id", row.get("desc")), test["data"])
            verdicts.append(is_accepted == test["valid"])
        right += all(verdicts)
    assert right >= least_right * len(rows)
    assert set(refused) <= {"$ref"}


@pytest.mark.parametrize("name", ["jsonschemabench_sample", "json_schema_test_suite_sample"])
def test_what_is_generated_for_collected_schemas_is_valid(small, name):
    checked = 0
    for index, row in enumerate(load(DATA / f"{name}.jsonl")[::4]):
        schema = row["schema"]
        try:
            compiled = JsonSchema(schema, key_order="any" if index % 2 else "schema").compile(small)
        except (UnsatisfiableConstraintError, UnsupportedConstraintError):
            continue
        text = sample(compiled.matcher(), small, random.Random(index))
        if text is None:
            continue
        validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
        try:
            validator(schema, format_checker=validator.FORMAT_CHECKER).validate(json.loads(text))
        except re.error:  # a pattern that Python cannot read
            continue
        checked += 1
    assert checked > 25
