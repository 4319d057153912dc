"""`AdaptedModel`: a model as one of its adapters makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from dcmodel.adapters import AdapterInfo, check_adapter
from dcmodel.constraints.mask_answers import Answer
from dcmodel.errors import InvalidRequestError
from dcmodel.model import DcModel, GenerateStream
from dcmodel.session import Session
from dcmodel.types import GenerateRequest, NextTokens, ScoreRequest, ScoreResult

R = TypeVar("R", GenerateRequest, ScoreRequest)


def through_adapter(model: DcModel, adapter: str | None) -> DcModel:
    """The model as an adapter makes it; itself for None. Raises `AdapterNotFoundError`."""
    if adapter is None:
        return model
    check_adapter(adapter, model.adapters)
    return AdaptedModel(model, adapter)


class AdaptedModel(DcModel):
    """A model whose requests name one of its adapters without saying so."""

    def __init__(self, base: DcModel, adapter: str) -> None:
        self.base = base
        self.adapter = adapter
        self.info = base.info
        self.tokenizer = base.tokenizer
        self.can_heal = base.can_heal

    def generate(self, request: GenerateRequest) -> GenerateStream:
        return self.base.generate(self._with_adapter(request))

    async def score(self, request: ScoreRequest) -> ScoreResult:
        return await self.base.score(self._with_adapter(request))

    async def next_tokens(
        self,
        prefixes: Sequence[Sequence[int]],
        masks: Sequence[Answer] | None = None,
        k: int | None = None,
        *,
        adapter: str | None = None,
    ) -> list[NextTokens]:
        return await self.base.next_tokens(prefixes, masks, k, adapter=self._checked(adapter))

    async def session(self, request: GenerateRequest) -> Session:
        return await self.base.session(self._with_adapter(request))

    @property
    def adapters(self) -> tuple[AdapterInfo, ...]:
        return self.base.adapters

    async def mount_adapter(self, name: str, source: str) -> AdapterInfo:
        return await self.base.mount_adapter(name, source)

    async def unmount_adapter(self, name: str) -> None:
        await self.base.unmount_adapter(name)

    async def aclose(self) -> None:
        await self.base.aclose()

    def _with_adapter(self, request: R) -> R:
        return replace(request, adapter=self._checked(request.adapter))

    def _checked(self, adapter: str | None) -> str:
        if adapter not in (None, self.adapter):
            raise InvalidRequestError(
                f"this is the model with the adapter {self.adapter!r}, and the request names {adapter!r}.",
                remedy="Name it in one of the two places.",
            )
        return self.adapter
