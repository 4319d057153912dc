"""The part of `LLM` for adapters (LoRA): mounting and unmounting them."""

from __future__ import annotations

import os
from collections.abc import Mapping

from dcmodel.adapters import AdapterInfo
from dcmodel.llm.loading import ModelHolder
from dcmodel.loop import run


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
