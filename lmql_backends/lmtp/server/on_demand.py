"""Models by name that are loaded when they are first asked for, within a number and an amount of memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from dcmodel.errors import (
    DcModelError,
    InvalidRequestError,
    ModelClosedError,
    ModelLoadError,
    OverloadedError,
)
from dcmodel.llm import LLM
from dcmodel.model import DcModel
from dcmodel.types import GenerateRequest
from lmql_backends.lmtp.server.contracts import Models, ModelState, ServedModel
from lmql_backends.lmtp.server.loading import checked_name, in_thread
from lmql_backends.lmtp.server.model_sizes import gigabytes, used_bytes

RETRY_SECONDS = 5.0
"""Said to clients that want a model for which there is no room now."""
WARM_UP_TEXT, WARM_UP_TOKENS = "Hello", 2

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """How a model is had."""

    open: Callable[[], LLM]
    """Makes an `LLM` that is not loaded yet; called again each time that the model is loaded anew."""
    is_pinned: bool = False
    """Once loaded, it stays."""
    size: Callable[[], int] = lambda: 0
    """How many bytes it will take, as far as files tell; blocks."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Mounted whenever it is loaded: where each is, by name."""


class _Entry:
    """One name. Written to by `OnDemandModels` alone."""

    def __init__(self, name: str, source: Source) -> None:
        self.name = name
        self.source = source
        self.users = 0
        self.last_used = 0
        """By a count of uses; no clock."""
        self.served: ServedModel | None = None
        self.loading: asyncio.Task[ServedModel] | None = None
        self.bytes = 0
        """What it takes, once that is known: the most of what its files said and what was measured."""
        self.adapters = dict(source.adapters)
        """Where each adapter is that is mounted when it is loaded; while it is loaded, see the model."""

    @property
    def can_go(self) -> bool:
        return self.served is not None and not self.users and not self.source.is_pinned


class OnDemandModels(Models):
    """An allow-list of models, of which a few are loaded at a time. Belongs to one event loop.

    The model that has not been used for longest goes when room is needed, never one that is in use. First
    users of a model share one load; where it fails, all of them get the error, and the next one tries again.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        *,
        max_models: int,
        max_bytes: int | None = None,
        warm_up: bool = False,
        measure: Callable[[], int] = used_bytes,
    ) -> None:
        """By name, the default first. `max_models`: loaded at a time, pinned ones included. `max_bytes`: of
        all that are loaded. `warm_up`: generate a few tokens before a model counts as loaded. `measure`: how
        much memory is in use."""
        if not sources:
            raise InvalidRequestError("there is no model to serve.", remedy="Give at least one.")
        pinned = sum(source.is_pinned for source in sources.values())
        if max_models < max(pinned, 1):
            raise InvalidRequestError(
                f"max_models is {max_models}, and {pinned} models stay loaded.",
                remedy="Raise it, or let some of them be loaded on demand.",
            )
        self._entries = {name: _Entry(name, source) for name, source in sources.items()}
        self._max_models = max_models
        self._max_bytes = max_bytes
        self._warm_up = warm_up
        self._measure = measure
        self._room = asyncio.Lock()
        """Held while models come and go, one at a time: two that load together may not fit."""
        self._uses = 0
        self._is_closed = False

    def names(self) -> Sequence[str]:
        return list(self._entries)

    def adapters(self, name: str) -> Sequence[str]:
        entry = self._entries[name]
        if entry.served is None:
            return list(entry.adapters)
        return [info.name for info in entry.served.model.adapters]

    def state(self, name: str) -> ModelState:
        entry = self._entries[name]
        if entry.served is not None:
            return ModelState.READY
        return ModelState.LOADING if entry.loading is not None else ModelState.UNLOADED

    def context(self, name: str) -> int | None:
        served = self._entries[name].served
        return None if served is None else served.model.info.max_positions

    def loaded(self) -> Sequence[str]:
        """Names of the models that are loaded now."""
        return [entry.name for entry in self._loaded()]

    @property
    def is_ready(self) -> bool:
        """Whether all that are to stay are loaded."""
        return all(entry.served is not None for entry in self._entries.values() if entry.source.is_pinned)

    def use(self, name: str) -> AbstractAsyncContextManager[ServedModel]:
        return self._use(self._entries[checked_name(name, self.names())])

    async def load_pinned(self) -> None:
        """Load those that stay. Raises what loading raises."""
        for entry in self._entries.values():
            if entry.source.is_pinned:
                await self._ready(entry)

    async def aclose(self) -> None:
        """Close all models, those that are in use, too. Waits for a load that runs."""
        self._is_closed = True
        tasks = [entry.loading for entry in self._entries.values() if entry.loading is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        async with self._room:
            for entry in self._entries.values():
                await _unload(entry)

    @asynccontextmanager
    async def _use(self, entry: _Entry) -> AsyncIterator[ServedModel]:
        entry.users += 1
        self._uses += 1
        entry.last_used = self._uses
        try:
            yield entry.served or await self._ready(entry)
        finally:
            entry.users -= 1

    async def _ready(self, entry: _Entry) -> ServedModel:
        if self._is_closed:
            raise ModelClosedError("the server's models were closed.", remedy="Ask another server.")
        if entry.loading is None:
            entry.loading = asyncio.create_task(self._load(entry))
            entry.loading.add_done_callback(_look_at)
        # Whoever goes away while it loads takes it from nobody else.
        return await asyncio.shield(entry.loading)

    # -- loading -----------------------------------------------------------------------------------

    async def _load(self, entry: _Entry) -> ServedModel:
        try:
            async with self._room:
                if self._max_bytes is not None:
                    entry.bytes = max(entry.bytes, await in_thread(entry.source.size))
                await self._make_room(entry)
                before = self._measure()
                llm = entry.source.open()
                model = await in_thread(lambda: llm.model)
                try:
                    await self._prepare(entry, model)
                    entry.bytes = max(entry.bytes, self._measure() - before)
                    await self._make_room(entry)
                except BaseException:
                    await llm.aclose()
                    raise
                entry.served = ServedModel(entry.name, model, llm)
                return entry.served
        finally:
            entry.loading = None

    async def _prepare(self, entry: _Entry, model: DcModel) -> None:
        for name, source in entry.adapters.items():
            try:
                await model.mount_adapter(name, source)
            except DcModelError as error:
                if name in entry.source.adapters:
                    raise
                # A client mounted it before the model was unloaded, and what it was made of is gone.
                logger.warning("the adapter %s of %s cannot be mounted again: %s", name, entry.name, error)
        if self._warm_up:
            prompt_ids = tuple(model.tokenizer.encode_prompt(WARM_UP_TEXT)) or (0,)
            request = GenerateRequest(prompt_ids=prompt_ids, max_tokens=WARM_UP_TOKENS, ignore_eos=True)
            await model.generate(request).completion()

    # -- room --------------------------------------------------------------------------------------

    def _loaded(self) -> list[_Entry]:
        return [entry for entry in self._entries.values() if entry.served is not None]

    async def _make_room(self, entry: _Entry) -> None:
        """Until there is a place, and memory, for one more. Raises `ModelLoadError` where that can never be,
        and `OverloadedError` where what is in use stands against it."""
        loaded = self._loaded()
        self._check_size(entry, [each for each in loaded if each.source.is_pinned])
        while len(loaded) >= self._max_models or not self._fits(entry, loaded):
            idle = [each for each in loaded if each.can_go]
            if not idle:
                raise self._no_room(entry, loaded)
            oldest = min(idle, key=lambda each: each.last_used)
            loaded.remove(oldest)
            await _unload(oldest)

    def _fits(self, entry: _Entry, loaded: Iterable[_Entry]) -> bool:
        return self._max_bytes is None or entry.bytes + _bytes(loaded) <= self._max_bytes

    def _check_size(self, entry: _Entry, pinned: Sequence[_Entry]) -> None:
        if self._fits(entry, pinned):
            return
        assert self._max_bytes is not None
        taken = f", of which {gigabytes(_bytes(pinned))} GB stay taken" if pinned else ""
        raise ModelLoadError(
            f"the model {entry.name!r} takes {gigabytes(entry.bytes)} GB, and this server's models may take "
            f"{gigabytes(self._max_bytes)} GB{taken}.",
            remedy="Raise --memory, or serve a smaller model.",
        )

    def _no_room(self, entry: _Entry, loaded: Sequence[_Entry]) -> OverloadedError:
        if len(loaded) >= self._max_models:
            why = f"{len(loaded)} models are loaded and in use, which is all that this server holds."
            remedy = "Try again when one of them is idle, or raise --max-models."
        else:
            assert self._max_bytes is not None
            why = (
                f"the model {entry.name!r} takes {gigabytes(entry.bytes)} GB, and models in use have taken "
                f"{gigabytes(_bytes(loaded))} of {gigabytes(self._max_bytes)} GB."
            )
            remedy = "Try again when one of them is idle, or raise --memory."
        return OverloadedError(why, remedy=remedy, retry_after=RETRY_SECONDS)


def _bytes(entries: Iterable[_Entry]) -> int:
    return sum(entry.bytes for entry in entries)


async def _unload(entry: _Entry) -> None:
    served, entry.served = entry.served, None
    if served is not None:
        entry.adapters = {info.name: info.source for info in served.model.adapters}
        await served.llm.aclose()


def _look_at(task: asyncio.Task[ServedModel]) -> None:
    """A failed load is its waiters' affair, of whom there may be none any more."""
    if not task.cancelled():
        task.exception()
