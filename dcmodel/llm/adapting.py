"""The part of `LLM` for adapters (LoRA): mounting and unmounting them, and asking a model through one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dcmodel.adapters import AdapterInfo, check_adapter
from dcmodel.constraints.mask_answers import Answer
from dcmodel.llm.loading import ModelHolder
from dcmodel.loop import run
from dcmodel.model import DcModel, GenerateStream
from dcmodel.session import Session
from dcmodel.types import GenerateRequest, NextTokens, ScoreRequest, ScoreResult


class Adapting(ModelHolder):
    """`mount`, `unmount` and their asynchronous forms, and `adapters`."""

    @property
    def adapters(self) -> Mapping[str, AdapterInfo]:
        """What is mounted, by name. Each call may name one: ``llm.generate(prompt, adapter="name")``."""
        return {info.name: info for info in self.model.adapters}

    def mount(self, name: str, source: str | os.PathLike[str]) -> AdapterInfo:
        """Load an adapter (LoRA) and give it a name; what runs goes on meanwhile.

        `source` is a folder in PEFT's format or its Hub id for transformers models, a GGUF file for
        llama.cpp. Calls with one adapter, with another and with none are computed in the same batches.
        Raises `AdapterLoadError` for what is missing, broken or made for another model, `CapabilityError`
        for kinds of adapters that the backend cannot compute exactly, and `InvalidRequestError` for a name
        that is taken.
        """
        return run(self.model.mount_adapter(name, os.fspath(source)))

    async def amount(self, name: str, source: str | os.PathLike[str]) -> AdapterInfo:
        """`mount`, awaited."""
        return await (await self._ready()).mount_adapter(name, os.fspath(source))

    def unmount(self, name: str) -> None:
        """Forget an adapter. What runs with it, and open sessions, go on as they would have; its memory is
        free when the last of them is gone. Raises `AdapterNotFoundError`."""
        run(self.model.unmount_adapter(name))

    async def aunmount(self, name: str) -> None:
        """`unmount`, awaited."""
        await (await self._ready()).unmount_adapter(name)


def through_adapter(model: DcModel, adapter: str | None) -> DcModel:
    """The model as an adapter makes it; itself for None. Raises `AdapterNotFoundError`."""
    if adapter is None:
        return model
    check_adapter(adapter, model.adapters)
    return _ThroughAdapter(model, adapter)


class _ThroughAdapter(DcModel):
    """Names the adapter in every request."""

    def __init__(self, model: DcModel, adapter: str) -> None:
        self._model = model
        self._adapter = adapter
        self.info = model.info
        self.tokenizer = model.tokenizer
        self.can_heal = model.can_heal

    def generate(self, request: GenerateRequest) -> GenerateStream:
        return self._model.generate(replace(request, adapter=self._adapter))

    async def score(self, request: ScoreRequest) -> ScoreResult:
        return await self._model.score(replace(request, adapter=self._adapter))

    async def next_tokens(
        self,
        prefixes: Sequence[Sequence[int]],
        masks: Sequence[Answer] | None = None,
        k: int | None = None,
        *,
        adapter: str | None = None,
    ) -> list[NextTokens]:
        return await self._model.next_tokens(prefixes, masks, k, adapter=adapter or self._adapter)

    async def session(self, request: GenerateRequest) -> Session:
        return await self._model.session(replace(request, adapter=self._adapter))

    async def aclose(self) -> None:
        """The model's owner closes it."""
