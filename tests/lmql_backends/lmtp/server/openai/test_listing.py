"""/v1/models, /tokenize and /detokenize."""

from __future__ import annotations

import httpx
import openai
import pytest

PROMPT = "The quick brown fox"


def test_models_are_listed_and_found_by_name(client):
    assert [item.id for item in client.models.list()] == ["fake", "plain/text"]
    assert client.models.retrieve("plain/text").id == "plain/text"
    assert client.models.retrieve("fake").object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert caught.value.code == "model_not_found"


def test_what_a_loaded_model_takes_is_listed(client):
    assert [item.max_model_len for item in client.models.list()] == [512, 512]
    assert client.models.retrieve("fake").max_model_len == 512


def test_no_name_is_the_first_model(server, llm):
    answer = httpx.post(
        f"{server.url}/v1/completions", json={"prompt": PROMPT, "max_tokens": 4, "temperature": 0}
    ).json()
    assert answer["model"] == "fake"
    assert answer["choices"][0]["text"] == llm.generate(PROMPT, heal=False, max_tokens=4).text


def test_texts_become_tokens_and_texts_again(server, llm):
    answer = httpx.post(
        f"{server.url}/tokenize", json={"model": "fake", "prompt": PROMPT, "return_token_strs": True}
    ).json()
    assert answer["tokens"] == llm.tokenizer.encode_prompt(PROMPT)
    assert answer["count"] == len(answer["tokens"])
    assert answer["max_model_len"] == 512
    assert "".join(answer["token_strs"]) == PROMPT
    back = httpx.post(f"{server.url}/detokenize", json={"tokens": answer["tokens"]}).json()
    assert back == {"prompt": PROMPT}


def test_a_long_text_is_read_beside_the_event_loop(server, llm):
    text = f"{PROMPT} " * 5000
    answer = httpx.post(f"{server.url}/tokenize", json={"prompt": text}).json()
    assert answer["tokens"] == llm.tokenizer.encode_prompt(text)


def test_conversations_become_tokens(server, llm):
    messages = [{"role": "user", "content": "yes"}]
    answer = httpx.post(f"{server.url}/tokenize", json={"messages": messages}).json()
    assert answer["tokens"] == llm.chat_prompt(messages)
    assert answer["token_strs"] is None
    bare = httpx.post(f"{server.url}/tokenize", json={"messages": messages, "add_generation_prompt": False})
    assert bare.json()["tokens"] == llm.chat_prompt(messages, add_generation_prompt=False)


def test_nothing_is_no_tokens(server):
    assert httpx.post(f"{server.url}/tokenize", json={"prompt": ""}).json()["tokens"] == []
    assert httpx.post(f"{server.url}/detokenize", json={"tokens": []}).json() == {"prompt": ""}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ("tokenize", {"prompt": 5}, "prompt"),
        ("detokenize", {}, "tokens"),
        ("detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("detokenize", {"tokens": [100000]}, None),
    ],
)
def test_what_is_wrong_is_named(server, path, body, param):
    answer = httpx.post(f"{server.url}/{path}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
