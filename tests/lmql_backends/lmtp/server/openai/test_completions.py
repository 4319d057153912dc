"""/v1/completions by the official client: the same texts as `LLM.generate` gives without a server."""

from __future__ import annotations

import asyncio
import math
import re

import msgspec
import openai
import pytest

from dcmodel.constraints import JsonSchema, Regex
from dcmodel.loop import run
from dcmodel.types import Certificate, ScoreRequest

PROMPT = "The quick brown fox"


def test_greedy_text_is_that_of_the_model_in_process(client, llm):
    expected = llm.generate(PROMPT, heal=False, max_tokens=12)
    got = client.completions.create(model="fake", prompt=PROMPT, max_tokens=12, temperature=0)
    assert got.object == "text_completion"
    assert got.model == "fake"
    assert got.created == 1_700_000_000
    (choice,) = got.choices
    assert choice.text == expected.text
    assert choice.finish_reason == expected.finish_reason
    assert choice.logprobs is None
    assert choice.certificate == msgspec.to_builtins(Certificate(valid=None, exact=True, semantics="local"))
    assert got.usage.prompt_tokens == expected.usage.prompt_tokens
    assert got.usage.completion_tokens == len(expected.token_ids)
    assert got.usage.total_tokens == got.usage.prompt_tokens + got.usage.completion_tokens
    assert got.usage.prompt_tokens_details.cached_tokens >= 0


def test_a_healed_prompt_is_that_of_the_model_in_process(client, llm):
    for prompt in (PROMPT, '{"name": "Mi', "yes n"):
        expected = llm.generate(prompt, max_tokens=9)
        got = client.completions.create(
            model="fake", prompt=prompt, max_tokens=9, temperature=0, logprobs=1, extra_body={"heal": True}
        )
        assert got.choices[0].text == expected.text
        offsets = got.choices[0].logprobs.text_offset
        assert offsets[0] == -len(expected.healed)


def test_prompts_may_be_a_text_texts_ids_or_lists_of_ids(client, llm):
    texts = [PROMPT, "yes no maybe"]
    ids = [llm.tokenizer.encode_prompt(text) for text in texts]
    ask = {"model": "fake", "max_tokens": 6, "temperature": 0}
    expected = [llm.generate(item, max_tokens=6).text for item in ids]
    assert [c.text for c in client.completions.create(prompt=texts[0], **ask).choices] == expected[:1]
    assert [c.text for c in client.completions.create(prompt=ids[0], **ask).choices] == expected[:1]
    for prompt in (texts, ids):
        got = client.completions.create(prompt=prompt, **ask)
        assert [c.text for c in got.choices] == expected
        assert [c.index for c in got.choices] == [0, 1]
        assert got.usage.prompt_tokens == sum(map(len, ids))
        assert got.usage.completion_tokens == 12


def test_several_texts_with_a_seed_are_reproducible_distinct_and_those_of_the_model(client, llm):
    ids = llm.tokenizer.encode_prompt(PROMPT)
    ask = {"model": "fake", "prompt": ids, "max_tokens": 8, "n": 4, "seed": 11, "temperature": 1.0}
    first, second = (client.completions.create(**ask) for _ in range(2))
    texts = [choice.text for choice in first.choices]
    assert texts == [choice.text for choice in second.choices]
    assert len(set(texts)) == 4
    expected = llm.generate(ids, max_tokens=8, n=4, seed=11, temperature=1.0)
    assert texts == [expected.text, *(item.text for item in expected.alternatives)]
    assert first.usage.prompt_tokens == len(ids)
    assert first.usage.completion_tokens == 32


def test_several_greedy_texts_are_the_same(client):
    ask = {"model": "fake", "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    texts = {choice.text for choice in client.completions.create(**ask, n=3).choices}
    assert texts == {client.completions.create(**ask).choices[0].text}


def test_the_default_temperature_is_openais(client):
    ask = {"model": "fake", "prompt": PROMPT, "max_tokens": 8, "seed": 3}
    assert (
        client.completions.create(**ask).choices[0].text
        == client.completions.create(**ask, temperature=1.0).choices[0].text
        != client.completions.create(**ask, temperature=0).choices[0].text
    )


def test_the_default_length_is_openais(client):
    got = client.completions.create(model="fake", prompt=PROMPT, extra_body={"ignore_eos": True})
    assert got.usage.completion_tokens == 16
    assert got.choices[0].finish_reason == "length"


def test_best_of_keeps_the_likeliest_texts_and_counts_all(client):
    ask = {"model": "fake", "prompt": PROMPT, "max_tokens": 6, "seed": 5, "temperature": 1.0}
    drawn = client.completions.create(**ask, n=6, logprobs=0)
    got = client.completions.create(**ask, n=2, best_of=6)
    means = {c.text: sum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs) for c in drawn.choices}
    expected = sorted(means, key=means.__getitem__, reverse=True)[:2]
    assert [choice.text for choice in got.choices] == expected
    assert got.choices[0].logprobs is None
    assert got.usage.completion_tokens == drawn.usage.completion_tokens


def test_a_stop_string_is_never_shown_unless_asked_for(client, llm):
    whole = client.completions.create(model="fake", prompt=PROMPT, max_tokens=24, temperature=0)
    text = whole.choices[0].text
    stop = text[8:11]
    ask = {"model": "fake", "prompt": PROMPT, "max_tokens": 24, "temperature": 0, "stop": [stop, "\x07"]}
    got = client.completions.create(**ask).choices[0]
    assert got.text == text[: text.index(stop)]
    assert (got.finish_reason, got.stop_reason, got.ended_by) == ("stop", stop, "stop")
    shown = client.completions.create(**ask, extra_body={"include_stop_str_in_output": True}).choices[0]
    assert shown.text == got.text + stop


def test_biases_are_added_and_allowed_ids_are_a_mask(client, llm):
    token_id = llm.tokenizer.encode("q")[0]
    ask = {"model": "fake", "prompt": PROMPT, "max_tokens": 5, "temperature": 0}
    assert client.completions.create(**ask, logit_bias={str(token_id): 100}).choices[0].text == "qqqqq"
    banned = client.completions.create(**ask).choices[0].text
    first = llm.generate(llm.tokenizer.encode_prompt(PROMPT), max_tokens=1).token_ids[0]
    other = client.completions.create(**ask, logit_bias={str(first): -100}).choices[0].text
    assert other != banned
    got = client.completions.create(
        **ask, extra_body={"allowed_token_ids": [token_id, token_id + 1], "return_token_ids": True}
    )
    assert set(got.choices[0].token_ids) <= {token_id, token_id + 1}


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7, "top_p": 0.9, "presence_penalty": 0.5, "frequency_penalty": -0.5},
        {"temperature": 1.5, "extra_body": {"top_k": 5, "min_p": 0.01, "repetition_penalty": 1.3}},
        {"temperature": 1.0, "extra_body": {"top_k": -1, "canonical": True}},
    ],
    ids=lambda item: "-".join({**item, **item.get("extra_body", {})}),
)
def test_sampling_parameters_are_those_of_the_model(client, llm, options):
    ids = llm.tokenizer.encode_prompt(PROMPT)
    flat = {**options, **options.get("extra_body", {})}
    flat.pop("extra_body", None)
    if flat.get("top_k") == -1:
        flat["top_k"] = 0
    got = client.completions.create(model="fake", prompt=ids, max_tokens=9, seed=2, **options)
    assert got.choices[0].text == llm.generate(ids, max_tokens=9, seed=2, **flat).text


def test_log_probabilities_have_the_legacy_form(client, llm):
    ids = llm.tokenizer.encode_prompt(PROMPT)
    expected = llm.generate(ids, max_tokens=7, top_logprobs=3)
    choice = client.completions.create(
        model="fake", prompt=ids, max_tokens=7, temperature=0, logprobs=3
    ).choices[0]
    known = choice.logprobs
    assert len(known.tokens) == len(known.token_logprobs) == len(known.top_logprobs) == len(known.text_offset)
    assert known.token_logprobs == pytest.approx([item.raw_logprob for item in expected.logprobs])
    for name, logprob, top in zip(known.tokens, known.token_logprobs, known.top_logprobs, strict=True):
        assert 3 <= len(top) <= 4
        assert top[name] == logprob == max(top.values())
    for name, offset in zip(known.tokens, known.text_offset, strict=True):
        if not name.startswith("bytes:"):
            assert choice.text[offset : offset + len(name)] == name


def test_no_top_tokens_are_no_dicts(client):
    known = (
        client.completions.create(model="fake", prompt=PROMPT, max_tokens=3, logprobs=0).choices[0].logprobs
    )
    assert known.top_logprobs is None
    assert len(known.token_logprobs) == 3


def test_log_probabilities_are_before_the_mask_or_after_it(client, llm):
    ask = {"model": "fake", "prompt": PROMPT, "max_tokens": 6, "temperature": 0, "logprobs": 1}
    raw = client.completions.create(**ask, extra_body={"regex": "[0-9]{3}"}).choices[0]
    masked = client.completions.create(
        **ask, extra_body={"regex": "[0-9]{3}", "logprobs_mode": "masked"}
    ).choices[0]
    assert raw.text == masked.text
    ids = llm.tokenizer.encode_prompt(PROMPT)
    expected = llm.generate(ids, regex="[0-9]{3}", max_tokens=6)
    assert raw.logprobs.token_logprobs == pytest.approx([item.raw_logprob for item in expected.logprobs])
    assert masked.logprobs.token_logprobs == pytest.approx(
        [item.masked_logprob for item in expected.logprobs]
    )
    assert sum(raw.logprobs.token_logprobs) < sum(masked.logprobs.token_logprobs)


def test_a_token_that_is_part_of_a_character_is_named_by_its_bytes(client, llm):
    ids = llm.tokenizer.encode_prompt("漢字")
    choice = client.completions.create(
        model="fake", prompt=ids, max_tokens=1, temperature=0, echo=True, logprobs=2
    ).choices[0]
    assert choice.logprobs.tokens[0].startswith("bytes:\\x")
    assert choice.text.startswith("漢字")
    named = client.completions.create(
        model="fake",
        prompt=ids,
        max_tokens=1,
        echo=True,
        logprobs=0,
        extra_body={"return_tokens_as_token_ids": True},
    ).choices[0]
    assert named.logprobs.tokens[: len(ids)] == [f"token_id:{item}" for item in ids]


def test_echo_scores_a_prompt_as_the_model_does(client, llm):
    ids = llm.tokenizer.encode_prompt(PROMPT)
    scored = run(llm.model.score(ScoreRequest(prompt_ids=tuple(ids), prompt_logprobs=0))).prompt
    ask = {"model": "fake", "max_tokens": 0, "echo": True, "logprobs": 1}
    got = client.completions.create(prompt=[ids, ids[:1]], **ask)
    text = client.completions.create(prompt=PROMPT, **ask)
    for choice in (got.choices[0], text.choices[0]):
        known = choice.logprobs
        assert choice.text == PROMPT
        assert known.token_logprobs[0] is None
        assert known.top_logprobs[0] is None
        assert math.fsum(known.token_logprobs[1:]) == pytest.approx(scored.logprob)
        assert "".join(known.tokens) == PROMPT
        assert known.text_offset[0] == 0
    assert got.choices[1].logprobs.token_logprobs == [None]
    assert got.usage.completion_tokens == 0
    assert got.usage.prompt_tokens == len(ids) + 1


def test_an_evaluator_finds_what_it_looks_for(client, llm):
    """As lm-evaluation-harness asks: echo, one token more, and greedy where the token is the likeliest."""
    ids = llm.tokenizer.encode_prompt(PROMPT)
    following = list(llm.generate(ids, max_tokens=4).token_ids)
    got = client.completions.create(
        model="fake",
        prompt=[ids + following, [*ids, 5, 6]],
        max_tokens=1,
        temperature=0,
        echo=True,
        logprobs=1,
    )
    for choice, is_greedy in zip(got.choices, (True, False), strict=True):
        known = choice.logprobs
        places = range(len(ids), len(known.tokens) - 1)
        found = [known.token_logprobs[place] == max(known.top_logprobs[place].values()) for place in places]
        assert all(found) is is_greedy


def test_prompt_logprobs_have_vllms_form(client, llm):
    ids = llm.tokenizer.encode_prompt(PROMPT)
    got = client.completions.create(
        model="fake", prompt=ids, max_tokens=1, extra_body={"prompt_logprobs": 2, "return_token_ids": True}
    ).choices[0]
    assert got.prompt_token_ids == ids
    assert got.prompt_logprobs[0] is None
    assert len(got.prompt_logprobs) == len(ids)
    for token_id, place in zip(ids[1:], got.prompt_logprobs[1:], strict=True):
        assert 2 <= len(place) <= 3
        assert place[str(token_id)]["rank"] >= 1
        assert min(item["rank"] for item in place.values()) == 1


def test_a_prompt_and_an_answer_beyond_the_context_are_refused(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="fake", prompt=[5] * 500, max_tokens=13)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "max_tokens"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="fake", prompt=[5] * 600)
    assert caught.value.param == "prompt"
    assert client.completions.create(model="fake", prompt=[5] * 500, max_tokens=12).choices


@pytest.mark.parametrize(
    ("fields", "matches"),
    [
        ({"regex": "[a-c]{2,5}x"}, r"[a-c]{2,5}x"),
        ({"guided_regex": "[0-9]+;"}, r"[0-9]+;"),
        ({"structured_outputs": {"regex": "(yes|no)!"}}, "(yes|no)!"),
        ({"choice": ["red", "green"]}, "red|green"),
        ({"guided_choice": ["red", "green"]}, "red|green"),
        ({"structured_outputs": {"choice": ["red", "green"]}}, "red|green"),
        ({"grammar": 'start: "a" "b"+ "c"'}, "ab+c"),
        ({"guided_grammar": 'start: "a" "b"+ "c"'}, "ab+c"),
        ({"structured_outputs": {"grammar": 'start: "a" "b"+ "c"'}}, "ab+c"),
        ({"guided_json": {"type": "boolean"}}, "true|false"),
        ({"guided_json": '{"type": "boolean"}'}, "true|false"),
        ({"structured_outputs": {"json": {"type": "boolean"}}}, "true|false"),
        ({"constraint": Regex("[xyz]{3}").to_dict()}, "[xyz]{3}"),
        ({"constraint": JsonSchema({"type": "null"}).to_dict()}, "null"),
        ({"regex": "[a-z]{3}", "choice": ["abc", "ABC"]}, "abc"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": 7}}}}, "7"),
    ],
    ids=str,
)
def test_a_text_is_what_was_asked_for(client, fields, matches):
    got = client.completions.create(
        model="fake", prompt=PROMPT, max_tokens=200, temperature=0, extra_body=fields
    ).choices[0]
    assert got.finish_reason in ("stop", "length")
    if got.finish_reason == "stop":
        assert re.fullmatch(matches, got.text)
        assert got.certificate["valid"] is True
    else:
        assert got.certificate["valid"] is False


def test_forced_tokens_are_counted(client):
    got = client.completions.create(
        model="fake", prompt=PROMPT, max_tokens=50, extra_body={"choice": ["The only answer"]}
    )
    assert got.choices[0].text == "The only answer"
    assert got.usage.completion_tokens_details.forced_tokens > 0


async def test_the_asynchronous_client_works_the_same(server, llm):
    expected = llm.generate(PROMPT, heal=False, max_tokens=8).text
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        ask = {"model": "fake", "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
        answers = await asyncio.gather(*(client.completions.create(**ask) for _ in range(8)))
    assert {answer.choices[0].text for answer in answers} == {expected}
