"""GET /v1/tokenizers/NAME: a model's whole tokenizer, for clients that count and mask tokens themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from dctokenizers import pack
from lmql_backends.lmtp.server.contracts import HttpRequest, HttpResponse, Models

TOKENIZERS = "/v1/tokenizers"


class TokenizerAnswer(msgspec.Struct, kw_only=True):
    """What `dctokenizers.unpack` takes; `data` is base64."""

    form: str
    data: bytes
    fields: Mapping[str, Any]
    max_model_len: int


class Tokenizers:
    """The route. Packing takes a moment; what was packed last is kept."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._packed: tuple[str, bytes] = ("", b"")

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        name = request.path.removeprefix(f"{TOKENIZERS}/")
        async with self._models.use(name) as served:
            tokenizer, context = served.model.tokenizer, served.model.info.max_positions
            key = f"{name}:{tokenizer.fingerprint}:{context}"
            if self._packed[0] != key:
                packed = await asyncio.to_thread(pack, tokenizer)
                body = msgspec.json.encode(
                    TokenizerAnswer(
                        form=packed.form, data=packed.data, fields=packed.fields, max_model_len=context
                    )
                )
                self._packed = (key, body)
            return HttpResponse(body=self._packed[1])
