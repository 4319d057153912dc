"""`ModelHolder`: a model by name, loaded at the first call and closed once. The base of `LLM`."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

from dcmodel.adapters import check_adapter_name
from dcmodel.backend import LoadOptions
from dcmodel.checks import check_integer
from dcmodel.env import Settings
from dcmodel.errors import InvalidRequestError, ModelClosedError
from dcmodel.loop import run
from dcmodel.model import DcModel
from dcmodel.registry import EMBEDDED, Registry
from dcmodel.types import ModelInfo
from dctokenizers import Tokenizer


class ModelHolder:
    """Holds the model for the parts of `LLM`, which are classes on top of this one."""

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        backend: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        max_context: int | None = None,
        max_sequences: int | None = None,
        kv_tokens: int | None = None,
        max_batch_tokens: int | None = None,
        extra: Mapping[str, Any] | None = None,
        adapters: Mapping[str, str | os.PathLike[str]] | None = None,
        registry: Registry | None = None,
    ) -> None:
        settings = Settings.from_environ()
        settings = replace(settings, device=device or settings.device)
        options = LoadOptions(
            device=settings.device,
            dtype=dtype or settings.dtype,
            max_context=max_context if max_context is not None else settings.max_context,
            max_sequences=max_sequences,
            kv_tokens=kv_tokens,
            max_batch_tokens=max_batch_tokens,
            extra=extra or {},
        )
        for name in ("max_context", "max_sequences", "kv_tokens", "max_batch_tokens"):
            if getattr(options, name) is not None:
                check_integer(name, getattr(options, name), low=1)
        self.name = os.fspath(model) if model is not None else settings.model or EMBEDDED
        if not self.name:
            raise InvalidRequestError("the model's name is empty.", remedy="LLM() is the embedded model.")
        load = (registry or Registry()).load
        wanted = {name: os.fspath(source) for name, source in (adapters or {}).items()}
        for name in wanted:
            check_adapter_name(name)
        open_model = partial(load, self.name, options, explicit=backend, settings=settings)
        self._prepare(partial(_load_with, wanted, open_model) if wanted else open_model)

    @classmethod
    def from_model(cls, model: DcModel) -> Self:
        """An `LLM` over a model that is loaded already; closing the one closes the other."""
        llm = cls.__new__(cls)
        llm.name = model.info.name
        llm._prepare(lambda: model)
        return llm

    def _prepare(self, load: Callable[[], DcModel]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._model: DcModel | None = None
        self._pid = os.getpid()
        self._is_closed = False

    @property
    def model(self) -> DcModel:
        """The model itself, for requests in token ids; loads it if that has not happened yet."""
        with self._lock:
            if self._is_closed:
                raise ModelClosedError(f"the model {self.name!r} was closed.", remedy="Make a new LLM.")
            if self._model is None or self._pid != os.getpid():  # threads do not survive a fork
                self._model, self._pid = self._load(), os.getpid()
            return self._model

    @property
    def tokenizer(self) -> Tokenizer:
        return self.model.tokenizer

    @property
    def info(self) -> ModelInfo:
        return self.model.info

    @property
    def is_loaded(self) -> bool:
        return self._model is not None

    def close(self) -> None:
        """Cancel what runs and release the model; later calls raise `ModelClosedError`."""
        run(self.aclose())

    async def aclose(self) -> None:
        """`close`, awaited."""
        model = await asyncio.to_thread(self._detach)
        if model is not None:
            await model.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "loaded" if self.is_loaded else "not loaded yet"
        return f"<{type(self).__name__} {self.name!r}, {state}>"

    async def _ready(self) -> DcModel:
        """The model, loaded beside the event loop. (A synchronous call loads it in its own thread, where
        Ctrl-C can stop it.)"""
        model = self._model
        if model is not None and self._pid == os.getpid():
            return model
        return await asyncio.to_thread(lambda: self.model)

    def _detach(self) -> DcModel | None:
        with self._lock:
            model, self._model, self._is_closed = self._model, None, True
        return model


def _load_with(adapters: Mapping[str, str], load: Callable[[], DcModel]) -> DcModel:
    """The model with its adapters, or nothing of either."""
    model = load()
    try:
        for name, source in adapters.items():
            run(model.mount_adapter(name, source))
    except BaseException:
        run(model.aclose())
        raise
    return model
