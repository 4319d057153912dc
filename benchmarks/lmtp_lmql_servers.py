"""Two servers in processes of their own, on the same weights: ours, and ``lmql serve-model``.

``python -m benchmarks.lmtp_lmql_servers`` is ours: it prints its port and serves the embedded model until its
input is closed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from typing import IO

from benchmarks.clock import THREAD_VARIABLES

HOST = "127.0.0.1"
START_LIMIT = 180.0
TINY = "tiny"


class ServerProcess:
    """A child process that speaks version 1 on a port of this machine."""

    name: str
    model: str
    """Under which name it serves the model."""

    def __init__(self, command: list[str]) -> None:
        one_thread = dict.fromkeys(THREAD_VARIABLES, "1")
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, **one_thread, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
        )

    def cpu_seconds(self) -> float:
        """User and system time that the process has used so far."""
        import psutil

        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._log.close()

    def wait(self, port: int) -> None:
        """Until it listens. Raises `RuntimeError` with its last words where it does not."""
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end and self.process.poll() is None:
            try:
                socket.create_connection((HOST, port), 5).close()
            except OSError:
                time.sleep(0.1)
            else:
                return
        self._log.seek(0)
        said = self._log.read()[-2000:].decode(errors="replace")
        self.close()
        raise RuntimeError(f"{self.name} did not start: {said}")


class OurServer(ServerProcess):
    name = "dcmodel"
    model = TINY

    def __init__(self) -> None:
        self.port = free_port()
        super().__init__([sys.executable, "-m", "benchmarks.lmtp_lmql_servers", str(self.port)])
        self.wait(self.port)


class LmqlServer(ServerProcess):
    """It cannot take a port of the system's choice; the model is loaded before it listens, or just after."""

    name = "lmql serve-model"

    def __init__(self) -> None:
        from lmql_backends.tiny import MODEL_DIR

        self.port = free_port()
        self.model = str(MODEL_DIR)
        arguments = ["serve-model", self.model, "--host", HOST, "--port", str(self.port), "--static"]
        program = "import sys; from lmql.cli import main; sys.exit(main())"
        super().__init__([sys.executable, "-W", "ignore", "-c", program, *arguments])
        self.wait(self.port)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


async def serve(port: int) -> None:
    from dcmodel import LLM
    from lmql_backends.lmtp.server.server import LMTPServer

    llm = LLM(dtype="float32", device="cpu")
    async with LMTPServer({TINY: llm.model}, host=HOST, port=port):
        await asyncio.to_thread(sys.stdin.read)
    await llm.aclose()


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    asyncio.run(serve(int(sys.argv[1])))
