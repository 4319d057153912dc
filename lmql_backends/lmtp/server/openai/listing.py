"""GET /v1/models and /v1/models/NAME; POST /tokenize and /detokenize."""

from __future__ import annotations

from functools import partial

import msgspec

from dcmodel.errors import ModelNotFoundError
from dcmodel.llm.prompts import prompt_ids, text_ids
from lmql_backends.lmtp.server.contracts import HttpRequest, HttpResponse, ServedModel
from lmql_backends.lmtp.server.openai.chat_job import conversation_ids
from lmql_backends.lmtp.server.openai.errors import FieldError
from lmql_backends.lmtp.server.openai.fields import DetokenizeBody, TokenizeBody
from lmql_backends.lmtp.server.openai.logprobs import TokenNames
from lmql_backends.lmtp.server.openai.reading import read
from lmql_backends.lmtp.server.openai.service import Service, off_loop
from lmql_backends.lmtp.server.routed import SEPARATOR, RoutedModels

MODELS = "/v1/models"


class ModelBody(msgspec.Struct, kw_only=True):
    id: str
    created: int
    owned_by: str = "dcmodel"
    object: str = "model"
    root: str | None = None
    """Of an adapter: its own name."""
    parent: str | None = None
    """Of an adapter: its model."""
    state: str = "ready"
    """Ours: ready, loading, or unloaded (until it is asked for)."""
    max_model_len: int | None = None
    """vLLM's; None while the model is not loaded."""


class ModelList(msgspec.Struct, kw_only=True):
    data: list[ModelBody]
    object: str = "list"


class TokenizeAnswer(msgspec.Struct, kw_only=True):
    """vLLM's."""

    count: int
    max_model_len: int
    tokens: tuple[int, ...]
    token_strs: list[str] | None = None


class DetokenizeAnswer(msgspec.Struct):
    prompt: str


class Listing:
    """The routes that ask no model to compute."""

    def __init__(self, service: Service, models: RoutedModels) -> None:
        self._service = service
        self._models = models
        self._created = service.now

    async def models(self, request: HttpRequest) -> HttpResponse:
        """The names that may be asked for; no model is loaded for it."""
        data: list[ModelBody] = []
        for name in self._models.names():
            data.append(self._body(name))
            data += [self._body(name, adapter) for adapter in self._models.adapters(name)]
        return HttpResponse(body=msgspec.json.encode(ModelList(data=data)))

    async def model(self, request: HttpRequest) -> HttpResponse:
        """One name, which may hold slashes."""
        name = request.path.removeprefix(MODELS + "/")
        model, adapter = self._models.split(name)
        is_there = model in self._models.names() and (not adapter or adapter in self._models.adapters(model))
        if not is_there:
            raise ModelNotFoundError(
                f"the model {name!r:.200} does not exist here.", remedy=f"GET {MODELS} lists those that do."
            )
        return HttpResponse(body=msgspec.json.encode(self._body(model, adapter)))

    def _body(self, model: str, adapter: str = "") -> ModelBody:
        body = ModelBody(
            id=model,
            created=self._created,
            state=self._models.state(model),
            max_model_len=self._models.context(model),
        )
        if adapter:
            body.id, body.root, body.parent = f"{model}{SEPARATOR}{adapter}", adapter, model
        return body

    async def tokenize(self, request: HttpRequest) -> HttpResponse:
        body = await off_loop(len(request.body), partial(read, request.body, TokenizeBody))
        async with self._service.models.use(body.model or "") as served:
            answer = await off_loop(len(request.body), partial(_tokenized, body, served))
        return HttpResponse(body=msgspec.json.encode(answer))

    async def detokenize(self, request: HttpRequest) -> HttpResponse:
        body = await off_loop(len(request.body), partial(read, request.body, DetokenizeBody))
        async with self._service.models.use(body.model or "") as served:
            answer = await off_loop(len(request.body), partial(_detokenized, body, served))
        return HttpResponse(body=msgspec.json.encode(answer))


def _tokenized(body: TokenizeBody, served: ServedModel) -> TokenizeAnswer:
    tokenizer = served.model.tokenizer
    if (body.prompt is None) == (body.messages is None):
        raise FieldError(
            "prompt", "there is not exactly one of prompt and messages.", remedy="Send one of them."
        )
    ids: tuple[int, ...]
    if body.messages is not None:
        ids = conversation_ids(served, body)
    elif body.prompt and body.add_special_tokens is not False:
        ids = prompt_ids(tokenizer, body.prompt)
    elif body.add_special_tokens is not False:
        ids = tuple(tokenizer.encode_prompt(""))
    else:
        ids = text_ids(tokenizer, body.prompt or "")
    names = list(map(TokenNames(tokenizer), ids)) if body.return_token_strs else None
    context = served.model.info.max_positions
    return TokenizeAnswer(count=len(ids), max_model_len=context, tokens=ids, token_strs=names)


def _detokenized(body: DetokenizeBody, served: ServedModel) -> DetokenizeAnswer:
    ids = prompt_ids(served.model.tokenizer, body.tokens) if body.tokens else ()
    return DetokenizeAnswer(served.model.tokenizer.decode(ids, skip_special=False))
