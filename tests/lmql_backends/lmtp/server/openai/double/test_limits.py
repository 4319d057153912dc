"""What the double refuses, how it says so, and what it ignores; seen by the official client."""

from __future__ import annotations

import pytest

from dcmodel.errors import InvalidRequestError
from lmql_backends.lmtp.server.openai.double import PRESETS, Double, OpenAILimits, limits_from
from lmql_backends.lmtp.server.openai.double.limits import GRAMMARS

openai = pytest.importorskip("openai")

SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
    "additionalProperties": False,
}
HELLO = [{"role": "user", "content": "hello, answer in json"}]


def format_of(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}


async def complete(client, **fields):
    return await client.completions.create(**{"model": "fake", "prompt": "hello", "max_tokens": 4, **fields})


async def chat(client, **fields):
    given = {"model": "fake", "messages": HELLO, "max_tokens": 4, **fields}
    return await client.chat.completions.create(**given)


FORMAT = format_of(SCHEMA)
ASKED = {"regex": "a"}
REFUSED = [
    (chat, {"logit_bias": {str(n): 1 for n in range(301)}}, "logit_bias", "object_above_max_properties"),
    (chat, {"logit_bias": {"5": 101}}, "logit_bias", "integer_above_max_value"),
    (chat, {"logit_bias": {"5": -100.5}}, "logit_bias", "decimal_below_min_value"),
    (chat, {"logit_bias": {"384": 1}}, "logit_bias", None),
    (chat, {"logit_bias": {"AI": 1}}, "logit_bias", None),
    (chat, {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    (complete, {"logprobs": 6}, "logprobs", "integer_above_max_value"),
    (complete, {"logprobs": 1, "echo": True}, "logprobs", None),
    (complete, {"stop": ["a", "b", "c", "d", "e"]}, "stop", "array_above_max_length"),
    (complete, {"temperature": 2.5}, "temperature", "decimal_above_max_value"),
    (complete, {"n": 129}, "n", "integer_above_max_value"),
    (complete, {"extra_body": {"top_k": 5}}, "top_k", "unknown_parameter"),
    (complete, {"extra_body": {"regex": "a"}}, "regex", "unknown_parameter"),
    (complete, {"extra_body": {"allowed_token_ids": [5]}}, "allowed_token_ids", "unknown_parameter"),
    (
        complete,
        {"extra_body": {"response_format": format_of(SCHEMA)}},
        "response_format",
        "unknown_parameter",
    ),
    (chat, {"extra_body": {"structured_outputs": {"regex": "a"}}}, "structured_outputs", "unknown_parameter"),
    (chat, {"extra_body": {"nonsense": 1}}, "nonsense", "unknown_parameter"),
    (chat, {"response_format": format_of({"type": "object"}, strict=True)}, "response_format", None),
    (chat, {"temperature": -1}, "temperature", "invalid_value"),
    (complete, {"max_tokens": 600}, "max_tokens", "context_length_exceeded"),
]


@pytest.mark.parametrize(("call", "fields", "param", "code"), REFUSED)
async def test_openai_refuses_it(serve, call, fields, param, code):
    async with serve(Double()) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await call(client, **fields)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.type == "invalid_request_error"


async def test_what_is_just_within_the_limits_is_taken(serve):
    async with serve(Double()) as client:
        bias = {str(n): -100 if n % 2 else 100 for n in range(300)}
        await chat(client, logit_bias=bias, logprobs=True, top_logprobs=20, temperature=2)
        await complete(client, logprobs=5, stop=["a", "b", "c", "d"])
        await chat(client, response_format=format_of(SCHEMA, strict=True))


async def test_a_missing_and_an_unknown_model_are_named_as_by_openai(serve):
    async with serve(Double()) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await complete(client, model="gpt-9")
        assert caught.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError, match="model"):
            await complete(client, model="")


async def test_answers_show_what_openai_shows(serve):
    async with serve(Double()) as client:
        text, answer = await complete(client), await chat(client)
        stream = await chat(client, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        models = await client.models.list()
        with pytest.raises(openai.NotFoundError):
            await client.post("/../tokenize", body={"prompt": "a"}, cast_to=object)
        with pytest.raises(openai.NotFoundError):
            await client.post("/load_lora_adapter", body={}, cast_to=object)
    assert set(text.choices[0].to_dict()) == {"index", "text", "logprobs", "finish_reason"}
    assert set(answer.choices[0].to_dict()) == {"index", "message", "logprobs", "finish_reason"}
    for chunk in chunks[:-1]:
        assert set(chunk.choices[0].to_dict()) <= {"index", "delta", "logprobs", "finish_reason"}
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 4
    assert models.data[0].owned_by == "system"
    assert set(models.data[0].to_dict()) == {"id", "created", "object", "owned_by"}


async def test_a_stream_has_the_text_of_the_answer(serve):
    fields = {"seed": 3, "temperature": 1, "max_tokens": 24}
    async with serve(Double()) as client:
        text = (await complete(client, **fields)).choices[0].text
        streamed = [c.choices[0].text async for c in await complete(client, stream=True, **fields)]
        answer = (await chat(client, **fields)).choices[0].message.content
        deltas = [c.choices[0].delta.content async for c in await chat(client, stream=True, **fields)]
    assert "".join(streamed) == text
    assert "".join(part or "" for part in deltas) == answer


@pytest.mark.parametrize("name", [name for name in GRAMMARS if "." not in name and name[:5] != "json_"])
@pytest.mark.parametrize("support", ["honoured", "refused", "ignored"])
async def test_each_field_of_a_form_is_honoured_refused_or_ignored_by_itself(serve, name, support):
    values = {
        "json": {"type": "integer"},
        "regex": "[0-9]{3}",
        "choice": ["123"],
        "grammar": "start: /[0-9]{3}/",
        "constraint": {"kind": "regex", "pattern": "[0-9]{3}"},
    }
    body = {name: values[name.removeprefix("guided_")]}
    limits = OpenAILimits(grammars={name: support})
    async with serve(Double(limits)) as client:
        if support == "refused":
            with pytest.raises(openai.BadRequestError):
                await complete(client, extra_body=body, temperature=0)
            return
        text = (await complete(client, extra_body=body, temperature=0)).choices[0].text
        free = (await complete(client, temperature=0)).choices[0].text
    assert (text == free) == (support == "ignored")
    assert text.strip("-").isdigit() == (support == "honoured")


async def test_kinds_within_structured_outputs_are_told_apart(serve):
    limits = OpenAILimits(
        grammars={"structured_outputs.regex": "honoured", "structured_outputs.choice": "ignored"}
    )
    regex, choice = {"regex": "[0-9]{3}"}, {"choice": ["yes"]}
    async with serve(Double(limits)) as client:
        made = [
            (await complete(client, extra_body={"structured_outputs": asked}, temperature=0)).choices[0].text
            for asked in (regex, choice, {**regex, **choice})
        ]
    assert made[0] == made[2]
    assert made[0].isdigit()
    assert made[1] != "yes"


async def test_a_schema_without_strict_is_only_a_wish(serve):
    async with serve(Double()) as client:
        loose = await chat(client, response_format=format_of(SCHEMA), temperature=0)
        free = await chat(client, temperature=0)
        with pytest.raises(openai.BadRequestError, match="'json' in some form"):
            await chat(
                client, response_format={"type": "json_object"}, messages=[{"role": "user", "content": "hi"}]
            )
    assert loose.choices[0].message.content == free.choices[0].message.content


async def test_a_custom_tool_takes_a_text_of_its_grammar(serve):
    grammar = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: /[0-9]{3}/"}}
    tool = {"type": "custom", "custom": {"name": "dial", "format": grammar}}
    fields = {"tools": [tool], "tool_choice": "required", "max_tokens": 20, "temperature": 0}
    async with serve(Double(OpenAILimits(grammars={"custom_tool.lark": "honoured"}))) as client:
        choice = (await chat(client, **fields)).choices[0]
        chunks = [c.choices[0] async for c in await chat(client, stream=True, **fields)]
    call = choice.message.tool_calls[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert call.custom.name == "dial"
    assert call.custom.input.isdigit()
    parts = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
    assert "".join(part.to_dict()["custom"]["input"] for part in parts) == call.custom.input
    assert chunks[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize("support", ["honoured", "refused", "ignored"])
async def test_token_ids_and_seeds_and_allowed_ids_have_knobs(serve, support):
    limits = OpenAILimits(token_ids=support, seed=support, allowed_token_ids=support)
    asked = {
        "return_token_ids": {"return_token_ids": True},
        "seed": {"seed": 5},
        "allowed_token_ids": {"allowed_token_ids": [7]},
    }
    async with serve(Double(limits)) as client:
        for body in asked.values():
            if support == "refused":
                with pytest.raises(openai.BadRequestError):
                    await complete(client, extra_body=body)
        if support == "refused":
            return
        ids = await complete(client, extra_body={"return_token_ids": True, "allowed_token_ids": [7]})
        seeded = [(await complete(client, seed=5, max_tokens=30)).choices[0].text for _ in range(2)]
    assert hasattr(ids.choices[0], "token_ids") == (support == "honoured")
    assert (len(set(seeded)) == 1) == (support == "honoured")
    if support == "honoured":
        assert ids.choices[0].token_ids == [7] * 4


@pytest.mark.parametrize(
    ("knob", "prompt"),
    [("token_id_prompts", [5, 6]), ("list_prompts", ["a", "b"]), ("token_id_prompts", [[5], [6]])],
)
async def test_kinds_of_prompts_have_knobs(serve, knob, prompt):
    async with serve(Double(OpenAILimits(**{knob: False}))) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await complete(client, prompt=prompt)
    assert (caught.value.param, caught.value.code) == ("prompt", "invalid_type")
    async with serve(Double()) as client:
        await complete(client, prompt=prompt)


async def test_an_answer_that_was_begun_is_continued_refused_or_forgotten(serve, llm):
    messages = [*HELLO, {"role": "assistant", "content": "the quick"}]
    body = {"continue_final_message": True, "add_generation_prompt": False}
    said = {}
    for support in ("honoured", "ignored"):
        async with serve(Double(OpenAILimits(continuation=support))) as client:
            answer = await chat(client, messages=messages, extra_body=body, temperature=0)
            said[support] = answer.choices[0].message.content
    async with serve(Double(OpenAILimits(always_continues=True))) as client:
        said["always"] = (await chat(client, messages=messages, temperature=0)).choices[0].message.content
    async with serve(Double(OpenAILimits(continuation="refused"))) as client:
        with pytest.raises(openai.BadRequestError):
            await chat(client, messages=messages)
    begun = llm.chat_prompt(messages, continue_final_message=True)
    expected = (await llm.agenerate(begun, max_tokens=4, temperature=0)).text
    assert said["honoured"] == said["always"] == expected
    assert said["ignored"] != expected


def test_limits_come_from_plain_values_and_errors_name_the_knob():
    assert limits_from({}) == OpenAILimits()
    assert limits_from({"preset": "vllm", "max_stops": 2}).max_stops == 2
    assert all(limits_from({"preset": name}) for name in PRESETS)
    assert limits_from({"max_stops": None}).max_stops is None
    for bad, named in [
        ({"max_stop": 4}, "max_stop"),
        ({"preset": "gpt"}, "gpt"),
        ({"max_bias_entries": -1}, "max_bias_entries"),
        ({"grammars": {"xml": "honoured"}}, "xml"),
        ({"seed": "perhaps"}, "seed"),
    ]:
        with pytest.raises(InvalidRequestError, match=named):
            limits_from(bad)
