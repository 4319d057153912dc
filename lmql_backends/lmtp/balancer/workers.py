"""Worker processes: started, watched, started again, and ended with us."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import random
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from dcmodel.errors import ModelLoadError
from lmql_backends.lmtp.balancer.pool import Pool

log = logging.getLogger(__name__)

SCHEMES = ("lmtp://", "lmtps://")


@dataclass(frozen=True, slots=True)
class WorkerCommand:
    """What starts a worker: a server that prints one line of JSON with its ``url`` when it serves, and that
    drains and ends when its standard input is closed."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """The whole of it."""


class WorkerProcess:
    """One child. Its standard input is a pipe that nobody writes to: when we are gone, however that came,
    the pipe is closed, and the child ends."""

    def __init__(self, process: Process, address: str) -> None:
        self.address = address
        self._process = process
        self._rest = asyncio.create_task(_drain_output(process), name=f"output of {address}")

    @classmethod
    async def start(cls, command: WorkerCommand) -> WorkerProcess:
        """Start it and wait until it serves. Raises `ModelLoadError` if it ends before; what it has to say
        about that goes to our standard error."""
        # A group of its own: Ctrl-C is for us, and we let the workers end what they do.
        process = await asyncio.create_subprocess_exec(
            *command.arguments, stdin=PIPE, stdout=PIPE, env=dict(command.environment), process_group=0
        )
        try:
            return cls(process, await _address(process))
        except BaseException:
            await _kill(process)
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ended(self) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        return await self._process.wait()

    async def stop(self, seconds: float) -> None:
        """Let it drain and end; kill it if that takes too long."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._process.wait()
        await self.kill()

    async def kill(self) -> None:
        """End it at once."""
        await _kill(self._process)
        await asyncio.wait([self._rest])


class Fleet:
    """Keeps one process running for each command, and the pool told of their addresses."""

    def __init__(
        self,
        pool: Pool,
        commands: Sequence[WorkerCommand],
        *,
        stop_seconds: float = 35.0,
        rng: random.Random | None = None,
    ) -> None:
        """`stop_seconds`: how long a process may take to end what it does."""
        self._pool = pool
        self._commands = commands
        self._stop_seconds = stop_seconds
        self._rng = rng or random.Random()
        self._processes: dict[int, WorkerProcess] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._restarting = asyncio.Lock()

    @property
    def processes(self) -> list[WorkerProcess]:
        """Those that serve now."""
        return list(self._processes.values())

    async def start(self) -> None:
        """Start all, and wait until all serve. Raises `ModelLoadError` if one cannot; none is left then."""
        starting = [asyncio.create_task(WorkerProcess.start(command)) for command in self._commands]
        try:
            processes = await asyncio.gather(*starting)
        except BaseException:
            for task in starting:
                task.cancel()
            ended = await asyncio.gather(*starting, return_exceptions=True)
            await asyncio.gather(*(each.kill() for each in ended if isinstance(each, WorkerProcess)))
            raise
        self._keepers = [
            asyncio.create_task(self._keep(place, process), name=f"worker process {place}")
            for place, process in enumerate(processes)
        ]

    async def restart(self) -> None:
        """A rolling restart: one process after the other is drained, ended and started anew."""
        async with self._restarting:
            for place in range(len(self._commands)):
                process = self._processes.get(place)
                if process is None:
                    continue  # it is being started anyway
                await self._pool.remove(process.address)
                await process.stop(self._stop_seconds)
                await self._pool.wait(functools.partial(self._is_member, place))

    async def aclose(self) -> None:
        """End all of them, together."""
        for task in self._keepers:
            task.cancel()
        if self._keepers:
            await asyncio.wait(self._keepers)

    # -- one process -------------------------------------------------------------------------------

    async def _keep(self, place: int, process: WorkerProcess) -> None:
        """Start it again whenever it ends."""
        settings = self._pool.settings
        most = settings.pause_seconds
        while True:
            started = self._pool.loop.time()
            code = await self._serve(place, process)
            if self._pool.loop.time() - started > settings.max_pause_seconds:
                most = settings.pause_seconds
            log.warning("worker %s has ended with code %d and is started again", process.address, code)
            process, most = await self._start_again(place, most)

    async def _start_again(self, place: int, most: float) -> tuple[WorkerProcess, float]:
        """Pauses grow while it does not work."""
        while True:
            await asyncio.sleep(self._rng.uniform(0, most))
            most = min(2 * most, self._pool.settings.max_pause_seconds)
            try:
                return await WorkerProcess.start(self._commands[place]), most
            except (ModelLoadError, OSError) as error:
                log.warning("worker process %d cannot be started: %s", place, error)

    async def _serve(self, place: int, process: WorkerProcess) -> int:
        """While it lives, it is a member of the pool."""
        self._processes[place] = process
        self._pool.add(process.address)
        try:
            return await process.ended()
        except asyncio.CancelledError:
            await process.stop(self._stop_seconds)
            raise
        finally:
            del self._processes[place]
            self._pool.forget(process.address)

    def _is_member(self, place: int) -> bool:
        process = self._processes.get(place)
        return process is not None and any(
            worker.address == process.address and worker.model is not None for worker in self._pool.workers
        )


async def _address(process: Process) -> str:
    """From the line that says that it serves."""
    assert process.stdout is not None
    while line := await process.stdout.readline():
        with suppress(ValueError, TypeError, KeyError):
            url = str(json.loads(line)["url"])
            return url.removeprefix(SCHEMES[0]).removeprefix(SCHEMES[1]).partition("/")[0]
    code = await process.wait()
    raise ModelLoadError(
        f"a worker process ended with code {code} before it served.", remedy="It says why on standard error."
    )


async def _drain_output(process: Process) -> None:
    """Nobody reads what it prints later; it must not wait for that."""
    assert process.stdout is not None
    while await process.stdout.read(1 << 16):
        pass


async def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()
