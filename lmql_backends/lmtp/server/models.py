"""Models by name: given ones, and ones that are loaded when they are first asked for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from dcmodel.errors import InvalidRequestError, ModelClosedError, ModelNotFoundError, OverloadedError
from dcmodel.llm import LLM
from dcmodel.model import DcModel
from lmql_backends.lmtp.server.contracts import Models, ServedModel

T = TypeVar("T")

RETRY_SECONDS = 5.0
"""Said to clients that want a model for which there is no room now."""


class StaticModels(Models):
    """Models that are there from the beginning to the end. They stay the caller's."""

    def __init__(self, models: DcModel | LLM | Mapping[str, DcModel | LLM]) -> None:
        """By the names that clients use, the default first; a model alone has its own name."""
        if isinstance(models, DcModel):
            models = {models.info.name: models}
        elif isinstance(models, LLM):
            models = {models.name: models}
        if not models:
            raise InvalidRequestError("there is no model to serve.", remedy="Give at least one.")
        self._models = dict(models)
        self._served: dict[str, ServedModel] = {
            name: ServedModel(name, model, LLM.from_model(model))
            for name, model in models.items()
            if isinstance(model, DcModel)
        }

    def names(self) -> Sequence[str]:
        return list(self._models)

    def use(self, name: str) -> AbstractAsyncContextManager[ServedModel]:
        return self._use(checked_name(name, self.names()))

    @asynccontextmanager
    async def _use(self, name: str) -> AsyncIterator[ServedModel]:
        served = self._served.get(name)
        if served is None:
            llm = self._models[name]
            assert isinstance(llm, LLM)
            # Its own lock lets only one of several first users load it.
            served = ServedModel(name, await in_thread(lambda: llm.model), llm)
            self._served[name] = served
        yield served


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """How a model is had."""

    open: Callable[[], LLM]
    """Makes an `LLM` that is not loaded yet; called again each time that the model is loaded anew."""
    is_pinned: bool = False
    """Once loaded, it stays."""


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

    @property
    def can_go(self) -> bool:
        return self.served is not None and not self.users and not self.source.is_pinned


class OnDemandModels(Models):
    """An allow-list of models, of which a few are loaded at a time. Belongs to one event loop.

    The model that has not been used for longest goes when room is needed, never one that is in use. First
    users of a model share one load; where it fails, all of them get the error, and the next one tries again.
    """

    def __init__(self, sources: Mapping[str, Source], *, max_models: int) -> None:
        """By name, the default first. `max_models`: loaded at a time, pinned ones included."""
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
        self._room = asyncio.Lock()
        """Held while models come and go, one at a time: two that load together may not fit."""
        self._uses = 0
        self._is_closed = False

    def names(self) -> Sequence[str]:
        return list(self._entries)

    def loaded(self) -> Sequence[str]:
        """Names of the models that are loaded now."""
        return [entry.name for entry in self._entries.values() if entry.served is not None]

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

    async def _load(self, entry: _Entry) -> ServedModel:
        try:
            async with self._room:
                await self._make_room()
                llm = entry.source.open()
                entry.served = ServedModel(entry.name, await in_thread(lambda: llm.model), llm)
                return entry.served
        finally:
            entry.loading = None

    async def _make_room(self) -> None:
        loaded = [entry for entry in self._entries.values() if entry.served is not None]
        while len(loaded) >= self._max_models:
            idle = [entry for entry in loaded if entry.can_go]
            if not idle:
                raise OverloadedError(
                    f"{len(loaded)} models are loaded and in use, which is all that this server holds.",
                    remedy="Try again when one of them is idle, or raise --max-models.",
                    retry_after=RETRY_SECONDS,
                )
            oldest = min(idle, key=lambda entry: entry.last_used)
            loaded.remove(oldest)
            await _unload(oldest)


async def _unload(entry: _Entry) -> None:
    served, entry.served = entry.served, None
    if served is not None:
        await served.llm.aclose()


def _look_at(task: asyncio.Task[ServedModel]) -> None:
    """A failed load is its waiters' affair, of whom there may be none any more."""
    if not task.cancelled():
        task.exception()


def checked_name(name: str, names: Sequence[str]) -> str:
    """The name that is meant; an empty one is the default. Raises `ModelNotFoundError`."""
    if not name:
        return names[0]
    if name not in names:
        shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
        raise ModelNotFoundError(
            f"the model {name[:200]!r} is not served here.", remedy=f"There are: {shown}."
        )
    return name


async def in_thread(work: Callable[[], T]) -> T:
    """`work` in a thread of its own, which no exit of the process waits for: loading may take minutes."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as problem:  # it belongs to whoever waits
            error = problem
        with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="dcmodel-load", daemon=True).start()
    return await future
