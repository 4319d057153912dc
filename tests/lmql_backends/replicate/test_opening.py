"""From a name and options to a model: what is wrong with them is said at once."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conformance.requests import request, run_one
from fakes.fake_engine import loaded_fake
from fakes.replicate_server import NAME, OWNER, TOKEN, VERSION, ReplicateServer
from fakes.served import ServedModels
from fakes.small_tokenizer import small_tokenizer

from dcmodel.backend import LoadOptions
from dcmodel.errors import (
    InvalidRequestError,
    ModelLoadError,
    ModelNotFoundError,
    UnauthorizedError,
)
from dcmodel.llm import LLM
from dcmodel.local import LocalDcModel
from dcmodel.loop import run
from lmql_backends.replicate.backend import BACKEND
from lmql_backends.replicate.cog.predictor import Predictions
from lmql_backends.replicate.names import ModelName
from lmql_backends.replicate.opening import open_model
from lmql_backends.replicate.settings import settings_of

OURS = f"replicate:{OWNER}/{NAME}"


@pytest.mark.parametrize("name", [OURS, f"{OURS}:{VERSION}", f"replicate:deployments/{OWNER}/{NAME}"])
async def test_each_form_of_a_name_opens_the_model(server, local, name, monkeypatch):
    monkeypatch.setenv("REPLICATE_API_TOKEN", TOKEN)
    monkeypatch.setenv("REPLICATE_BASE_URL", f"{server.url}/v1/")
    model = await open_model(name, {})
    item = request(local, "yes")
    assert (await run_one(model, item)).token_ids == (await run_one(local, item)).token_ids
    assert ("version" in server.created[-1]) != name.startswith("replicate:deployments")
    await model.aclose()


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("replicate:meta/llama", ModelName("meta", "llama")),
        ("replicate:meta/llama:5c7d", ModelName("meta", "llama", "5c7d")),
        ("replicate:deployments/acme/mine", ModelName("acme", "mine", is_deployment=True)),
    ],
)
def test_names_are_read(text, parsed):
    assert ModelName.parse(text) == parsed
    assert str(parsed) == text


@pytest.mark.parametrize(
    "text",
    ["replicate:", "replicate:llama", "replicate:a/b/c", "replicate:deployments/a/b:c", "replicate:a/b c"],
)
def test_what_is_no_name_is_refused_with_the_forms_there_are(text):
    with pytest.raises(InvalidRequestError, match="replicate:OWNER/NAME:VERSION"):
        ModelName.parse(text)


def test_without_a_token_the_variable_is_named():
    with pytest.raises(UnauthorizedError, match="REPLICATE_API_TOKEN"):
        settings_of({})


@pytest.mark.parametrize(
    "extra",
    [
        {"tokens": 3},
        {"base_url": "ftp://x"},
        {"base_url": "https://user:secret@x"},
        {"deadline": 0},
        {"retries": -1},
    ],
)
def test_a_bad_option_is_refused(extra):
    with pytest.raises(InvalidRequestError):
        settings_of({"token": "t", **extra})


def test_a_token_is_shown_nowhere():
    assert "secret" not in repr(settings_of({"token": "secret"}))


@pytest.mark.parametrize(
    "name", ["replicate:nobody/nothing", f"{OURS}:abc", "replicate:deployments/nobody/nothing"]
)
async def test_a_model_that_is_not_there_is_an_error(server, name):
    with pytest.raises(ModelNotFoundError, match="not be found"):
        await open_model(name, {"token": TOKEN, "base_url": server.url})


async def test_a_wrong_token_is_an_error(server):
    with pytest.raises(UnauthorizedError, match="REPLICATE_API_TOKEN"):
        await open_model(OURS, {"token": "wrong", "base_url": server.url})


async def test_a_model_that_shows_no_tokens_is_refused_before_it_costs_anything():
    async def nothing(fields):
        yield ""

    async with ReplicateServer(nothing, ("prompt", "max_new_tokens")) as server:
        with pytest.raises(ModelLoadError, match=r"prompt.*dcmodel replicate init"):
            await open_model(OURS, {"token": TOKEN, "base_url": server.url})
        assert server.created == []


def test_options_of_loading_are_the_pushers_affair():
    with pytest.raises(InvalidRequestError, match="DCMODEL_DTYPE"):
        BACKEND.load(OURS, LoadOptions(dtype="float16"))


def test_the_form_of_a_name_claims_it():
    assert BACKEND.claims(OURS)
    assert not BACKEND.claims("meta/llama")


def test_importing_the_backend_is_light():
    program = (
        "import sys, lmql_backends.replicate.backend, lmql_backends.replicate.commands.replicate;"
        "print([name for name in ('aiohttp', 'msgspec', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_simple_interface_reaches_it_by_name():
    """Through the registry, in dcmodel's own loop, with synchronous calls."""
    local = LocalDcModel(loaded_fake(small_tokenizer()))
    predictions = Predictions(ServedModels({"fake": local}))
    server = ReplicateServer(lambda fields: predictions.answers(**fields))
    run(server.__aenter__())
    with LLM(OURS, extra={"token": TOKEN, "base_url": server.url}) as llm:
        completion = llm.generate("yes", regex="[a-z]{3,5}")
        assert re.fullmatch("[a-z]{3,5}", completion.text)
        chosen = llm.choose("yes", ["no", "maybe"])
        assert chosen.text in ("no", "maybe")
    run(server.__aexit__())
    run(local.aclose())
