"""Canonical tokens: what comes out is what the tokenizer makes of its text, and the rule comes first."""

from __future__ import annotations

import functools
import json
import random

import pytest
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel import LLM
from dcmodel.constraint import CompiledConstraint, Constraint
from dcmodel.constraints import Choice, Grammar, JsonSchema, Length, NotIn, Regex, Template
from dcmodel.constraints.canonical import CanonicalCompiled, CanonicalMatcher, CanonicalPairs
from dcmodel.constraints.healing import AnyTokens, heal
from dcmodel.constraints.plain import PlainMatcher, row_of
from dcmodel.local import LocalDcModel
from dctokenizers import Tokenizer, load
from lmql_backends.tiny import MODEL_DIR

from .conftest import DATA, make_tokenizer, mask_of

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
RULES: tuple[Constraint, ...] = (
    Regex("[a-z ]{3,20}"),
    Regex("(yes|no)( (yes|no)){0,4}"),
    Choice([" yes", "no", "maybe not", "answer: 12"]),
    JsonSchema(SCHEMA),
    Regex("[a-zA-Z ]{5,20}") & NotIn(["e", "qu"]),
    Length(3, 9, unit="words") & Regex("[a-z ]{1,40}"),
    Grammar('start: "(" start ")" | "x" | start "+" start'),
    Template.of("Name: {name}, age {age}", name=Regex("[A-Z][a-z]{1,6}"), age=Regex("[0-9]{1,3}")),
)


class TokensInOrder(CompiledConstraint):
    """Exactly these tokens, as no rule about text would ask for them."""

    def __init__(self, tokenizer: Tokenizer, token_ids: list[int]) -> None:
        self.tokenizer = tokenizer
        self.token_ids = token_ids

    def matcher(self) -> TokensInOrderMatcher:
        return TokensInOrderMatcher(self)


class TokensInOrderMatcher(PlainMatcher):
    def __init__(self, compiled: TokensInOrder) -> None:
        super().__init__(compiled.tokenizer)
        self._compiled = compiled

    def _allows(self, token_id: int) -> bool:
        return self._compiled.token_ids[len(self._token_ids) :][:1] == [token_id]

    def _fill(self, row) -> None:
        row[:] = row_of(self._compiled.token_ids[len(self._token_ids) :][:1], self._vocab_size)

    @property
    def is_accepting(self) -> bool:
        return self._token_ids == self._compiled.token_ids

    @property
    def is_finished(self) -> bool:
        return self.is_accepting

    def fork(self) -> TokensInOrderMatcher:
        twin = TokensInOrderMatcher(self._compiled)
        twin._token_ids = self._token_ids.copy()
        return twin


@functools.cache
def tokenizer_of(name: str) -> Tokenizer:
    if name == "trained":
        return small_tokenizer()
    if name == "small":
        return make_tokenizer()
    if name == "embedded":
        return load(MODEL_DIR)
    path = DATA / "tokenizers" / name
    if not path.exists():
        pytest.skip(f"{name} is not there")
    return load(path)


def is_canonical(tokenizer: Tokenizer, token_ids: list[int]) -> bool:
    """Also where the text ends inside a character, or has special tokens: of those nothing is said."""
    ids = [token_id for token_id in token_ids if token_id not in tokenizer.eos_token_ids]
    if not tokenizer.special_token_ids.isdisjoint(ids):
        return True
    try:
        return tokenizer.encode(tokenizer.decode_bytes(ids).decode()) == ids
    except UnicodeDecodeError:
        return True


def walk(matcher: CanonicalMatcher, tokenizer: Tokenizer, rng: random.Random) -> tuple[list[int], bool]:
    """A random way, drawn as a step draws; and whether tokens that are not canonical had to be taken."""
    ids: list[int] = []
    ends = set(tokenizer.eos_token_ids)
    was_lenient = False
    while not matcher.is_finished and len(ids) < 40:
        likely = sorted(mask_of(matcher, tokenizer) - ends)
        if matcher.is_accepting and (rng.random() < 0.3 or not likely):
            break
        drawn = rng.sample(likely, min(6, len(likely)))
        token_id = next((item for item in drawn if matcher.advance([item])), None)
        if token_id is None:
            ways = matcher.ways_out()
            assert ways, "a dead end"
            was_lenient = was_lenient or matcher._lenient == len(matcher._token_ids)
            token_id = rng.choice(ways)
            assert matcher.advance([token_id]) == 1
        ids.append(token_id)
    return ids, was_lenient


@pytest.mark.parametrize("name", ["trained", "small", "embedded", "cl100k_base.tiktoken.gz"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_what_comes_out_is_what_the_tokenizer_makes(name, rule):
    tokenizer = tokenizer_of(name)
    compiled = CanonicalCompiled(rule.compile(tokenizer), tokenizer, CanonicalPairs(tokenizer))
    right = lenient = 0
    walks = 4 if name.startswith("cl100k") else 25
    for seed in range(walks):
        matcher = compiled.matcher()
        ids, was_lenient = walk(matcher, tokenizer, random.Random(seed))
        lenient += was_lenient
        right += is_canonical(tokenizer, ids) or was_lenient
        check = rule.compile(tokenizer).matcher()
        assert check.advance(ids) == len(ids)
        assert check.is_accepting == matcher.is_accepting
    # What is split at first is seen by no pair: rare.
    assert right >= walks - 1
    assert lenient <= walks // 2


def test_few_tokens_are_refused_and_what_is_taken_is_valid():
    """Through the whole stack, prompts healed or not: the text keeps its rule, and is canonical."""
    prompts = ("the name", "answer: ", 'say {"', "the quick brown fo")
    with LLM.from_model(LocalDcModel(loaded_fake(small_tokenizer()))) as fake, LLM() as embedded:
        for llm in (fake, embedded):
            for rule in (None, *RULES[:5]):
                for seed, prompt in enumerate(prompts):
                    options = {
                        "max_tokens": 24,
                        "temperature": 1.5 * (seed % 2),
                        "seed": seed,
                        "constraint": rule,
                    }
                    for is_healed in (True, False):
                        answer = llm.generate(prompt, canonical=True, heal=is_healed, **options)
                        assert is_canonical(llm.tokenizer, list(answer.token_ids)), (prompt, rule, is_healed)
                        if rule is not None and answer.finish_reason == "stop":
                            assert answer.certificate.valid


def test_the_first_token_fits_the_healed_prompts_last_one():
    tokenizer = small_tokenizer()
    pairs = CanonicalPairs(tokenizer)
    (the,) = tokenizer.encode("the")
    blank, name = tokenizer.encode(" ")[0], tokenizer.encode(" name")[0]
    matcher = CanonicalCompiled(AnyTokens(tokenizer), tokenizer, pairs).matcher_after(
        tokenizer.encode("an")[0]
    )
    (swer,) = tokenizer.encode("swer")
    (answer,) = tokenizer.encode("answer")[-1:]
    assert answer == swer
    assert matcher.fork().advance([swer]) == 1
    assert matcher.fork().advance([name]) == 1
    after_blank = CanonicalCompiled(AnyTokens(tokenizer), tokenizer, pairs).matcher_after(blank)
    assert after_blank.advance([tokenizer.encode("name")[0]]) == 0
    assert after_blank.advance([the]) == 0
    after_blank.rollback(0)
    assert after_blank.advance([name]) == 1
    after_blank.rollback(1)
    assert after_blank.advance([the]) == 0


def test_the_text_comes_first():
    """Where the rule wants what no usual tokens spell: a piece of a token, after a special token or not."""
    tokenizer = small_tokenizer()
    pairs = CanonicalPairs(tokenizer)
    matcher = CanonicalCompiled(AnyTokens(tokenizer), tokenizer, pairs).matcher()
    (n,), (ame) = tokenizer.encode("n"), tokenizer.encode("ame")
    assert matcher.advance([n]) == 1
    assert matcher.advance(ame) == 0
    only = CanonicalCompiled(TokensInOrder(tokenizer, [n, *ame]), tokenizer, pairs).matcher()
    assert only.advance([n]) == 1 or only.ways_out() == [n]
    while not only.is_finished:
        (way,) = only.ways_out()
        assert only.advance([way]) == 1
    assert only._token_ids == [n, *ame]


def test_forced_tokens_are_those_of_the_tokenizer():
    tokenizer = tokenizer_of("embedded")
    rule = Choice([" yes", " maybe", "no"])
    matcher = CanonicalCompiled(rule.compile(tokenizer), tokenizer, CanonicalPairs(tokenizer)).matcher()
    blank = tokenizer.encode(" ")[0]
    # After the blank alone `yes` and `maybe` are no usual tokens.
    assert matcher.advance([blank]) == 0
    assert matcher.advance(tokenizer.encode(" yes")) == 1
    assert matcher.is_finished
    schema = CanonicalCompiled(JsonSchema(SCHEMA).compile(tokenizer), tokenizer, CanonicalPairs(tokenizer))
    matcher = schema.matcher()
    run = matcher.forced()
    assert run == tokenizer.encode(tokenizer.decode(run))
    assert matcher.advance(run) == len(run) > 2


def test_a_fork_and_a_rollback_keep_their_own_state():
    tokenizer = tokenizer_of("embedded")
    compiled = CanonicalCompiled(JsonSchema(SCHEMA).compile(tokenizer), tokenizer, CanonicalPairs(tokenizer))
    ids = tokenizer.encode(json.dumps({"name": "Mira", "age": 34}))
    matcher = compiled.matcher()
    assert matcher.advance(ids[:4]) == 4
    twin = matcher.fork()
    assert twin.advance(ids[4:]) == len(ids) - 4
    assert twin.is_accepting
    assert not matcher.is_accepting
    twin.rollback(len(ids) - 4)
    assert mask_of(twin, tokenizer) == mask_of(matcher, tokenizer)
    assert twin.advance(ids[4:]) == len(ids) - 4
    with pytest.raises(ValueError, match="take back"):
        matcher.rollback(5)


def test_healed_and_canonical_the_whole_prompt_is_canonical():
    with LLM.from_model(LocalDcModel(loaded_fake(small_tokenizer()))) as llm:
        tokenizer = llm.tokenizer
        for seed, prompt in enumerate(["the quick bro", "the ne", "maybe na", "yes answ", "30 ne"] * 4):
            kept, healed = heal(tokenizer, tuple(tokenizer.encode_prompt(prompt)))
            assert healed
            answer = llm.generate(
                prompt, canonical=True, max_tokens=6, temperature=1.0, seed=seed, regex="[a-z ]+"
            )
            whole = [*kept, *answer.token_ids]
            assert is_canonical(tokenizer, whole)
            assert tokenizer.decode(whole).startswith(prompt)


def test_a_stop_string_leaves_a_text_that_is_judged_as_text():
    """What is cut off may leave an end after which no canonical token could have come."""
    with LLM.from_model(LocalDcModel(loaded_fake(small_tokenizer()))) as llm:
        for seed in range(30):
            answer = llm.generate(
                "the ne",
                canonical=True,
                regex="[a-z ]+",
                stop=["e", "a "],
                temperature=1.3,
                seed=seed,
                max_tokens=12,
            )
            if answer.stop_reason.startswith("stop:"):
                assert answer.certificate.valid == bool(answer.text)


@pytest.mark.parametrize(
    "name",
    [
        *("ggml-vocab-gpt-2.gguf", "mistral_v3_32k.model", "cl100k_base.tiktoken.gz"),
        *("embedded", "trained"),
    ],
)
def test_what_a_tokenizer_makes_of_a_text_is_taken(name):
    """White space too, which many tokenizers split by what comes after it."""
    tokenizer = tokenizer_of(name)
    compiled = CanonicalCompiled(AnyTokens(tokenizer), tokenizer, CanonicalPairs(tokenizer))
    for text in (
        "The quick brown fox.\n\nIt jumps  over \n  the lazy dog.\n\n\n  End\t\tof it.",
        "naïve café, 你好 🙂 \u0301x",
        '{"name": "Mira", "age": 34, "tags": [1,  2.5]}\n',
        "x = {'a': 12345}  # it's I'LL\r\n",
    ):
        ids = tokenizer.encode(text)
        assert compiled.matcher().advance(ids) == len(ids)
