"""/v1/chat/completions by the official client."""

from __future__ import annotations

import json

import openai
import pydantic
import pytest

MESSAGES = [{"role": "system", "content": "yes or no"}, {"role": "user", "content": "The quick brown fox?"}]


def test_the_answer_is_that_of_the_model_to_the_rendered_conversation(client, llm):
    ids = llm.chat_prompt(MESSAGES)
    expected = llm.generate(ids, max_tokens=12)
    got = client.chat.completions.create(model="fake", messages=MESSAGES, max_tokens=12, temperature=0)
    assert got.object == "chat.completion"
    (choice,) = got.choices
    assert (choice.message.role, choice.message.content) == ("assistant", expected.text)
    assert choice.message.refusal is None
    assert choice.finish_reason == expected.finish_reason
    assert choice.logprobs is None
    assert got.usage.prompt_tokens == len(ids)
    assert got.usage.completion_tokens == len(expected.token_ids)


def test_parts_of_a_message_are_one_text(client):
    parts = [{"type": "text", "text": "The quick "}, {"type": "text", "text": "brown fox?"}]
    messages = [MESSAGES[0], {"role": "user", "content": parts}]
    ask = {"model": "fake", "max_tokens": 8, "temperature": 0}
    left = client.chat.completions.create(messages=messages, **ask)
    right = client.chat.completions.create(messages=MESSAGES, **ask)
    assert left.choices[0].message.content == right.choices[0].message.content


def test_both_names_of_the_length_work_and_none_is_the_rest_of_the_context(client):
    ask = {"model": "fake", "messages": MESSAGES, "extra_body": {"ignore_eos": True}}
    assert client.chat.completions.create(**ask, max_completion_tokens=5).usage.completion_tokens == 5
    assert client.chat.completions.create(**ask, max_tokens=5).usage.completion_tokens == 5
    whole = client.chat.completions.create(**ask)
    assert whole.usage.total_tokens == 512
    assert (whole.choices[0].finish_reason, whole.choices[0].ended_by) == ("length", "max_tokens")
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**ask, max_tokens=5, max_completion_tokens=6)


def test_several_answers_with_a_seed_are_distinct_and_come_again(client):
    ask = {"model": "fake", "messages": MESSAGES, "max_tokens": 8, "n": 3, "seed": 4}
    first, second = (client.chat.completions.create(**ask) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert len(set(texts)) == 3


def test_log_probabilities_have_the_new_form(client, llm):
    expected = llm.generate(llm.chat_prompt(MESSAGES), max_tokens=6, top_logprobs=2)
    got = client.chat.completions.create(
        model="fake", messages=MESSAGES, max_tokens=6, temperature=0, logprobs=True, top_logprobs=2
    )
    content = got.choices[0].logprobs.content
    assert [item.logprob for item in content] == pytest.approx(
        [item.raw_logprob for item in expected.logprobs]
    )
    assert b"".join(bytes(item.bytes) for item in content) == llm.tokenizer.decode_bytes(
        expected.token_ids, skip_special=False
    )
    for item in content:
        assert len(item.top_logprobs) == 2
        assert item.top_logprobs[0].bytes == item.bytes
        assert item.top_logprobs[0].logprob >= item.top_logprobs[1].logprob


def test_a_model_without_a_template_says_so(client):
    with pytest.raises(openai.BadRequestError, match="The model 'plain/text' has no chat template"):
        client.chat.completions.create(model="plain/text", messages=MESSAGES)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"n": 0}, "n"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_by_name(client, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "fake", "messages": MESSAGES}, extra_body=fields)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_fields_that_ask_for_nothing_are_taken(client):
    got = client.chat.completions.create(
        model="fake",
        messages=MESSAGES,
        max_tokens=2,
        tools=[],
        tool_choice="none",
        user="me",
        store=False,
        metadata={"a": "b"},
        service_tier="auto",
        parallel_tool_calls=True,
        modalities=["text"],
        response_format={"type": "text"},
        safety_identifier="x",
        prompt_cache_key="y",
        stop=None,
        seed=None,
        n=None,
    )
    assert got.choices


def test_an_answer_is_json_where_that_was_asked_for(client):
    got = client.chat.completions.create(
        model="fake",
        messages=MESSAGES,
        temperature=0,
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "answer",
                "strict": True,
                "schema": {
                    "type": "object",
                    "properties": {"ok": {"type": "boolean"}, "age": {"enum": [1, 2]}},
                    "required": ["ok", "age"],
                    "additionalProperties": False,
                },
            },
        },
    ).choices[0]
    assert json.loads(got.message.content)["ok"] in (True, False)
    assert got.certificate["valid"] is True
    free = client.chat.completions.create(
        model="fake", messages=MESSAGES, max_tokens=200, response_format={"type": "json_object"}, seed=1
    ).choices[0]
    assert free.message.content.startswith("{")
    if free.finish_reason == "stop":
        assert isinstance(json.loads(free.message.content), dict)


def test_the_clients_own_parser_gets_its_type(client):
    class Answer(pydantic.BaseModel):
        ok: bool
        city: str = pydantic.Field(max_length=4)

    got = client.chat.completions.parse(
        model="fake", messages=MESSAGES, response_format=Answer, temperature=0, max_tokens=200
    )
    assert isinstance(got.choices[0].message.parsed, Answer)


def test_the_prompts_own_log_probabilities_come_beside_the_answer(client, llm):
    got = client.chat.completions.create(
        model="fake",
        messages=MESSAGES,
        max_tokens=1,
        extra_body={"prompt_logprobs": 0, "return_token_ids": True},
    )
    ids = llm.chat_prompt(MESSAGES)
    assert got.prompt_token_ids == ids
    assert [list(place) for place in got.prompt_logprobs[1:]] == [[str(item)] for item in ids[1:]]
    assert len(got.choices[0].token_ids) == 1
