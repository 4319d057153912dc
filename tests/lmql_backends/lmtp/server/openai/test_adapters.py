"""Adapters with the official client: routes, the list, and vLLM's two routes for loading and unloading."""

from __future__ import annotations

from contextlib import contextmanager

import httpx
import openai_server
import pytest
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel.local import LocalDcModel
from dcmodel.loop import run
from dcmodel.types import GenerateRequest
from lmql_backends.lmtp.server.limits import ConnectionLimits

openai = pytest.importorskip("openai")


@pytest.fixture
def models():
    made = {
        "one": LocalDcModel(loaded_fake(small_tokenizer())),
        "two": LocalDcModel(loaded_fake(small_tokenizer())),
    }
    run(made["one"].mount_adapter("law", "seed:7"))
    yield made
    for model in made.values():
        run(model.aclose())


@contextmanager
def serving(models, **limits):
    with (
        openai_server.running(models, limits=ConnectionLimits(**limits)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def text_of(model, adapter):
    ids = tuple(model.tokenizer.encode_prompt("yes"))
    request = GenerateRequest(prompt_ids=ids, max_tokens=8, adapter=adapter)

    async def generate():
        return (await model.generate(request).completion()).text

    return run(generate())


def asked(client, name):
    return client.completions.create(model=name, prompt="yes", max_tokens=8, temperature=0).choices[0].text


def test_an_adapter_is_asked_for_by_its_name(models):
    with serving(models) as client:
        texts = {name: asked(client, name) for name in ("one", "one:law", "law", "two")}
    assert texts["one:law"] == texts["law"] == text_of(models["one"], "law")
    assert texts["one"] == texts["two"] == text_of(models["one"], None) != texts["law"]


def test_streams_and_scores_have_it_too(models):
    with serving(models) as client:
        stream = client.completions.create(
            model="law", prompt="yes", max_tokens=8, temperature=0, stream=True
        )
        assert "".join(chunk.choices[0].text for chunk in stream) == text_of(models["one"], "law")
        scores = [
            client.completions.create(model=name, prompt="yes no", max_tokens=0, echo=True, logprobs=0)
            for name in ("one", "law")
        ]
    assert scores[0].choices[0].logprobs.token_logprobs != scores[1].choices[0].logprobs.token_logprobs
    assert scores[1].model == "one:law"


def test_adapters_are_listed_with_their_model(models):
    with serving(models) as client:
        listed = {item.id: item for item in client.models.list()}
        assert list(listed) == ["one", "one:law", "two"]
        assert (listed["one:law"].parent, listed["one:law"].root) == ("one", "law")
        assert listed["one"].parent is None
        assert client.models.retrieve("one:law").parent == "one"
        assert client.models.retrieve("law").id == "one:law"
        for name in ("one:none", "none"):
            with pytest.raises(openai.NotFoundError):
                client.models.retrieve(name)
            with pytest.raises(openai.NotFoundError, match="none"):
                asked(client, name)


def test_adapters_are_loaded_and_unloaded_as_in_vllm(models):
    with serving(models, mount_from=None) as client:

        def post(path, **body):
            return client.post(f"/{path}", body=body, cast_to=httpx.Response)

        answer = post("load_lora_adapter", lora_name="tax", lora_path="seed:8")
        assert answer.text == "Success: LoRA adapter 'tax' added successfully."
        assert asked(client, "tax") == text_of(models["one"], "tax") != asked(client, "one")
        post("load_lora_adapter", lora_name="tax", lora_path="seed:9", model="two")
        with pytest.raises(openai.BadRequestError, match="2 models"):
            asked(client, "tax")
        assert asked(client, "two:tax") == text_of(models["two"], "tax")
        assert post("unload_lora_adapter", lora_name="two:tax").text.endswith("removed successfully.")
        post("unload_lora_adapter", lora_name="tax")
        with pytest.raises(openai.NotFoundError):
            asked(client, "tax")
        for body, error in (
            ({"lora_name": "law", "lora_path": "seed:1"}, openai.BadRequestError),
            ({"lora_name": "new", "lora_path": "nonsense"}, openai.BadRequestError),
            ({"lora_name": "no name", "lora_path": "seed:1"}, openai.BadRequestError),
            ({"lora_name": "new"}, openai.BadRequestError),
            ({"lora_name": "new", "lora_path": "seed:1", "model": "none"}, openai.NotFoundError),
            ({"lora_name": "new", "lora_path": "seed:1", "load_inplace": True}, openai.BadRequestError),
        ):
            with pytest.raises(error):
                post("load_lora_adapter", **body)
        for name in ("none", "one:none", "one"):
            with pytest.raises(openai.NotFoundError):
                post("unload_lora_adapter", lora_name=name)


def test_nobody_loads_anything_where_that_is_not_allowed(models):
    with serving(models) as client:
        for path, body in (
            ("load_lora_adapter", {"lora_name": "tax", "lora_path": "seed:8"}),
            ("unload_lora_adapter", {"lora_name": "law"}),
        ):
            with pytest.raises(openai.BadRequestError, match="--allow-mounting"):
                client.post(f"/{path}", body=body, cast_to=httpx.Response)
    assert [info.name for info in models["one"].adapters] == ["law"]
