"""`ChildProcess`: a model in a process of its own, from spawning to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections import deque
from contextlib import suppress

from dcmodel.errors import ConnectionLostError, DcModelError, ModelLoadError
from lmql_backends.lmtp.clients.child_spec import LOADED, ChildSpec
from lmql_backends.lmtp.clients.framing import receive_frame, send_frame
from lmql_backends.lmtp.protocol import errors
from lmql_backends.lmtp.protocol.codec import MSGPACK
from lmql_backends.lmtp.protocol.messages import Failed

logger = logging.getLogger(__name__)

LAST_LINES = 20
SHOWN_LINES = 5
END_SECONDS = 5.0
"""How long a child may take to end when it is told to; then it is killed."""
DEATH_SECONDS = 0.5
"""How long is waited for the exit code of a child whose connection has ended."""


class ChildProcess:
    """One running child. It ends with the control socket, of which this process has the only other end."""

    def __init__(self, spec: ChildSpec, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self._spec = spec
        self._process = process
        self._control = control
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._forwarder = asyncio.create_task(self._forward(), name="child-stderr")

    @classmethod
    async def start(cls, spec: ChildSpec) -> ChildProcess:
        """Spawn it and wait until its model is loaded. Raises what loading raises."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "lmql_backends.lmtp.clients.child", str(theirs.fileno())),
                    stdin=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    pass_fds=(theirs.fileno(),),
                    env=_environment(),
                )
        except BaseException:
            ours.close()
            raise
        child = cls(spec, process, ours)
        try:
            await child._load()
        except BaseException:
            await child.aclose()
            raise
        return child

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def connect(self) -> socket.socket:
        """Our end of a new connection. Raises `ConnectionLostError`."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._control, [b"+"], [theirs.fileno()])
        except OSError as error:
            ours.close()
            raise ConnectionLostError(f"{self} is gone: {error}.", remedy="Try again.") from error
        ours.setblocking(False)
        return ours

    async def death(self) -> ConnectionLostError:
        """What is known of the end of a child whose connection has ended."""
        try:
            async with asyncio.timeout(DEATH_SECONDS):
                code = await self._process.wait()
                await asyncio.wait([self._forwarder])
            how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        except TimeoutError:
            how = "it still runs, but closed its connection"
        last = "".join(f"\n  {line}" for line in list(self._lines)[-SHOWN_LINES:])
        said = f" Its last words:{last}" if last else ""
        return ConnectionLostError(f"{self} ended ({how}).{said}", remedy="Try again: it is started anew.")

    async def aclose(self) -> None:
        """End it, and wait until it is gone."""
        with suppress(OSError):  # wakes a thread that still reads
            self._control.shutdown(socket.SHUT_RDWR)
        self._control.close()
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await asyncio.wait([self._forwarder])

    def forget(self) -> None:
        """In a fork of this process: the child is not ours."""
        self._control.close()

    def __str__(self) -> str:
        return f"the process {self._process.pid} of the model {self._spec.model!r}"

    async def _load(self) -> None:
        """Tell it what to load, and hear how that went."""
        reader = asyncio.create_task(asyncio.to_thread(self._greet))
        answer = await reader
        if answer == LOADED:
            return
        if not answer:
            death = await self.death()
            raise ModelLoadError(death.message, remedy="See what it wrote.")
        messages = MSGPACK.decode_server(answer).messages
        error: DcModelError = ModelLoadError(f"{self} answered what cannot be read.")
        if messages and isinstance(messages[0], Failed):
            error = errors.from_wire(messages[0])
        raise error

    def _greet(self) -> bytes:
        """Its answer; empty where it ended instead. On a thread, which a dying child ends, too."""
        try:
            send_frame(self._control, self._spec.to_bytes())
            return receive_frame(self._control)
        except (OSError, EOFError):
            return b""

    async def _forward(self) -> None:
        """Its stderr is ours, and its last lines are kept."""
        stream = self._process.stderr
        assert stream is not None
        rest = ""
        while data := await stream.read(1 << 16):
            text = data.decode(errors="replace")
            sys.stderr.write(text)
            *lines, rest = (rest + text).split("\n")
            self._lines.extend(lines)
            rest = rest[-4096:]
        if rest:
            self._lines.append(rest)


def _environment() -> dict[str, str]:
    """The child finds the modules that this process finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
