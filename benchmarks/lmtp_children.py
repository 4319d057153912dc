"""`dcmodel serve` and `dcmodel balance` as child processes, until they are closed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import IO, Self

from benchmarks.clock import THREAD_VARIABLES


class Child:
    """A command of ours that prints where it serves (``--json``) and ends with its standard input."""

    def __init__(self, *command: str) -> None:
        one_thread = dict.fromkeys(THREAD_VARIABLES, "1")
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dcmodel", *command, "--json", "--quiet"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **one_thread, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"{command[0]} did not start: {self._log.read()[-2000:].decode()}")
        self.url: str = json.loads(line)["url"]

    @property
    def address(self) -> str:
        return self.url.partition("//")[2]

    def cpu_seconds(self) -> float:
        """User and system time that the process has used so far."""
        import psutil

        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._log):
            if stream is not None:
                stream.close()


def serve(*more: str) -> Child:
    """The embedded model at a port that is free."""
    return Child("serve", "--device", "cpu", "--dtype", "float32", "--port", "0", *more)


def balance(*workers: str) -> Child:
    """A balancer before these."""
    return Child("balance", *workers, "--port", "0")
