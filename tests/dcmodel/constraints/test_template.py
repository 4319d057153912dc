"""Templates: what they match, how a text is divided among the holes, and how each hole is sampled."""

from __future__ import annotations

import itertools
import random
import re

import pytest
from fakes.fake_engine import loaded_fake
from fakes.small_languages import PATTERNS, WORDS
from fakes.small_tokenizer import small_tokenizer

from dcmodel import LLM
from dcmodel.constraints import (
    Choice,
    Grammar,
    Hole,
    JsonSchema,
    Length,
    MaskFunction,
    NotIn,
    Regex,
    Template,
    Type,
    Until,
    from_dict,
)
from dcmodel.errors import DcModelError, InvalidConstraintError
from dcmodel.local import LocalDcModel
from dcmodel.sampler import NumpyLogitRows

PERSON = Template.of("Name: {name}, age {age}.", name=Regex("[A-Z][a-z]{1,5}"), age=Type(int))


def accepts(rule, tokenizer, text: str) -> bool:
    matcher = rule.compile(tokenizer).matcher()
    ids = tokenizer.encode(text)
    return matcher.advance(ids) == len(ids) and matcher.is_accepting


# -- texts and values -----------------------------------------------------------------------------------


def test_each_hole_has_the_value_of_its_own_rule():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    inner = Template.of("<{x}|{y}>", x=Type(int), y=Choice(["on", "off"]))
    template = Template.of(
        "{kind} {{{number}}} = {record}; {inner}",
        kind=Choice(["sum", "product"]),
        number=Type(float),
        record=JsonSchema(schema),
        inner=inner,
    )
    text = 'sum {2.5} = {"a": 3}; <-7|off>'
    assert template.parse(text) == {
        "kind": "sum",
        "number": 2.5,
        "record": {"a": 3},
        "inner": {"x": -7, "y": "off"},
    }
    assert accepts(template, small_tokenizer(), text)
    assert not accepts(template, small_tokenizer(), text + ">")


def test_neighbours_braces_and_every_script():
    template = Template.of("{{{a}{b}}} é {c}🙂", a=Regex("[a-z]+"), b=Regex("[a-z]+"), c=Regex("[ßñ你]*"))
    assert template.parse("{abc} é 你ß🙂") == {"a": "a", "b": "bc", "c": "你ß"}
    assert template.split("{ab} é 🙂") == ["{", "a", "b", "} é ", "", "🙂"]
    assert accepts(template, small_tokenizer(), "{abc} é 你ß🙂")


def test_names_may_be_those_of_python_arguments():
    template = Template.of("{text} {cls} {self}", text=Type(int), cls=Type(int), self=Type(int))
    assert template.parse("1 2 3") == {"text": 1, "cls": 2, "self": 3}


def test_a_text_of_no_template_is_an_error():
    for text in ("", "Name: Mira, age 3", "Name: mira, age 3.", "Name: Mira, age 3. "):
        with pytest.raises(InvalidConstraintError, match="not a text of the template"):
            PERSON.parse(text)


def random_template(rng: random.Random) -> tuple[Template, list[str]]:
    """And a regular expression of Python's for each part."""
    parts: list[str | Hole] = []
    patterns: list[str] = []
    for place in range(rng.randint(1, 4)):
        if rng.random() < 0.35:
            fixed = rng.choice(["a", "b", "ab", "ca", "abc"])
            parts.append(fixed)
            patterns.append(fixed)
        else:
            pattern = rng.choice(PATTERNS)
            sampling = {"temperature": 1.0} if rng.random() < 0.3 else {}
            parts.append(Hole(f"h{place}", Regex(pattern), sampling))
            patterns.append(pattern)
    return Template(parts), patterns


def divisions(patterns: list[str], text: str) -> list[tuple[int, ...]]:
    """All borders between the parts, by trying every one."""
    found = []
    for borders in itertools.combinations_with_replacement(range(len(text) + 1), len(patterns) - 1):
        edges = (0, *borders, len(text))
        pieces = [text[low:high] for low, high in itertools.pairwise(edges)]
        if all(re.fullmatch(f"(?:{p})", piece) for p, piece in zip(patterns, pieces, strict=True)):
            found.append(borders)
    return found


@pytest.mark.parametrize("seed", range(40))
def test_the_division_is_the_one_with_the_earliest_borders(seed):
    rng = random.Random(seed)
    template, patterns = random_template(rng)
    matching = [word for word in WORDS if divisions(patterns, word)]
    others = [word for word in WORDS if word not in set(matching)]
    tokenizer = small_tokenizer()
    compiled = template.compile(tokenizer)
    for word in rng.sample(matching, min(len(matching), 12)):
        edges = (0, *min(divisions(patterns, word)), len(word))
        assert template.split(word) == [word[low:high] for low, high in itertools.pairwise(edges)]
    for word in rng.sample(others, min(len(others), 6)):
        with pytest.raises(InvalidConstraintError):
            template.split(word)
    for word in rng.sample(WORDS, 40):
        matcher, ids = compiled.matcher(), tokenizer.encode(word)
        is_match = matcher.advance(ids) == len(ids) and matcher.is_accepting
        assert is_match == (word in set(matching))


def test_a_template_is_a_part_of_other_rules():
    tokenizer = small_tokenizer()
    for rule, right, wrong in (
        (PERSON & NotIn(["Mira"]), "Name: Mi, age 3.", "Name: Mira, age 3."),
        (PERSON | Choice(["none"]), "none", "Name: , age 3."),
        (PERSON + Regex("!+"), "Name: Mi, age -3.!!", "Name: Mi, age 3."),
        (~PERSON, "Name: mi, age 3.", "Name: Mi, age 3."),
        (PERSON & Length(1, 17, unit="characters"), "Name: Mi, age 3.", "Name: Mirabe, age 34."),
    ):
        assert accepts(rule, tokenizer, right)
        assert not accepts(rule, tokenizer, wrong)


# -- sampling -------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """The temperature and top-k of each draw of the first row."""
    seen: list[tuple[float, int]] = []
    sample = NumpyLogitRows.sample

    def spy(self, plan):
        seen.append((round(float(plan.temperature[0]), 3), int(plan.top_k[0])))
        return sample(self, plan)

    monkeypatch.setattr(NumpyLogitRows, "sample", spy)
    return seen


NAME = Regex("[A-Z][a-z]{2,5}")


@pytest.mark.parametrize("is_healed", [True, False])
def test_each_hole_is_drawn_with_its_own_sampling(drawn, is_healed):
    template = Template.of(
        "Name: {name}, age {age} {mood}",
        name=Hole("name", NAME, {"temperature": 0, "top_k": 3}),
        age=Hole("age", Regex("[1-9][0-9]{2}"), {"temperature": 1.5}),
        mood=Regex("[a-z]{4}"),
    )
    with LLM.from_model(LocalDcModel(loaded_fake(small_tokenizer()))) as llm:
        names, ages = set(), set()
        for seed in range(6):
            drawn.clear()
            answer = llm.generate(
                "the quick bro", constraint=template, temperature=0.7, seed=seed, heal=is_healed
            )
            assert answer.certificate.valid
            names.add(answer.parsed["name"])
            ages.add(answer.parsed["age"])
            expected = temperatures(llm, template, answer)
            assert drawn == expected
        assert len(names) == 1
        assert len(ages) > 1


def temperatures(llm, template, answer) -> list[tuple[float, int]]:
    """What each token that was not forced had to be drawn with, by where it begins in the text."""
    pieces = template.split(answer.text)
    ends = list(itertools.accumulate(map(len, pieces)))
    hole_at = {0: (0.0, 3), 1: (0.0, 3), 2: (1.5, 0), 3: (1.5, 0), 4: (0.7, 0), 5: (0.7, 0)}
    expected, at = [], -len(answer.healed)
    for token_id, is_forced in zip(answer.token_ids, answer.forced, strict=True):
        if not is_forced:
            # A hole that may go on is left only when something after it was drawn.
            part = next(i for i, end in enumerate(ends) if max(at, 0) < end)
            begin = ends[part] - len(pieces[part])
            if at == begin and part == 2 and len(pieces[1]) < 6:
                part = 1
            expected.append(hole_at[part])
        at += len(llm.tokenizer.token_bytes(token_id))
    return expected


def test_nested_holes_keep_their_sampling_and_add_the_outer_ones(drawn):
    inner = Template([Hole("x", Regex("[a-z]{4}"), {"temperature": 0.25})])
    template = Template([Hole("a", inner, {"top_k": 5}), "-", Hole("b", Regex("[0-9]{3}"))])
    with LLM.from_model(LocalDcModel(loaded_fake(small_tokenizer()))) as llm:
        answer = llm.generate("yes", constraint=template, temperature=1.0, seed=2, heal=False)
    assert set(answer.parsed) == {"a", "b"}
    assert (0.25, 5) in drawn
    assert (1.0, 0) in drawn
    assert set(drawn) == {(0.25, 5), (1.0, 0)}


@pytest.mark.parametrize(
    "join", [lambda t: t + Regex("!{2}"), lambda t: Choice(["x: "]) + t, lambda t: t & NotIn(["qq"])]
)
def test_sampling_is_kept_where_a_template_is_a_part(drawn, join):
    template = Template([Hole("a", Regex("[a-z]{4}"), {"temperature": 0.25})])
    with LLM.from_model(LocalDcModel(loaded_fake(small_tokenizer()))) as llm:
        answer = llm.generate("yes", constraint=join(template), temperature=1.0, seed=2, heal=False)
    assert answer.certificate.valid
    assert (0.25, 0) in drawn


def test_a_fork_and_a_rollback_know_the_hole_that_they_are_in():
    tokenizer = small_tokenizer()
    template = Template(
        [Hole("a", Regex("[a-z]{2}"), {"temperature": 0.5}), "-", Hole("b", Regex("[0-9]"), {"top_k": 2})]
    )
    matcher = template.compile(tokenizer).matcher()
    ids = tokenizer.encode_bytes(b"q") + tokenizer.encode_bytes(b"z") + tokenizer.encode_bytes(b"-")
    assert matcher.sampling == {"temperature": 0.5}
    assert matcher.advance(ids) == 3
    assert matcher.sampling == {"top_k": 2}
    twin = matcher.fork()
    twin.rollback(2)
    assert twin.sampling == {"temperature": 0.5}
    assert matcher.sampling == {"top_k": 2}
    assert matcher.advance(tokenizer.encode("7")) == 1
    assert matcher.is_finished


# -- errors and the wire --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Template([]), "empty"),
        (lambda: Template([""]), "empty"),
        (lambda: Template("Name: {name}"), "Template.of"),
        (lambda: Template.of("{a} {b}", a=Type(int)), "no constraint"),
        (lambda: Template.of("{a}", a=Type(int), b=Type(int)), "no hole"),
        (lambda: Template.of("{a} {a}", a=Type(int)), "no constraint"),
        (lambda: Template.of("{}", a=Type(int)), "no constraint"),
        (lambda: Template([Hole("a", Type(int)), Hole("a", Type(int))]), "two holes"),
        (lambda: Template.of("a } b"), "single '}'"),
        (lambda: Template.of("a { b"), "single '{'"),
        (lambda: Hole("", Type(int)), "name"),
        (lambda: Hole("a", "[a-z]"), "for a constraint"),  # type: ignore[arg-type]
        (lambda: Hole("a", MaskFunction(lambda ids: None)), "about tokens"),
        (lambda: Hole("a", Length(1, 2, unit="tokens")), "about tokens"),
        (lambda: Hole("a", Type(int), {"seed": 3}), "sets 'seed'"),
        (lambda: Hole("a", Type(int), {"temperature": -1}), "temperature"),
        (lambda: Hole("a", Type(int), {"temperature": float("nan")}), "temperature"),
        (lambda: Hole("a", Type(int), {"top_p": 1.5}), "top_p"),
        (lambda: Hole("a", Type(int), {"top_k": 2.5}), "top_k"),
        (lambda: Hole("a", Type(int), {"top_p": 0}), "top_p"),
        (lambda: Template([3]), "a part of the template"),  # type: ignore[list-item]
        (lambda: Template([{"name": "a"}]), "the fields"),
    ],
)
def test_what_is_wrong_is_said(make, message):
    with pytest.raises(InvalidConstraintError, match=re.escape(message)):
        make()


def test_a_hole_that_nothing_satisfies_is_refused_when_compiled():
    template = Template.of("a{x}b", x=Regex("[a-z]") & Regex("[0-9]"))
    with pytest.raises(DcModelError):
        template.compile(small_tokenizer())


def test_the_wire_form_keeps_everything():
    template = Template(
        [
            "Say: ",
            Hole("a", Regex("[a-z]+"), {"temperature": 0.5, "top_k": 3}),
            Hole("b", Until(["."])),
            Hole("c", Template.of("{x}!", x=Grammar('start: "x"+'))),
        ]
    )
    twin = from_dict(template.to_dict())
    assert twin == template
    assert hash(twin) == hash(template)
    assert twin.parse("Say: ab c.xx!") == template.parse("Say: ab c.xx!")
    assert twin != Template(["Say: ", *template.pieces[2:]])
