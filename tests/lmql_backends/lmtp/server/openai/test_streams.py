"""Streams by the official client: the same as the whole, whole characters, errors, and clients that go."""

from __future__ import annotations

import asyncio
import json

import httpx
import openai
import pytest

PROMPT = "The quick brown fox"
MESSAGES = [{"role": "user", "content": "漢字 🐢"}]


def test_the_deltas_joined_are_the_text(client):
    for seed in range(8):
        ask = {"model": "fake", "prompt": "émoji 🐢 漢字", "max_tokens": 40, "seed": seed, "temperature": 1.5}
        whole = client.completions.create(**ask)
        chunks = list(client.completions.create(**ask, stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
        assert len({chunk.id for chunk in chunks}) == 1
        assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
        assert chunks[-1].choices[0].certificate["exact"] is True
        assert all(chunk.usage is None for chunk in chunks)


def test_a_stop_string_is_never_shown_in_part(client):
    whole = client.completions.create(model="fake", prompt=PROMPT, max_tokens=24, temperature=0)
    text = whole.choices[0].text
    for start in range(2, 12):
        ask = {
            "model": "fake",
            "prompt": PROMPT,
            "max_tokens": 24,
            "temperature": 0,
            "stop": text[start : start + 4],
        }
        chunks = client.completions.create(**ask, stream=True)
        assert (
            "".join(chunk.choices[0].text for chunk in chunks) == text[: text.index(text[start : start + 4])]
        )


def test_a_chat_stream_begins_with_the_role_and_ends_with_the_reason(client):
    ask = {"model": "fake", "messages": MESSAGES, "max_tokens": 12, "seed": 1}
    whole = client.chat.completions.create(**ask)
    chunks = list(client.chat.completions.create(**ask, stream=True))
    assert chunks[0].object == "chat.completion.chunk"
    assert (chunks[0].choices[0].delta.role, chunks[0].choices[0].delta.content) == ("assistant", "")
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_usage_comes_last_where_it_was_asked_for(client):
    for ask in (
        {"messages": MESSAGES, "create": client.chat.completions.create},
        {"prompt": [PROMPT, "yes"], "create": client.completions.create},
    ):
        create = ask.pop("create")
        ask |= {"model": "fake", "max_tokens": 6, "seed": 1, "n": 2}
        whole = create(**ask)
        chunks = list(create(**ask, stream=True, stream_options={"include_usage": True}))
        assert all(chunk.usage is None for chunk in chunks[:-1])
        assert chunks[-1].choices == []
        counts = ("prompt_tokens", "completion_tokens", "total_tokens")
        assert [getattr(chunks[-1].usage, name) for name in counts] == [
            getattr(whole.usage, name) for name in counts
        ]


def test_several_texts_grow_side_by_side(client):
    ask = {"model": "fake", "prompt": [PROMPT, "no"], "max_tokens": 8, "n": 2, "seed": 3}
    whole = client.completions.create(**ask)
    texts = ["", "", "", ""]
    for chunk in client.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]


def test_log_probabilities_in_chunks_are_those_of_the_whole(client):
    ask = {"model": "fake", "prompt": "漢", "max_tokens": 12, "seed": 3, "logprobs": 2, "echo": True}
    whole = client.completions.create(**ask).choices[0]
    joined = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    text = ""
    for chunk in client.completions.create(**ask, stream=True):
        text += chunk.choices[0].text
        for name, items in joined.items():
            items += getattr(chunk.choices[0].logprobs, name) if chunk.choices[0].logprobs else []
    assert text == whole.text
    assert joined == {name: getattr(whole.logprobs, name) for name in joined}
    ask = {
        "model": "fake",
        "messages": MESSAGES,
        "max_tokens": 9,
        "seed": 3,
        "logprobs": True,
        "top_logprobs": 1,
    }
    expected = client.chat.completions.create(**ask).choices[0].logprobs.content
    chunks = client.chat.completions.create(**ask, stream=True)
    got = [item for chunk in chunks for item in (chunk.choices[0].logprobs or NONE).content]
    assert got == expected


class NONE:
    content = ()


def test_token_ids_in_chunks_are_those_of_the_whole(client):
    ask = {
        "model": "fake",
        "prompt": "漢",
        "max_tokens": 12,
        "seed": 3,
        "extra_body": {"return_token_ids": True},
    }
    whole = client.completions.create(**ask).choices[0].token_ids
    chunks = client.completions.create(**ask, stream=True)
    assert [item for chunk in chunks for item in getattr(chunk.choices[0], "token_ids", [])] == whole


def test_the_clients_own_accumulator_gets_the_whole_answer(client):
    ask = {"model": "fake", "messages": MESSAGES, "extra_body": {"choice": ["the brown fox"]}}
    with client.chat.completions.stream(**ask) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.content == "the brown fox"


def test_the_bytes_are_events_as_the_standard_has_them(server):
    with httpx.Client(base_url=server.url) as http:
        answer = http.post(
            "/v1/completions", json={"prompt": PROMPT, "max_tokens": 3, "temperature": 0, "stream": True}
        )
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-cache"
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    for event in events[:-2]:
        assert json.loads(event.removeprefix("data: "))["object"] == "text_completion"


def test_an_error_before_the_first_token_has_its_status(client):
    for fields in ({"regex": "("}, {"grammar": "start: undefined"}):
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model="fake", prompt=PROMPT, stream=True, extra_body=fields)
        assert caught.value.param == next(iter(fields))
        assert caught.value.code == "invalid_constraint"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": 3}, "best_of"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream": False, "stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_what_cannot_be_streamed_is_refused(client, fields, param):
    body = {"stream": True, **fields}
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="fake", prompt=PROMPT, extra_body=body)
    assert caught.value.param == param


async def test_many_streams_at_once_are_each_its_own(server):
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

        async def one(seed: int) -> tuple[str, str]:
            ask = {"model": "fake", "prompt": PROMPT, "max_tokens": 20, "seed": seed}
            chunks = await client.completions.create(**ask, stream=True)
            text = "".join([chunk.choices[0].text async for chunk in chunks])
            return text, (await client.completions.create(**ask)).choices[0].text

        for streamed, whole in await asyncio.gather(*map(one, range(24))):
            assert streamed == whole
    assert server.models.users == 0
