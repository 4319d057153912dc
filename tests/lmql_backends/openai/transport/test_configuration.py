"""Endpoints, keys and headers as the SDK's own client objects have them."""

from __future__ import annotations

import subprocess
import sys
import time

import openai
import pytest
from fakes.fault_server import FaultServer

from dcmodel.errors import (
    CapabilityError,
    ConnectionLostError,
    InvalidRequestError,
    OverloadedError,
    SetupError,
    UnauthorizedError,
)
from lmql_backends.openai.transport.configuration import Configuration, make_client
from lmql_backends.openai.transport.failures import from_sdk

VARIABLES = (
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "OPENAI_ORG_ID",
    "OPENAI_PROJECT_ID",
    "AZURE_OPENAI_API_KEY",
)
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in (*VARIABLES, *PROXIES, *(name.upper() for name in PROXIES)):
        monkeypatch.delenv(name, raising=False)


async def target(client, method="POST", path="/completions", model="m"):
    configuration = Configuration(client, owns_client=True)
    try:
        return await configuration.target(method, path, model)
    finally:
        await configuration.aclose()


def sent(target) -> dict[str, str]:
    return {name.lower(): value for name, value in target.headers.items()}


async def test_openai_from_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    found = await target(make_client())
    assert found.url == "https://api.openai.com/v1/completions"
    assert sent(found)["authorization"] == "Bearer sk-1"
    assert sent(found)["openai-organization"] == "org-1"
    assert sent(found)["content-type"] == "application/json"
    assert not {"host", "content-length", "accept-encoding"} & set(sent(found))


async def test_a_local_server_needs_no_key():
    found = await target(make_client(base_url="http://127.0.0.1:8000/v1"))
    assert found.url == "http://127.0.0.1:8000/v1/completions"


def test_without_a_key_the_error_says_what_to_set():
    with pytest.raises(SetupError, match="Set OPENAI_API_KEY"):
        make_client()
    with pytest.raises(SetupError, match="Set AZURE_OPENAI_API_KEY"):
        make_client(base_url="https://inside/openai", azure=True, options={"api_version": "2024-10-21"})


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000/v1", "ftp://127.0.0.1/v1", "http:///v1"])
def test_a_base_url_without_scheme_or_host_is_refused(url):
    with pytest.raises(SetupError, match=r"base_url is '.*'\. Write it as http://HOST:PORT/v1"):
        make_client(base_url=url, api_key="key")


async def test_headers_and_query_of_the_user_are_sent():
    client = make_client(
        base_url="http://h/v1",
        api_key="k",
        options={"default_headers": {"X-Team": "t"}, "default_query": {"tier": "flex"}},
    )
    found = await target(client)
    assert found.url == "http://h/v1/completions?tier=flex"
    assert sent(found)["x-team"] == "t"


async def test_azure_has_its_deployments_version_and_key():
    client = make_client(
        azure=True,
        api_key="k",
        options={"azure_endpoint": "https://a.openai.azure.com", "api_version": "2026-01-01"},
    )
    found = await target(client, path="/chat/completions", model="deployed")
    assert found.url == (
        "https://a.openai.azure.com/openai/deployments/deployed/chat/completions?api-version=2026-01-01"
    )
    assert sent(found)["api-key"] == "k"


async def test_tokens_of_a_function_are_asked_for_each_time():
    tokens = iter(["t1", "t2"])
    client = openai.AsyncAzureOpenAI(
        azure_endpoint="https://a.openai.azure.com",
        azure_ad_token_provider=lambda: next(tokens),
        api_version="2026-01-01",
    )
    configuration = Configuration(client, owns_client=True)
    found = [sent(await configuration.target("POST", "/completions", "m")) for _ in range(2)]
    assert [headers["authorization"] for headers in found] == ["Bearer t1", "Bearer t2"]
    await configuration.aclose()


async def test_fixed_credentials_are_prepared_once():
    configuration = Configuration(make_client(base_url="http://h/v1", api_key="k"), owns_client=True)
    first = await configuration.target("POST", "/completions", "m")
    assert await configuration.target("POST", "/completions", "m") is first
    assert (await configuration.target("GET", "/models", "")).url == "http://h/v1/models"
    await configuration.aclose()


async def test_an_http_client_of_the_user_is_refused_with_the_reason():
    async with openai.AsyncOpenAI(api_key="k", http_client=openai.DefaultAsyncHttpxClient()) as client:
        with pytest.raises(CapabilityError, match="http_client"):
            Configuration(client)


async def test_proxies_of_the_environment_are_used(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "localhost,inside")
    assert (await target(make_client(api_key="k"))).proxy == "http://proxy:3128"
    assert (await target(make_client(api_key="k", base_url="https://inside/v1"))).proxy is None
    assert (await target(make_client(api_key="k", base_url="http://other/v1"))).proxy is None


@pytest.mark.parametrize(
    ("status", "kind"), [(401, UnauthorizedError), (400, InvalidRequestError), (429, OverloadedError)]
)
async def test_errors_of_the_sdk_become_ours(status, kind):
    async with (
        FaultServer(otherwise=lambda exchange: exchange.error(status, "no", retry_after="7")) as server,
        openai.AsyncOpenAI(base_url=server.base_url, api_key="k", max_retries=0) as client,
    ):
        with pytest.raises(openai.APIStatusError) as raised:
            await client.models.list()
    error = from_sdk(raised.value)
    assert type(error) is kind
    assert f"{status}: no" in str(error)
    if status == 429:
        assert error.retry_after == 7


async def test_lost_connections_of_the_sdk_become_ours():
    async with FaultServer() as server:
        url = server.base_url
    async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client:
        with pytest.raises(openai.APIConnectionError) as raised:
            await client.models.list()
    assert type(from_sdk(raised.value)) is ConnectionLostError
    with pytest.raises(TypeError):
        from_sdk(ValueError())


def test_importing_loads_neither_the_sdk_nor_aiohttp():
    code = (
        "import sys, lmql_backends.openai.transport.client\n"
        "assert not {'openai', 'aiohttp', 'httpx', 'httpx2'} & set(sys.modules)"
    )
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert time.monotonic() - began < 60
