"""From ``openai:NAME`` to a model: the tokenizer, the probe and what is kept of it, options."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from fakes.openai_models import OURS
from fakes.small_tokenizer import small_tokenizer, trained

from dcmodel import LLM
from dcmodel.backend import LoadOptions
from dcmodel.cli import main
from dcmodel.errors import (
    CapabilityError,
    ConnectionLostError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    SetupError,
)
from dctokenizers import TokenizerError, from_huggingface
from lmql_backends.lmtp.server.models import StaticModels
from lmql_backends.lmtp.server.openai import openai_routes
from lmql_backends.lmtp.server.openai.double import Double, limits_from
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.openai.backend import BACKEND
from lmql_backends.openai.encoding import encoding_of, find_tokenizer
from lmql_backends.openai.opening import open_model
from lmql_backends.openai.probe_cache import ProbeCache


@asynccontextmanager
async def opened(url, tmp_path, name="fake", **options):
    model = await open_model(
        name, {"base_url": url, "api_key": "key", **options}, probes=ProbeCache(tmp_path)
    )
    try:
        yield model
    finally:
        await model.aclose()


@asynccontextmanager
async def doubled(local, **limits):
    double = Double(limits_from(limits))
    async with LMTPServer({"fake": local}, double=double) as server:
        yield f"{server.http_url}/v1", double


async def test_our_own_server_sends_its_tokenizer_and_its_context(url, tmp_path, local) -> None:
    async with opened(url, tmp_path) as model:
        assert model.tokenizer.fingerprint == local.tokenizer.fingerprint
        assert model.tokenizer.eos_token_ids == local.tokenizer.eos_token_ids
        assert model.info.max_positions == local.info.max_positions
        assert model.info.details["tokenizer"] == "the server"
        assert model.capabilities.token_id_prompts


async def test_a_tokenizer_of_ones_own_leaves_the_servers_context(url, tmp_path, local) -> None:
    async with opened(url, tmp_path, tokenizer=small_tokenizer()) as model:
        assert model.info.max_positions == local.info.max_positions
        answer = await LLM.from_model(model).agenerate("The quick", max_tokens=5000)
        assert answer.usage.completion_tokens < local.info.max_positions


async def test_a_model_that_is_not_loaded_yet_tells_its_context_too(local, tmp_path) -> None:
    class Registry:
        def load(self, *_, **__):
            return local

    models = StaticModels({"fake": LLM("fake", registry=Registry())})
    async with (
        LMTPServer(models, routes=openai_routes(models)) as server,
        opened(f"{server.http_url}/v1", tmp_path, tokenizer=small_tokenizer()) as model,
    ):
        assert model.info.max_positions == local.info.max_positions


class Endpoint:
    """What `find_tokenizer` asks."""

    def __init__(self, *cards, error=None) -> None:
        self.cards, self.error, self.paths = cards, error, []

    async def get(self, path):
        self.paths.append(path)
        if path == "/models":
            return {"data": list(self.cards)}
        raise self.error


@pytest.mark.parametrize(
    ("cards", "context"),
    [
        ([{"id": "m", "max_model_len": 4096}], 4096),
        ([{"id": "m", "max_model_len": "4096", "context_length": 2048}], 2048),
        ([{"id": "m", "context_window": 8192}], 8192),
        ([{"id": "m", "max_context_length": 512}], 512),
        ([{"id": "base", "max_model_len": 4096}, {"id": "m", "parent": "base", "max_model_len": None}], 4096),
        ([{"id": "m", "max_model_len": True}, {"id": "n", "max_model_len": 7}], None),
        ([{"max_model_len": 7}, {"id": "m"}], None),
        ([], None),
    ],
)
async def test_the_context_is_what_the_listing_tells(cards, context) -> None:
    endpoint = Endpoint(*cards)
    found = await find_tokenizer(endpoint, "m", small_tokenizer())
    assert found.max_context == context
    assert endpoint.paths == ["/models"]


@pytest.mark.parametrize(
    "error", [CapabilityError("no route"), OverloadedError("full"), SetupError("broken")]
)
async def test_a_context_that_our_server_does_not_tell_is_not_missed(error) -> None:
    endpoint = Endpoint({"id": "m", "owned_by": "dcmodel"}, error=error)
    found = await find_tokenizer(endpoint, "m", small_tokenizer())
    assert found.max_context is None
    assert endpoint.paths == ["/models", "/tokenizers/m"]


async def test_a_probe_is_kept_for_a_day(local, tmp_path) -> None:
    now = [1000.0]
    probes = ProbeCache(tmp_path, now=lambda: now[0])
    async with doubled(local, preset="open") as (url, double):

        async def requests_of_opening(**options) -> int:
            before = len(double.records)
            given = {"base_url": url, "api_key": "key", "tokenizer": small_tokenizer(), **options}
            model = await open_model("fake", given, probes=probes)
            await model.aclose()
            return len(double.records) - before

        first = await requests_of_opening()
        assert first > 0
        assert await requests_of_opening() == 0
        assert await requests_of_opening(probe="refresh") > first
        assert await requests_of_opening(chat=True) > 0
        now[0] += 86_401
        assert await requests_of_opening() == first


async def test_a_broken_file_of_a_probe_counts_as_missing(tmp_path) -> None:
    probes = ProbeCache(tmp_path)
    probes.write(OURS, "a", "b")
    assert probes.read("a", "b") == OURS
    (file,) = tmp_path.iterdir()
    file.write_text('{"time": 1')
    assert probes.read("a", "b") is None


async def test_capabilities_can_be_said_instead(url, tmp_path) -> None:
    async with opened(url, tmp_path, capabilities={"max_bias_entries": 7}) as model:
        assert model.capabilities.max_bias_entries == 7
        assert model.capabilities.token_id_prompts
    async with opened(url, tmp_path, probe=False) as model:
        assert not model.capabilities.token_id_prompts
    with pytest.raises(InvalidRequestError, match="no capability 'telepathy'"):
        async with opened(url, tmp_path, capabilities={"telepathy": True}):
            pass


async def test_another_models_tokenizer_is_found_out(url, tmp_path) -> None:
    other = from_huggingface(trained(270)).with_eos([1])
    with pytest.raises(SetupError, match="another model's"):
        async with opened(url, tmp_path, tokenizer=other):
            pass


async def test_an_endpoint_whose_tokenizer_is_not_known_says_how_to_name_one(local, tmp_path) -> None:
    async with doubled(local) as (url, _):
        with pytest.raises(SetupError, match="tokenizer= takes a path"):
            async with opened(url, tmp_path):
                pass


@pytest.mark.parametrize(
    ("path", "name", "says"),
    [
        ("", "nobody", r"has no model of that name; it has fake\. Check the name\."),
        ("/v2", "fake", r"answered 404: .*check base_url"),
    ],
)
async def test_where_no_tokenizer_is_known_the_error_tells_what_the_endpoint_said(
    url, tmp_path, path, name, says
) -> None:
    with pytest.raises(SetupError, match=rf"the tokenizer of '{name}' is not known, and .*{says}"):
        async with opened(url + path, tmp_path, name=name):
            pass


async def test_a_server_that_is_down_is_no_matter_of_tokenizers(tmp_path) -> None:
    with pytest.raises(ConnectionLostError, match="could not be reached"):
        async with opened("http://127.0.0.1:1/v1", tmp_path):
            pass


async def test_the_error_of_a_tokenizer_is_one_line(url, tmp_path, monkeypatch) -> None:
    def fail(name):
        raise TokenizerError("no network.\nCheck it.")

    monkeypatch.setattr("lmql_backends.openai.encoding.load", fail)
    with pytest.raises(SetupError, match=r"no network\. Check it\.") as caught:
        async with opened(url, tmp_path, tokenizer="some/one"):
            pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("chat", "no", "chat is 'no'; it must be true or false"),
        ("decisions", 7, "decisions is 7; it must be true or false"),
        ("azure", "yes", "azure is 'yes'; it must be true or false"),
        ("organization", 5, "organization is 5; it must be a text"),
        ("base_url", 5, "base_url is 5; it must be a text"),
        ("extra_body", 5, "extra_body is 5; it must be an object"),
        ("default_headers", {"x": 1}, r"default_headers\['x'\] is 1; it must be a text"),
        ("api_version", "2024-10-21", "api_version is an option of Azure. Give azure=True"),
        ("capabilities", {"max_bias_entries": -5}, r"capabilities\['max_bias_entries'\] is -5"),
        ("prices", {"prompt": 1.0}, "Give prices of a million tokens"),
        (5, 1, "the option 5 is not known"),
    ],
)
async def test_an_option_of_the_wrong_kind_is_named(url, tmp_path, option, value, says) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        await open_model("fake", {"base_url": url, option: value}, probes=ProbeCache(tmp_path))


async def test_an_option_that_is_none_is_as_good_as_left_out(url, tmp_path) -> None:
    nothing = dict.fromkeys(("chat", "masks_choices", "window", "capabilities", "probe", "prices", "seconds"))
    async with opened(url, tmp_path, **nothing) as model:
        assert model.capabilities.token_id_prompts


@pytest.mark.parametrize("option", [{"device": "cuda"}, {"dtype": "float32"}, {"kv_tokens": 512}])
def test_what_only_a_local_model_has_is_refused(option) -> None:
    with pytest.raises(
        InvalidRequestError, match=rf"{next(iter(option))}=.* cannot be set for a model of an"
    ):
        BACKEND.load("openai:fake", LoadOptions(**option))


async def test_a_wrong_option_names_the_right_one(url, tmp_path) -> None:
    with pytest.raises(InvalidRequestError, match="Did you mean 'base_url'"):
        async with opened(url, tmp_path, base_ulr="x"):
            pass


async def test_an_unknown_model_is_an_error(url, tmp_path) -> None:
    with pytest.raises(ModelNotFoundError):
        async with opened(url, tmp_path, name="nobody", tokenizer=small_tokenizer()):
            pass


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("gpt-6-luna", "o200k_base"),
        ("gpt-5.1", "o200k_base"),
        ("gpt-4o-mini", "o200k_base"),
        ("gpt-4.1", "o200k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-3.5-turbo-instruct", "cl100k_base"),
        ("ft:gpt-4o-mini:someone", "o200k_base"),
        ("openai/gpt-oss-20b", "o200k_harmony"),
        ("o3", "o200k_base"),
        ("llama-3", None),
    ],
)
def test_names_of_openais_models_have_encodings(name, encoding) -> None:
    assert encoding_of(name) == encoding


async def test_a_name_with_the_prefix_is_for_this_backend(url, tmp_path, monkeypatch, local) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def ask() -> str:
        with LLM("openai:fake", extra={"base_url": url}) as llm:
            return llm.generate("The quick", max_tokens=8).text

    expected = LLM.from_model(local)
    assert await asyncio.to_thread(ask) == (await expected.agenerate("The quick", max_tokens=8)).text


async def test_the_command_shows_what_a_probe_found(local, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    async with doubled(local, preset="open", allowed_token_ids="ignored", grammars={"regex": "ignored"}) as (
        url,
        _,
    ):
        arguments = ["backends", "--probe", "openai:fake", "--option", f"base_url={url}"]
        assert await asyncio.to_thread(main, arguments) == 0
        shown = capsys.readouterr().out
        assert await asyncio.to_thread(main, [*arguments, "--json"]) == 0
        capabilities = json.loads(capsys.readouterr().out)["capabilities"]
    assert "prompts as token ids" in shown
    assert capabilities["allowed_token_ids"] == "no"
    assert capabilities["log-probabilities"] == "raw, 1000 likeliest"
    assert capabilities["grammar: regex"] == "honoured (structured_outputs.regex)"


async def test_a_conversation_goes_to_the_chat_route_as_it_is(url, tmp_path, local) -> None:
    messages = [
        {"role": "system", "content": 'Say "1\n2" <|eos|>'},
        {"role": "user", "content": "The quick brown fox"},
    ]
    async with opened(url, tmp_path, chat=True) as model:
        there, here = LLM.from_model(model), LLM.from_model(local)
        theirs = await there.agenerate(await there.achat_prompt(messages), max_tokens=8)
        ours = await here.agenerate(await here.achat_prompt(messages), max_tokens=8)
        assert theirs.text == ours.text
        assert theirs.cost is not None


async def test_an_answer_that_was_begun_goes_on(url, tmp_path, local) -> None:
    begun = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "It's a \"fox"}]
    async with opened(url, tmp_path, chat=True) as model:
        there, here = LLM.from_model(model), LLM.from_model(local)
        prompts = [await item.achat_prompt(begun, continue_final_message=True) for item in (there, here)]
        theirs = await there.agenerate(prompts[0], max_tokens=8)
        ours = await here.agenerate(prompts[1], max_tokens=8)
        assert theirs.text == ours.text
