"""Token healing: what is taken back comes again, and only what follows it is shown, judged and stopped at."""

from __future__ import annotations

import functools
import itertools
import json
import random
import re

import numpy as np
import pytest
from fakes.fake_engine import FakeModel, loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel import LLM
from dcmodel.constraints import Choice, Grammar, JsonSchema, Length, NotIn, Regex, Stop, Template
from dcmodel.constraints.canonical import CanonicalPairs
from dcmodel.constraints.healing import MAX_TOKENS_BACK, AnyTokens, HealingCompiled, heal
from dcmodel.errors import InvalidRequestError
from dcmodel.local import LocalDcModel
from dcmodel.local.text import TextAssembler
from dcmodel.mask import mask_words, row_to_ids
from dcmodel.types import GenerateRequest
from dctokenizers import Tokenizer, load
from lmql_backends.tiny import MODEL_DIR

from .conftest import DATA, mask_of

FILES = (
    *(f"ggml-vocab-{name}.gguf" for name in ("falcon", "gpt-2", "llama-spm")),
    *("cl100k_base.tiktoken.gz", "tekken_240911.tiktoken.gz", "mistral_v3_32k.model"),
)
PROMPTS = (
    *("The link is http:", "Name: ", "Name:  ", "extrac", "The sky is blue", "x = [1, 2,", "é", "a", "\n"),
    *(
        "naïve caf",
        "Hi 🙂",
        "line\n\n",
        "<s>",
        "<|endoftext|>",
        "foo</s>",
        "你好",
        "3 + 4 =",
        "tab\t",
        "a\r\n",
    ),
)


@functools.cache
def real_tokenizer(file: str) -> Tokenizer:
    if not (DATA / "tokenizers" / file).exists():
        pytest.skip(f"{file} is not there")
    return load(DATA / "tokenizers" / file)


@pytest.fixture(scope="module", params=[*FILES, "embedded", "trained"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "trained":
        return small_tokenizer()
    if request.param == "embedded":
        return load(MODEL_DIR)
    return real_tokenizer(request.param)


def new_llm(**options):
    return LLM.from_model(LocalDcModel(loaded_fake(small_tokenizer(), **options)))


@pytest.fixture(scope="module")
def llm():
    with new_llm() as llm:
        yield llm


def streamed(llm: LLM, prompt: str, **options) -> str:
    return "".join(step.text for step in llm.stream(prompt, **options))


def healing(prefix: str, tokenizer: Tokenizer, rule=None) -> HealingCompiled:
    inner = AnyTokens(tokenizer) if rule is None else rule.compile(tokenizer)
    return HealingCompiled(prefix.encode(), tokenizer, inner, CanonicalPairs(tokenizer))


# -- what is taken back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", PROMPTS)
def test_kept_tokens_and_healed_text_are_the_prompt(tokenizer, prompt):
    ids = tuple(tokenizer.encode_prompt(prompt))
    kept, healed = heal(tokenizer, ids)
    assert ids[: len(kept)] == kept
    assert kept
    assert len(ids) - len(kept) <= MAX_TOKENS_BACK
    assert bool(healed) == (kept != ids)
    whole = tokenizer.decode_bytes(ids, skip_special=False)
    assert tokenizer.decode_bytes(kept, skip_special=False) + healed.encode() == whole


def test_what_could_have_been_joined_is_taken_back():
    cl100k = real_tokenizer("cl100k_base.tiktoken.gz")
    for prompt, healed in {
        "http:": ":",
        "Name: ": " ",
        "an extrac": " extrac",
        "It is blue": " blue",
    }.items():
        assert heal(cl100k, tuple(cl100k.encode(prompt)))[1] == healed
    spm = real_tokenizer("mistral_v3_32k.model")
    # The dummy space is part of the token, and so of what comes again.
    assert heal(spm, tuple(spm.encode_prompt("extrac")))[1] == " extrac"


def test_a_prompt_of_one_token_keeps_it(tokenizer):
    ids = tuple(tokenizer.encode("a"))[:1]
    assert heal(tokenizer, ids) == (ids, "")


def test_a_special_token_at_the_end_stays(tokenizer):
    special = (*tokenizer.special_token_ids, *tokenizer.eos_token_ids)
    for last in special[:3]:
        ids = (*tokenizer.encode("the http:"), last)
        assert heal(tokenizer, ids) == (ids, "")


def test_no_character_is_divided():
    # In r50k, `é` and more begin with a byte that many tokens begin with.
    gpt2 = real_tokenizer("ggml-vocab-gpt-2.gguf")
    rng = random.Random(4)
    for _ in range(300):
        text = "".join(rng.choice("aé你🙂 \n\u0301ß") for _ in range(rng.randint(1, 6)))
        ids = tuple(gpt2.encode(text))
        kept, healed = heal(gpt2, ids)
        assert gpt2.decode_bytes(kept) + healed.encode() == text.encode()


# -- masks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", PROMPTS)
def test_any_way_through_the_masks_spells_the_prompt_once(tokenizer, prompt):
    ids = tuple(tokenizer.encode_prompt(prompt))
    kept, healed = heal(tokenizer, ids)
    if not healed:
        return
    compiled = healing(healed, tokenizer)
    rng = random.Random(prompt)
    before = tokenizer.decode_bytes(ids, skip_special=False)
    for _ in range(5):
        matcher, out = compiled.matcher(), []
        text = TextAssembler(tokenizer, skip=len(healed.encode()))
        shown = ""
        while not matcher.is_spent:
            token_id = rng.choice(sorted(mask_of(matcher, tokenizer)))
            assert matcher.advance([token_id]) == 1
            out.append(token_id)
            shown += text.push(token_id, None)
        shown += text.finish(None)
        whole = tokenizer.decode_bytes(kept, skip_special=False) + tokenizer.decode_bytes(out)
        assert whole.startswith(before)
        assert shown == whole[len(before) :].decode("utf-8", errors="replace")


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_prompts_own_tokens_and_longer_ones_are_allowed(tokenizer, prompt):
    ids = tuple(tokenizer.encode_prompt(prompt))
    _, healed = heal(tokenizer, ids)
    if not healed:
        return
    matcher = healing(healed, tokenizer).matcher()
    longer = {
        token_id
        for token_id, token in enumerate(tokenizer.all_token_bytes())
        if token.startswith(healed.encode())
    }
    longer -= set(tokenizer.special_token_ids) | set(tokenizer.eos_token_ids)
    assert longer <= mask_of(matcher, tokenizer)
    usual = tokenizer.encode_bytes(healed.encode())
    for token_id in usual:
        assert token_id in mask_of(matcher, tokenizer)
        assert matcher.advance([token_id]) == 1
    assert matcher.is_spent
    matcher.rollback(len(usual))
    assert longer <= mask_of(matcher, tokenizer)


def reference_mask(rest: bytes, tokenizer: Tokenizer, accepts) -> set[int]:
    """By the definition: over the end as `accepts` says, or short of it before a token that goes on so."""

    @functools.cache
    def goes_on(before: int, left: bytes) -> bool:
        for token_id, token in enumerate(tokenizer.all_token_bytes()):
            if not token or token_id in ends or not (token.startswith(left) or left.startswith(token)):
                continue
            data = tokenizer.token_bytes(before) + token
            try:
                is_usual = tokenizer.encode(data.decode()) == [before, token_id]
            except UnicodeDecodeError:
                is_usual = True
            if not is_usual:
                continue
            if (
                accepts(token[len(left) :])
                if token.startswith(left)
                else goes_on(token_id, left[len(token) :])
            ):
                return True
        return False

    ends = {*tokenizer.special_token_ids, *tokenizer.eos_token_ids}
    usual = tokenizer.encode_bytes(rest)[0]
    allowed = set()
    for token_id, token in enumerate(tokenizer.all_token_bytes()):
        if not token or token_id in ends:
            continue
        if token.startswith(rest):
            if accepts(token[len(rest) :]):
                allowed.add(token_id)
        elif rest.startswith(token) and (token_id == usual or goes_on(token_id, rest[len(token) :])):
            allowed.add(token_id)
    return allowed


RULES = (
    None,
    Regex("[a-z ]+"),
    Regex("e?[a-z]{2}"),
    Choice([" yes", "no", "ame"]),
    NotIn(["me", "st"]),
    Length(1, 3, unit="characters"),
    JsonSchema({"type": "object"}),
    Grammar('start: " "? word\nword: /[a-z]+/'),
    Template([" "]) + Regex("[a-z]+"),
    Regex("[a-z]+") & NotIn(["ma"]),
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind if rule else "none")
def test_masks_are_those_of_the_definition(rule):
    tokenizer = small_tokenizer()
    for prefix in (" ", ":", "n", " na", "{", '{"', "yes", " qu", "e"):
        compiled = healing(prefix, tokenizer, rule)
        inner = None if rule is None else rule.compile(tokenizer)

        def accepts(text: bytes, inner=inner) -> bool:
            if inner is None or not text:
                return True
            matcher = inner.matcher()
            token_ids = tokenizer.encode_bytes(text)
            return matcher.advance(token_ids) == len(token_ids)

        assert compiled.text.is_exact(0)
        assert mask_of(compiled.matcher(), tokenizer) == reference_mask(prefix.encode(), tokenizer, accepts)


def test_a_name_after_a_blank_is_one_token():
    for file in ("mistral_v3_32k.model", "ggml-vocab-gpt-2.gguf"):
        tokenizer = real_tokenizer(file)
        ids = tuple(tokenizer.encode_prompt("Name: "))
        _, healed = heal(tokenizer, ids)
        (name,) = tokenizer.encode(" John")
        assert name in mask_of(healing(healed, tokenizer, Regex("[A-Z][a-z]+")).matcher(), tokenizer)
        (small,) = tokenizer.encode(" the")
        assert small not in mask_of(healing(healed, tokenizer, Regex("[A-Z][a-z]+")).matcher(), tokenizer)


@pytest.mark.parametrize("file", ["cl100k_base.tiktoken.gz", "mistral_v3_32k.model", "ggml-vocab-gpt-2.gguf"])
def test_a_border_inside_a_template_may_lie_inside_a_token(file):
    tokenizer = real_tokenizer(file)
    matcher = Template.of("Name: {name}", name=Regex("[A-Z][a-z]+")).compile(tokenizer).matcher()
    run = matcher.forced()
    assert matcher.advance(run) == len(run)
    assert tokenizer.decode(run).rstrip(" ") in ("Name:", "Name", "")
    assert not tokenizer.decode(run).endswith(" ")
    while b" " not in {tokenizer.token_bytes(i) for i in mask_of(matcher, tokenizer)}:
        (step,) = [i for i in mask_of(matcher, tokenizer) if tokenizer.token_bytes(i) in (b":", b"Name")]
        assert matcher.advance([step]) == 1
    (name,) = tokenizer.encode(" John")
    assert name in mask_of(matcher, tokenizer)


def test_where_too_many_tokens_are_doubtful_they_are_refused_when_drawn():
    tokenizer = real_tokenizer("cl100k_base.tiktoken.gz")
    compiled = healing(" ", tokenizer, Regex("[a-z]{1,3}"))
    matcher = compiled.matcher()
    assert not matcher.is_exact
    row = np.zeros(mask_words(tokenizer.vocab_size), dtype=np.int32)
    matcher.fill_mask(row)
    rng = random.Random(1)
    for token_id in rng.sample(row_to_ids(row, tokenizer.vocab_size).tolist(), 300):
        text = tokenizer.token_bytes(token_id)[1:]
        assert (matcher.fork().advance([token_id]) == 1) == bool(re.fullmatch(b"[a-z]{0,3}", text))
    assert all(matcher.fork().advance([way]) == 1 for way in matcher.ways_out())
    assert matcher.ways_out()


# -- whole requests -------------------------------------------------------------------------------------

TEXTS = ("yes", "the ne", "answer: ", 'say {"', "na", "naïve é", "the quick brown fo", "20 ", "x  ")


def expected_greedy(model: FakeModel, tokenizer: Tokenizer, prompt: str, count: int):
    """Step by step, from the plain logits and the masks of the definition."""
    ids, healed = heal(tokenizer, tuple(tokenizer.encode_prompt(prompt)))
    rest = healed.encode()
    out, records = [], []
    for _ in range(count):
        logits = model.logits([*ids, *out]).astype(np.float64)
        raw = logits - np.logaddexp.reduce(logits)
        if rest:
            allowed = sorted(reference_mask(rest, tokenizer, lambda _: True))
        else:
            allowed = list(range(tokenizer.vocab_size))
        best = max(allowed, key=lambda token_id: logits[token_id])
        records.append((raw[best], np.logaddexp.reduce(raw[allowed])))
        out.append(best)
        rest = rest[len(tokenizer.token_bytes(best)) :]
        if best in tokenizer.eos_token_ids:
            break
    return tuple(out), records


@pytest.mark.parametrize("prompt", TEXTS)
def test_greedy_is_the_shortened_prompt_masked_step_by_step(prompt):
    tokenizer = small_tokenizer()
    for seed in range(3):
        with new_llm(seed=seed) as llm:
            answer = llm.generate(prompt, max_tokens=6)
        _, healed = heal(tokenizer, tuple(tokenizer.encode_prompt(prompt)))
        model = FakeModel(tokenizer.vocab_size, seed=seed)
        ids, records = expected_greedy(model, tokenizer, prompt, len(answer.token_ids))
        assert answer.healed == healed
        assert answer.token_ids == ids
        assert [item.raw_logprob for item in answer.logprobs] == pytest.approx(
            [r for r, _ in records], abs=1e-4
        )
        assert [item.log_mass for item in answer.logprobs] == pytest.approx([m for _, m in records], abs=1e-4)
        whole = tokenizer.decode_bytes(ids)
        assert whole.startswith(healed.encode()) or healed.encode().startswith(whole)
        assert answer.text == whole[len(healed.encode()) :].decode("utf-8", errors="replace")


def test_samples_follow_the_masked_distribution():
    """The first token of 600 samples against its exact distribution (chi-square, fixed seeds)."""
    tokenizer = small_tokenizer()
    kept, healed = heal(tokenizer, tuple(tokenizer.encode_prompt("the n")))
    model = FakeModel(tokenizer.vocab_size)
    allowed = sorted(reference_mask(healed.encode(), tokenizer, lambda _: True))
    assert len(allowed) > 3
    weights = np.exp(model.logits(kept)[allowed].astype(np.float64) / 2)
    weights /= weights.sum()
    with new_llm() as llm:
        answers = llm.generate(["the n"] * 600, max_tokens=1, temperature=2.0, seed=11, logprobs=False)
    counts = np.zeros(len(allowed))
    for answer in answers:
        counts[allowed.index(answer.token_ids[0])] += 1
    expected = weights * 600
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < len(allowed) + 5 * (2 * len(allowed)) ** 0.5


def test_without_healing_a_text_is_its_token_ids(llm):
    for prompt in TEXTS:
        ids = llm.tokenizer.encode_prompt(prompt)
        options = {"max_tokens": 8, "temperature": 1.0, "seed": 3}
        plain, given = llm.generate(prompt, heal=False, **options), llm.generate(ids, **options)
        assert (plain.text, plain.token_ids, plain.healed) == (given.text, given.token_ids, "")


def test_batched_is_alone_and_streamed_is_whole(llm):
    options = {"max_tokens": 8, "temperature": 1.3}
    batch = llm.generate(list(TEXTS), seed=20, **options)
    for index, prompt in enumerate(TEXTS):
        alone = llm.generate(prompt, seed=20 + index, **options)
        assert batch[index].token_ids == alone.token_ids
        assert batch[index].text == alone.text == streamed(llm, prompt, seed=20 + index, **options)
        assert len(alone.logprobs) == len(alone.token_ids) == alone.usage.completion_tokens


def test_taken_back_tokens_are_added_to_the_limit(llm):
    for prompt in TEXTS:
        ids = tuple(llm.tokenizer.encode_prompt(prompt))
        kept, _ = heal(llm.tokenizer, ids)
        answer = llm.generate(prompt, max_tokens=4, temperature=1.0, seed=1)
        assert answer.usage.prompt_tokens == len(kept)
        if answer.finish_reason == "length":
            assert len(answer.token_ids) == 4 + len(ids) - len(kept)


def test_a_stop_string_is_sought_after_the_prompt_only():
    # The healed text ends in `e`: neither `e` in it nor `ex` across its end is a stop.
    tokenizer = small_tokenizer()
    _, healed = heal(tokenizer, tuple(tokenizer.encode_prompt("the ne")))
    assert healed.endswith("e")
    options = {"max_tokens": 12, "regex": "[a-z ]{12}", "temperature": 1.0}
    for include, seed in itertools.product((False, True), range(25)):
        stops = {"stop": ["e", "ex", "me"], "include_stop": include}
        with new_llm(seed=seed) as llm:
            free = llm.generate("the ne", seed=seed, **options)
            answer = llm.generate("the ne", seed=seed, **options, **stops)
            shown = streamed(llm, "the ne", seed=seed, **options, **stops)
        match = min(
            (m for m in (re.search(s, free.text) for s in ("e", "ex", "me")) if m),
            key=lambda m: (m.end(), m.start()),
            default=None,
        )
        cut = free.text if match is None else free.text[: match.end() if include else match.start()]
        assert answer.text == cut == shown
        assert (answer.stop_reason or "").startswith("stop:") == (match is not None)


CONSTRAINTS = (
    ({"regex": "[a-z ]{1,6}"}, lambda a: re.fullmatch("[a-z ]{1,6}", a.text)),
    ({"choices": [" yes", "no", "ame", "maybe not"]}, lambda a: a.text in (" yes", "no", "ame", "maybe not")),
    ({"json_schema": {"enum": [{"name": "a"}, "b", 1, None]}}, lambda a: json.loads(a.text) == a.parsed),
    ({"grammar": 'start: "(" start ")" | "x"'}, lambda a: re.fullmatch(r"\(*x\)*", a.text)),
    ({"regex": "[a-z]{1,8}", "not_in": ["a", "es"]}, lambda a: "a" not in a.text and "es" not in a.text),
    ({"constraint": Length(2, 4, unit="characters")}, lambda a: 2 <= len(a.text) <= 4),
    (
        {"constraint": Template.of("{a}: {b}", a=Regex("[a-z]{1,3}"), b=Choice(["yes", "no"]))},
        lambda a: f"{a.parsed['a']}: {a.parsed['b']}" == a.text,
    ),
    ({"constraint": Stop(["e", "st", "na"])}, lambda a: not re.search("e|st|na", a.text)),
    (
        {"constraint": Stop(["e", "ab"], include=True)},
        lambda a: re.search("^[^e]*?(e|ab|$)", a.text)[0] == a.text,
    ),
    ({"type": bool}, lambda a: a.parsed in (True, False)),
)


@pytest.mark.parametrize(("options", "is_right"), CONSTRAINTS, ids=lambda value: str(value)[:24])
def test_a_constraint_is_about_the_text_after_the_prompt(options, is_right):
    for seed, prompt in itertools.product(range(4), TEXTS):
        with new_llm(seed=seed) as llm:
            answer = llm.generate(prompt, max_tokens=40, temperature=1.5, seed=seed, **options)
            again = streamed(llm, prompt, max_tokens=40, temperature=1.5, seed=seed, **options)
        assert again == answer.text
        assert len(answer.logprobs) == len(answer.token_ids) == len(answer.forced)
        if answer.finish_reason == "stop":
            assert answer.certificate.valid
            assert is_right(answer)


def test_a_rule_about_tokens_is_refused_with_a_healed_text_and_turns_healing_off():
    with pytest.raises(InvalidRequestError, match="about tokens"):
        GenerateRequest(prompt_ids=(3,), healed="a", constraint=Length(1, 2, unit="tokens"))
    with new_llm() as llm:
        assert llm.generate("na", constraint=Length(2, 2, unit="tokens")).healed == ""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind if rule else "none")
def test_forks_and_rollbacks_across_the_border(rule):
    tokenizer = small_tokenizer()
    compiled = healing(" na", tokenizer, rule)
    for seed in range(8):
        rng = random.Random(seed)
        matcher, states, ids = compiled.matcher(), [], []
        while len(ids) < 6 and not matcher.is_finished:
            states.append((mask_of(matcher, tokenizer), matcher.is_accepting, matcher.forced()))
            allowed = states[-1][0] - set(tokenizer.eos_token_ids)
            token_id = next(
                (i for i in rng.sample(sorted(allowed), len(allowed)) if matcher.advance([i])), None
            )
            if token_id is None:
                break
            ids.append(token_id)
        twin = matcher.fork()
        for back in range(1, len(ids) + 1):
            matcher.rollback(1)
            mask, is_accepting, forced = states[len(ids) - back]
            assert mask_of(matcher, tokenizer) == mask
            assert (matcher.is_accepting, matcher.forced()) == (is_accepting, forced)
        assert matcher.advance(ids) == len(ids)
        assert mask_of(twin, tokenizer) == mask_of(matcher, tokenizer)
        with pytest.raises(ValueError, match="take back"):
            matcher.rollback(len(ids) + 1)


def test_a_refused_token_changes_nothing():
    tokenizer = small_tokenizer()
    matcher = healing(" na", tokenizer, Regex("me[0-9]")).matcher()
    before = mask_of(matcher, tokenizer)
    (negat,) = tokenizer.encode(" negat")
    for wrong in (negat, *tokenizer.eos_token_ids, tokenizer.encode("x")[0], -1, tokenizer.vocab_size):
        assert matcher.advance([wrong]) == 0
        assert mask_of(matcher, tokenizer) == before
    (name,) = tokenizer.encode(" name")
    assert name in before
    assert not matcher.explain(negat).allowed
    assert matcher.explain(name).allowed
    assert matcher.advance([name, *tokenizer.encode("7")]) == 2
    assert matcher.is_finished
