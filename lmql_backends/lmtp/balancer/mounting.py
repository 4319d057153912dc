"""Adapters of a pool: what is mounted is mounted on every worker, those that join later included."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from dcmodel.adapters import AdapterInfo, check_adapter, check_adapter_name
from dcmodel.errors import ConnectionLostError, DcModelError, InvalidRequestError
from dcmodel.model import DcModel
from lmql_backends.lmtp.balancer.attempts import is_loss


class Mountings:
    """Lives in the pool's event loop. A worker's own adapters are known to the pool if the first one had
    them when it joined."""

    def __init__(self, models: Callable[[], Iterable[DcModel]]) -> None:
        """`models`: those of the workers that are members now."""
        self._models = models
        self._infos: dict[str, AdapterInfo] = {}
        self._changing = asyncio.Lock()
        """Held while adapters come and go, one at a time."""

    @property
    def infos(self) -> tuple[AdapterInfo, ...]:
        return tuple(self._infos.values())

    def adopt(self, model: DcModel) -> None:
        """What the first worker has is what all are to have."""
        self._infos = {info.name: info for info in model.adapters}

    async def equip(self, model: DcModel) -> None:
        """Mount what a worker lacks that is about to join; it lacks nothing when this returns.

        Raises what mounting raises.
        """
        while (info := self._lacking(model)) is not None:
            if any(have.name == info.name for have in model.adapters):
                await model.unmount_adapter(info.name)
            await model.mount_adapter(info.name, info.source)

    async def mount(self, name: str, source: str) -> AdapterInfo:
        """On all workers, or on none. Raises what mounting raises, and `ConnectionLostError` where no worker
        is there."""
        check_adapter_name(name)
        async with self._changing:
            if name in self._infos:
                raise InvalidRequestError(
                    f"an adapter {name!r} is mounted already.",
                    remedy="Unmount it first, or use another name.",
                )
            done: list[DcModel] = []
            try:
                found = await self._mount_on_all(name, source, done)
            except BaseException:
                await self._unmount_from(done, name)
                raise
            self._infos[name] = found
            return found

    async def unmount(self, name: str) -> None:
        """From all workers. Raises `AdapterNotFoundError`."""
        async with self._changing:
            check_adapter(name, self.infos)
            del self._infos[name]
            await self._unmount_from(list(self._models()), name)

    async def _mount_on_all(self, name: str, source: str, done: list[DcModel]) -> AdapterInfo:
        """Until no worker is without it, those that have joined meanwhile included."""
        found: AdapterInfo | None = None
        lost: set[DcModel] = set()
        while models := [model for model in self._models() if model not in done and model not in lost]:
            results = await asyncio.gather(
                *(model.mount_adapter(name, source) for model in models), return_exceptions=True
            )
            failure: BaseException | None = None
            for model, result in zip(models, results, strict=True):
                if isinstance(result, AdapterInfo):
                    done.append(model)
                    found = found or result
                elif isinstance(result, DcModelError) and is_loss(result):
                    lost.add(model)  # it is equipped when it joins again
                else:
                    failure = failure or result
            if failure is not None:
                raise failure
        if found is None:
            raise ConnectionLostError("no worker is there to mount an adapter on.", remedy="Try again later.")
        return found

    async def _unmount_from(self, models: Sequence[DcModel], name: str) -> None:
        """A worker that does not have it (any more) is as it should be."""
        results = await asyncio.gather(
            *(model.unmount_adapter(name) for model in models), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, DcModelError):
                raise result

    def _lacking(self, model: DcModel) -> AdapterInfo | None:
        has = {info.name: info.source for info in model.adapters}
        return next((info for info in self._infos.values() if has.get(info.name) != info.source), None)
