"""Which road is taken, what it costs, and what is told about it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from fakes.api_model import BARE, OPENAI_COMPLETIONS, VLLM, ApiModel, Leaning, with_grammars
from fakes.fake_engine import FakeModel, loaded_fake
from fakes.planned import Planned
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import Choice, Grammar, JsonSchema, MaskFunction, NotIn, Regex, Type
from dcmodel.errors import CapabilityError, ConnectionLostError, MaskNotRepresentableError
from dcmodel.local import LocalDcModel
from dcmodel.types import FinishReason, GenerateRequest, SamplingParams
from lmql_backends.openai.capabilities import GrammarKind, Support
from lmql_backends.openai.planner.grammars import loosened

TOKENIZER = small_tokenizer()
PROMPT = tuple(TOKENIZER.encode("The quick brown"))
MODEL = FakeModel(TOKENIZER.vocab_size)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "ok": {"type": "boolean"}},
    "required": ["name", "ok"],
    "additionalProperties": False,
}
RULES = {
    "json": JsonSchema(SCHEMA),
    "compact json": JsonSchema(SCHEMA, whitespace="compact"),
    "regex": Regex("[a-z]{3,8} [0-9]+(\\.[0-9])?"),
    "integer": Type(int),
    "email": Type("email"),
    "choice": Choice(["positive", "negative", "neutral", "none of these"]),
    "grammar": Grammar('start: "<" /[a-z]+/ ">" (";" start)?'),
    "intersection": Regex("[a-z ]{4,12}") & NotIn(["e", "an"]),
    "function": MaskFunction(lambda ids: range(60, 300) if len(ids) < 6 else [1]),
}
FEW = replace(OPENAI_COMPLETIONS, max_bias_entries=60)
ENDPOINTS = {
    "biases": OPENAI_COMPLETIONS,
    "few biases": FEW,
    "few biases, none shown": replace(FEW, max_top_logprobs=0, shows_logprobs=False),
    "streams": replace(FEW, list_prompts=False),
    "lists of ids": VLLM,
    "ours": with_grammars(VLLM, Support.HONOURED, GrammarKind.CONSTRAINT),
    "liar": with_grammars(FEW),
}


def api(able=FEW, model=MODEL, **options) -> ApiModel:
    return ApiModel(model=model, tokenizer=TOKENIZER, capabilities=able, **options)


def request(constraint, *, temperature=0.0, seed=None, **changes) -> GenerateRequest:
    sampling = SamplingParams(temperature=temperature, seed=seed)
    values = {"sampling": sampling, "max_tokens": 48, **changes}
    return GenerateRequest(prompt_ids=PROMPT, constraint=constraint, **values)


# -- temperature 0 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_at_temperature_0_the_tokens_are_those_of_local_masks(endpoint, rule) -> None:
    if rule == "email" and endpoint == "few biases, none shown":
        pytest.skip("hundreds of tokens are refused before one fits, and no more can be banned")
    asked = request(RULES[rule])
    async with LocalDcModel(loaded_fake(TOKENIZER)) as local:
        ours = await local.generate(loosened(asked)).completion()
    made = api(ENDPOINTS[endpoint], breaks_grammars=endpoint == "liar")
    theirs = await Planned(made, max_attempts=300).complete(asked)
    assert theirs.token_ids == ours.token_ids
    assert (theirs.text, theirs.stop_reason) == (ours.text, ours.stop_reason)
    if endpoint != "ours":  # what a grammar of the endpoint's forces is not told
        assert theirs.forced == ours.forced
    assert theirs.certificate.exact == (not made.lies)
    assert theirs.certificate.valid == ours.certificate.valid
    assert all(len(ask.bias) <= made.capabilities.max_bias_entries for ask in made.asks)
    assert made.requests == theirs.cost.requests


async def test_what_is_known_of_raw_logprobs_is_what_the_model_says() -> None:
    asked = request(RULES["regex"], top_logprobs=3)
    async with LocalDcModel(loaded_fake(TOKENIZER)) as local:
        ours = await local.generate(asked).completion()
    theirs = await Planned(api()).complete(asked)
    assert theirs.logprobs is not None
    known = 0
    for one, other in zip(theirs.logprobs, ours.logprobs, strict=True):
        if one.raw_logprob == one.raw_logprob:
            known += 1
            assert one.raw_logprob == pytest.approx(other.raw_logprob, abs=1e-4)
            assert [item.token_id for item in one.top_raw] == [item.token_id for item in other.top_raw]
    assert known >= len(ours.logprobs) // 2


# -- what a road costs -------------------------------------------------------------------------------


async def test_forced_text_costs_nothing() -> None:
    made = api()
    completion = await Planned(made).complete(request(Regex("The quick brown fox")))
    assert completion.text == "The quick brown fox"
    assert (made.requests, completion.cost.requests, completion.certificate.exact) == (0, 0, True)


async def test_behind_what_was_healed_a_text_is_asked_for_whole() -> None:
    made = api(OPENAI_COMPLETIONS)
    stream = Planned(made).stream(request(None, healed="b", max_tokens=150, logprobs=False))
    steps = [step async for step in stream]
    completion = await stream.completion()
    last = made.asks[-1]
    done = len(last.prompt) - len(PROMPT)
    assert last.max_tokens == 150 - done
    assert sum(ask.max_tokens > 1 for ask in made.asks if len(ask.prompt) >= len(last.prompt)) == 1
    assert len(completion.token_ids) == 150
    assert len(steps) > 100, "it comes as it is written"


async def test_a_choice_that_one_token_decides_is_one_token() -> None:
    made = api(OPENAI_COMPLETIONS)
    completion = await Planned(made).complete(request(Choice(["yes", "maybe", "no"]), temperature=1.0))
    assert completion.text in ("yes", "maybe", "no")
    assert (made.requests, made.drawn) == (1, 1)


async def test_a_choice_with_common_beginnings_is_drawn_from_the_tokens_of_its_options() -> None:
    made = api(OPENAI_COMPLETIONS)
    rule = Choice([f"class {letter}{digit}" for letter in "abc" for digit in "123"])
    completions = [await Planned(made).complete(request(rule, temperature=1.0)) for _ in range(40)]
    assert all(item.certificate.exact and item.certificate.valid for item in completions)
    assert made.requests <= 3 * len(completions)


async def test_the_endpoints_own_grammar_is_one_request() -> None:
    made = api(with_grammars(BARE, Support.HONOURED, GrammarKind.JSON_SCHEMA))
    completion = await Planned(made).complete(request(RULES["json"], temperature=1.0, max_tokens=90))
    assert completion.cost.requests == made.requests == 1
    assert "own grammar" in completion.certificate.detail
    assert not completion.certificate.exact
    assert completion.certificate.valid or completion.finish_reason == "length"


async def test_an_ignored_grammar_is_noticed_and_the_valid_beginning_is_kept() -> None:
    liked = TOKENIZER.encode('{"name": "Mira", "ok": true}')
    made = api(with_grammars(FEW), Leaning(MODEL, liked, 3.0), breaks_grammars=True)
    planned = Planned(made)
    completion = await planned.complete(request(RULES["json"], temperature=1.0, max_tokens=90))
    assert made.lies == [GrammarKind.CONSTRAINT]
    assert not completion.certificate.exact
    assert completion.certificate.valid or completion.finish_reason == "length"
    first = made.asks[1]
    assert first.grammar is None
    assert first.prompt[: len(PROMPT)] == PROMPT
    await planned.complete(request(RULES["json"], temperature=1.0))
    assert made.lies == [GrammarKind.CONSTRAINT, GrammarKind.JSON_SCHEMA], "another kind is tried next"


@pytest.mark.parametrize("rule", [Type("ipv4"), Type(int), Regex("a/b|[/x]{3}"), Type("date")])
async def test_what_is_one_pattern_goes_as_a_pattern(rule) -> None:
    made = api(with_grammars(BARE, Support.HONOURED, GrammarKind.REGEX))
    completion = await Planned(made).complete(request(rule, temperature=1.0))
    assert (made.lies, completion.cost.requests) == ([], 1)
    assert completion.certificate.exact
    assert completion.certificate.valid or completion.finish_reason == "length"


async def test_what_is_more_than_one_pattern_is_not_taken_for_one() -> None:
    able = with_grammars(FEW, Support.HONOURED, GrammarKind.REGEX)
    for rule in (Type("email"), Regex("[ab]+") & Regex("b+"), Choice(["a", "b"])):
        made = api(able)
        await Planned(made).complete(request(rule, temperature=1.0))
        assert all(ask.grammar is None for ask in made.asks)


async def test_another_layout_of_json_is_no_lie() -> None:
    made = api(with_grammars(FEW, Support.HONOURED, GrammarKind.JSON_SCHEMA))
    asked = request(RULES["json"], temperature=1.0, max_tokens=90)
    completion = await Planned(made, loosens_json=False).complete(asked)
    assert made.lies == []
    assert "lays JSON out in another way" in completion.certificate.detail
    assert not completion.certificate.exact
    assert completion.text.startswith('{"name": "')


async def test_compact_json_is_no_matter_for_a_grammar_that_has_spaces() -> None:
    made = api(with_grammars(FEW, Support.HONOURED, GrammarKind.JSON_SCHEMA))
    completion = await Planned(made).complete(request(RULES["compact json"]))
    assert completion.certificate.exact
    assert all(ask.grammar is None for ask in made.asks)


async def test_a_refused_grammar_is_told_and_done_without() -> None:
    made = api(with_grammars(FEW))
    check = made._check

    def strict(ask) -> None:
        if ask.grammar is not None:
            made.capabilities, able = with_grammars(FEW, Support.REFUSED), made.capabilities
            try:
                check(ask)
            finally:
                made.capabilities = able
        check(ask)

    made._check = strict
    completion = await Planned(made).complete(request(RULES["regex"]))
    assert completion.certificate.exact
    assert "refused a grammar" in completion.certificate.detail
    assert made.lies == []


async def test_a_grammar_is_not_used_for_a_text_that_has_begun() -> None:
    made = api(with_grammars(VLLM))
    begun = tuple(TOKENIZER.encode("abc"))
    completion = await Planned(made).complete(request(RULES["regex"], resumed=begun))
    assert completion.token_ids[: len(begun)] == begun
    assert completion.certificate.valid
    assert all(ask.grammar is None for ask in made.asks)


async def test_texts_that_are_asked_for_together_share_requests() -> None:
    letters = [TOKENIZER.encode(letter)[0] for letter in "abcdefghij"]
    made = api(FEW, Leaning(MODEL, letters, 14.0))
    planned = Planned(made)
    asked = [
        replace(request(Regex("[a-j]{20}"), temperature=1.0), prompt_ids=(*PROMPT, token_id))
        for token_id in range(100, 132)
    ]
    completions = await asyncio.gather(*map(planned.complete, asked))
    calls = sum(item.cost.requests for item in completions)
    assert calls >= 32
    assert made.requests * 6 <= calls


# -- streams -----------------------------------------------------------------------------------------


async def test_a_stream_is_left_at_the_first_refused_token() -> None:
    made = api(ENDPOINTS["streams"], lag=3)
    completion = await Planned(made).complete(request(RULES["regex"], temperature=1.0))
    assert completion.cost.is_estimated
    assert completion.cost.completion_tokens == made.drawn
    assert made.drawn <= len(completion.token_ids) + 5 * completion.cost.requests


async def test_steps_come_while_the_text_grows_and_add_up() -> None:
    planned = Planned(api(ENDPOINTS["streams"]))
    stream = planned.stream(request(RULES["regex"]))
    steps = [step async for step in stream]
    completion = await stream.completion()
    assert "".join(step.text for step in steps) == completion.text
    assert tuple(step.token_id for step in steps) == completion.token_ids
    assert steps[-1].finish_reason is completion.finish_reason


async def test_a_cancelled_text_ends_and_its_response_is_closed() -> None:
    made = api(ENDPOINTS["streams"], Leaning(MODEL, TOKENIZER.encode("abcdefgh"), 20.0))
    opened = []
    ask_stream = made.ask_stream

    def remembered(ask):
        opened.append(ask_stream(ask))
        return opened[-1]

    made.ask_stream = remembered
    stream = Planned(made).stream(request(Regex("[a-h]+"), temperature=1.0, max_tokens=5_000))
    await anext(stream)
    stream.cancel()
    completion = await stream.completion()
    assert completion.finish_reason is FinishReason.CANCELLED
    assert all(item.is_closed for item in opened)


async def test_an_error_of_the_endpoint_comes_behind_the_tokens_before_it() -> None:
    made = api(FEW)
    ask = made.ask

    async def failing(asked):
        if len(made.asks) >= 2:
            raise ConnectionLostError("gone.")
        return await ask(asked)

    made.ask = failing
    stream = Planned(made).stream(request(RULES["regex"]))
    steps = []

    async def read() -> None:
        async for step in stream:
            steps.append(step)

    with pytest.raises(ConnectionLostError):
        await read()
    assert steps


# -- what cannot be done -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("able", "sampling", "reason"),
    [
        (BARE, SamplingParams(), "temperature 0"),
        (FEW, SamplingParams(temperature=1.0, top_p=0.5), "top_p"),
        (
            replace(FEW, max_bias_entries=1),
            SamplingParams(logit_bias={5: 1.0, 6: 1.0}),
            "2 tokens have a bias",
        ),
        (replace(FEW, is_chat=True, continuation=False), SamplingParams(), "whole answers"),
    ],
)
async def test_what_the_endpoint_cannot_do_is_refused_with_the_reason(able, sampling, reason) -> None:
    asked = replace(request(Regex("[a-z ]{20,}")), sampling=sampling)
    with pytest.raises(MaskNotRepresentableError, match=reason):
        await Planned(api(able)).complete(asked)


UNSHOWN = replace(FEW, max_top_logprobs=0, shows_logprobs=False)
NUMBERS = Leaning(
    MODEL, [item for item in range(4, TOKENIZER.vocab_size) if not TOKENIZER.decode([item]).islower()], 40.0
)


async def test_a_mask_that_cannot_be_applied_is_an_error_where_it_has_to_be_exact() -> None:
    able, rule = replace(UNSHOWN, max_bias_entries=40), Regex("[a-z ]{20,}")
    loose = await Planned(api(able, NUMBERS)).complete(request(rule))
    assert loose.certificate.valid or loose.finish_reason == "length"
    assert not loose.certificate.exact
    assert (loose.certificate.bound, loose.certificate.semantics) == (None, "local")
    assert "only 40 of its tokens could be drawn" in loose.certificate.detail
    with pytest.raises(MaskNotRepresentableError, match="the mask is larger than what it takes"):
        await Planned(api(able, NUMBERS), is_strict=True).complete(request(rule))


async def test_fewer_biases_than_there_are_ways_on_are_an_error() -> None:
    able = replace(UNSHOWN, max_bias_entries=20)
    with pytest.raises(MaskNotRepresentableError, match="the mask is larger"):
        await Planned(api(able, NUMBERS)).complete(request(Regex("[a-z ]{20,}")))


async def test_an_endpoint_without_regard_for_biases_is_not_asked_for_ever() -> None:
    made = api(OPENAI_COMPLETIONS)
    ask = made.ask

    async def deaf(asked):
        return await ask(replace(asked, bias={}))

    made.ask = deaf
    with pytest.raises(MaskNotRepresentableError, match="64 times"):
        await Planned(made, max_attempts=32).complete(request(Regex("[~]{20,}|[|]+")))


async def test_parameters_that_no_endpoint_has_are_refused_at_the_door() -> None:
    asked = replace(request(RULES["regex"]), sampling=SamplingParams(temperature=1.0, top_k=5))
    with pytest.raises(CapabilityError, match="top_k"):
        Planned(api()).stream(asked)


# -- JSON --------------------------------------------------------------------------------------------


async def test_json_may_be_laid_out_as_the_model_likes_and_canonical_on_request() -> None:
    text = '{\n  "name": "Mira",\n  "ok": true\n}'
    made = api(FEW, Scripted(text))
    completion = await Planned(made).complete(request(RULES["json"]))
    assert completion.text == text
    assert completion.parsed == {"name": "Mira", "ok": True}
    assert completion.cost.requests == 1
    canonical = await Planned(made, canonical_json=True).complete(request(RULES["json"]))
    assert canonical.text == json.dumps(completion.parsed)
    spaced = await Planned(made, loosens_json=False).complete(request(RULES["json"]))
    assert spaced.text.startswith('{"name": "')


class Scripted:
    """A model that writes one text behind the prompt."""

    vocab_size = TOKENIZER.vocab_size

    def __init__(self, text: str) -> None:
        self._ids = [*TOKENIZER.encode(text), *TOKENIZER.eos_token_ids]

    def logits(self, token_ids):
        row = MODEL.logits(token_ids).copy()
        place = len(token_ids) - len(PROMPT)
        if place < len(self._ids) and list(token_ids[len(PROMPT) :]) == self._ids[:place]:
            row[self._ids[place]] += 30.0
        return row


async def test_prompts_go_as_text_where_ids_are_not_taken() -> None:
    made = api(replace(FEW, token_id_prompts=False))
    completion = await Planned(made).complete(request(Regex("[a-c]{4}")))
    assert completion.certificate.valid
    assert all(isinstance(ask.prompt, str) for ask in made.asks)
