"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, as vLLM has them."""

from __future__ import annotations

import asyncio
from typing import Any

from dcmodel.errors import AdapterNotFoundError
from lmql_backends.lmtp.server.contracts import HttpRequest, HttpResponse
from lmql_backends.lmtp.server.limits import ConnectionLimits
from lmql_backends.lmtp.server.openai.errors import FieldError
from lmql_backends.lmtp.server.openai.fields import Body
from lmql_backends.lmtp.server.openai.reading import read
from lmql_backends.lmtp.server.routed import RoutedModels


class LoadBody(Body, kw_only=True):
    lora_name: str
    lora_path: str
    """`model` is ours: on which one; none: the first one."""
    load_inplace: bool = False


class UnloadBody(Body, kw_only=True):
    lora_name: str
    """Or ``MODEL:ADAPTER``."""
    lora_int_id: Any = None
    """vLLM's own number, which says nothing here."""


class Adapters:
    """Clients may do this where LMTP's clients may, too: `ConnectionLimits.mount_from`."""

    def __init__(self, models: RoutedModels, limits: ConnectionLimits) -> None:
        self._models = models
        self._limits = limits

    async def load(self, request: HttpRequest) -> HttpResponse:
        self._limits.check_mounting()
        body = read(request.body, LoadBody)
        if body.load_inplace:
            raise FieldError("load_inplace", "load_inplace is not supported.", remedy="Unload it first.")
        source = await asyncio.to_thread(self._limits.mount_source, body.lora_name, body.lora_path)
        async with self._models.use(body.model or "") as served:
            await served.model.mount_adapter(body.lora_name, source)
        return _said(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    async def unload(self, request: HttpRequest) -> HttpResponse:
        self._limits.check_mounting()
        body = read(request.body, UnloadBody)
        model, adapter = (body.model, body.lora_name) if body.model else self._models.split(body.lora_name)
        if not adapter:
            raise AdapterNotFoundError(
                f"no adapter {body.lora_name!r:.200} is mounted.",
                remedy="GET /v1/models lists them.",
            )
        async with self._models.use(model) as served:
            await served.model.unmount_adapter(adapter)
        return _said(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def _said(text: str) -> HttpResponse:
    return HttpResponse(body=text.encode(), content_type="text/plain; charset=utf-8")
