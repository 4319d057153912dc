"""`AdapterTable`: the adapters of one local model, by name."""

from __future__ import annotations

import asyncio
import itertools
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from dcmodel.adapters import AdapterInfo, LoadedAdapter, check_adapter, check_adapter_name
from dcmodel.engine import Engine
from dcmodel.errors import AdapterLoadError, DcModelError, InvalidRequestError
from dcmodel.scheduling.mounted import MountedAdapter
from dcmodel.scheduling.threaded import ThreadRunner


class AdapterTable:
    """Mounts and unmounts while the scheduler runs. Used from any thread."""

    def __init__(self, engine: Engine, runner: ThreadRunner) -> None:
        self._engine = engine
        self._runner = runner
        self._lock = threading.Lock()
        self._mounted: dict[str, tuple[AdapterInfo, MountedAdapter]] = {}
        self._being_mounted: set[str] = set()
        self._handles = itertools.count(1)

    @property
    def infos(self) -> tuple[AdapterInfo, ...]:
        with self._lock:
            return tuple(info for info, _ in self._mounted.values())

    def use(self, name: str) -> MountedAdapter:
        """The adapter lives while the result is held. Raises `AdapterNotFoundError`."""
        with self._lock:
            check_adapter(name, [info for info, _ in self._mounted.values()])
            return self._mounted[name][1]

    async def mount(self, name: str, source: str) -> AdapterInfo:
        """See `DcModel.mount_adapter`. Reading blocks a thread of its own, never a running batch."""
        check_adapter_name(name)
        with self._reserved(name):
            try:
                loaded = await asyncio.to_thread(self._engine.read_adapter, source)
                # Cancelled here, it is forgotten like one that nobody uses: nobody holds the result.
                mounted = await asyncio.wrap_future(
                    self._runner.between_steps(partial(self._mount, name, loaded))
                )
            except DcModelError:
                raise
            except Exception as error:
                raise AdapterLoadError(f"the adapter {source} could not be mounted: {error!r}.") from error
            info = AdapterInfo(name=name, source=source, rank=loaded.rank, kind=loaded.kind)
            with self._lock:
                self._mounted[name] = info, mounted
        return info

    async def unmount(self, name: str) -> None:
        """See `DcModel.unmount_adapter`. Where nothing uses it, its memory is free afterwards."""
        with self._lock:
            check_adapter(name, [info for info, _ in self._mounted.values()])
            del self._mounted[name]
        await asyncio.wrap_future(self._runner.between_steps(_nothing))

    def _mount(self, name: str, loaded: LoadedAdapter) -> MountedAdapter:
        """On the scheduler's thread."""
        handle = next(self._handles)
        self._engine.mount_adapter(handle, loaded)
        mounted = MountedAdapter(name, handle)
        weakref.finalize(mounted, self._runner.forget_adapter, handle).atexit = False
        return mounted

    @contextmanager
    def _reserved(self, name: str) -> Iterator[None]:
        """Nobody else mounts under this name meanwhile."""
        with self._lock:
            if name in self._mounted or name in self._being_mounted:
                raise InvalidRequestError(
                    f"an adapter {name!r} is mounted already.",
                    remedy="Unmount it first, or choose another name.",
                )
            self._being_mounted.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._being_mounted.discard(name)


def _nothing() -> None:
    """What could be forgotten when this was asked is forgotten when it is done."""
