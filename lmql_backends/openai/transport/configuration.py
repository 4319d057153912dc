"""Endpoint, key, headers and Azure's ways, all from the `openai` SDK's own client object."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dcmodel.errors import CapabilityError, MissingDependencyError, SetupError
from lmql_backends.openai.transport.http import Target, proxy_of

if TYPE_CHECKING:
    import openai

DROPPED_HEADERS = frozenset({"host", "connection", "content-length", "accept-encoding"})
"""Those that the HTTP client sets itself: it knows what it can decompress."""
NO_KEY = "none"
"""Sent where no key is known and the endpoint is not OpenAI's: local servers want none."""


def make_client(
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    azure: bool = False,
    options: Mapping[str, Any] | None = None,
) -> openai.AsyncOpenAI:
    """A client of the SDK, from arguments and, where they are missing, from the SDK's environment variables.

    `options` are further arguments of `openai.AsyncOpenAI`, or of `openai.AsyncAzureOpenAI` with `azure`.
    Raises `MissingDependencyError`, and `SetupError` where the SDK refuses.
    """
    sdk = _import_sdk()
    arguments = dict(options or {})
    if base_url is not None:
        arguments["base_url"] = base_url
        if api_key is None and not azure and not os.environ.get("OPENAI_API_KEY"):
            api_key = NO_KEY
    if api_key is not None:
        arguments["api_key"] = api_key
    key = "AZURE_OPENAI_API_KEY" if azure else "OPENAI_API_KEY"
    try:
        client: openai.AsyncOpenAI = (sdk.AsyncAzureOpenAI if azure else sdk.AsyncOpenAI)(**arguments)
    except (sdk.OpenAIError, TypeError, ValueError) as error:
        raise SetupError(
            f"the openai package refuses this configuration: {error}",
            remedy=f"Set {key}, or pass api_key= (and base_url= for another server than OpenAI's).",
        ) from error
    url = client.base_url
    if url.scheme not in ("http", "https") or not url.host:
        raise SetupError(
            f"base_url is {str(url).rstrip('/')!r}.",
            remedy="Write it as http://HOST:PORT/v1 (also OPENAI_BASE_URL).",
        )
    return client


class Configuration:
    """What a client of the SDK knows of its endpoint. The SDK builds the head of each request; we send it.

    Heads are kept, per route and model, where the credentials are fixed; with a function that provides keys
    or tokens the SDK is asked each time.
    """

    def __init__(self, client: openai.AsyncOpenAI, *, owns_client: bool = False) -> None:
        """`owns_client`: `aclose` closes it, too.

        Raises `CapabilityError` where the client signs each request, or brings an HTTP client of its own.
        """
        _check_supported(client)
        self.client = client
        self._owns_client = owns_client
        self.base_url = str(client.base_url).rstrip("/")
        providers = ("_api_key_provider", "_azure_ad_token_provider")
        self._is_fixed = all(getattr(client, name, None) is None for name in providers)
        self._targets: dict[tuple[str, str, str], Target] = {}

    async def target(self, method: str, path: str, model: str) -> Target:
        """URL and headers of a request."""
        place = (method, path, model)
        target = self._targets.get(place)
        if target is None:
            target = await self._build(method, path, model)
            if self._is_fixed:
                self._targets[place] = target
        return target

    async def aclose(self) -> None:
        """Close the client, if it is ours. Heads can be built all the same."""
        if self._owns_client:
            await self.client.close()

    async def _build(self, method: str, path: str, model: str) -> Target:
        from openai._models import FinalRequestOptions

        body: Mapping[str, Any] | None = {"model": model} if method == "POST" else None
        options = FinalRequestOptions.construct(method=method.lower(), url=path, json_data=body)
        try:
            options = await self.client._prepare_options(options)
            request = self.client._build_request(options)
            await self.client._prepare_request(request)
        except (_import_sdk().OpenAIError, TypeError, ValueError) as error:
            raise SetupError(f"the openai package cannot authenticate: {error}") from error
        headers = {name: value for name, value in request.headers.items() if name not in DROPPED_HEADERS}
        return Target(str(request.url), headers, proxy_of(str(request.url)))


def _check_supported(client: Any) -> None:
    for name in ("workload_identity", "_provider"):
        if getattr(client, name, None) is not None:
            raise CapabilityError(
                f"the client authenticates by {name.strip('_')}, which needs the SDK for each request.",
                remedy="Give a client with api_key=, or Azure's azure_ad_token_provider=.",
            )
    kind = type(client._client).__name__
    if kind != "AsyncHttpxClientWrapper":
        raise CapabilityError(
            f"the client has an http_client of its own ({kind}), which dcmodel would not use.",
            remedy="Leave http_client out; proxies are taken from HTTPS_PROXY and its like.",
        )


def _import_sdk() -> Any:
    try:
        import openai
    except ImportError as error:
        raise MissingDependencyError(
            "the OpenAI backend needs the package openai.", remedy="Run: pip install 'dcmodel[openai]'"
        ) from error
    return openai
