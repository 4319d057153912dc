"""`python -m llama_cpp.server` in a process of its own, asked over HTTP."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any

from benchmarks.llamacpp_setting import CONTEXT, Setting
from benchmarks.workloads import Item
from dctokenizers import Tokenizer

NEEDED = ("fastapi", "uvicorn", "sse_starlette", "starlette_context", "pydantic_settings")
HOST = "127.0.0.1"
START_LIMIT = 120.0
REQUEST_LIMIT = 600.0
# Greedy without any of what is on by default.
PLAIN = {
    "temperature": 0.0,
    "repeat_penalty": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
}


def missing() -> str:
    """What the server needs and is not installed; empty if nothing."""
    return ", ".join(name for name in NEEDED if importlib.util.find_spec(name) is None)


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion as the server tells it; it may have a token more, to complete a character."""

    text: str
    tokens: int
    prompt_tokens: int
    finish_reason: str


class Server:
    """All requests at the same time, each over a connection of its own; it takes them one after the other."""

    name = "server"

    def __init__(self, setting: Setting, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._port = _free_port()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "llama_cpp.server", *_arguments(setting, self._port)],
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def run(self, items: Sequence[Item]) -> list[Answer]:
        with ThreadPoolExecutor(len(items)) as pool:
            return list(pool.map(self._ask, items))

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _ask(self, item: Item) -> Answer:
        prompt = self._tokenizer.decode(item.prompt)
        answer = self._post("/v1/completions", {"prompt": prompt, "max_tokens": item.new, **PLAIN})
        choice, usage = answer["choices"][0], answer["usage"]
        return Answer(
            choice["text"], usage["completion_tokens"], usage["prompt_tokens"], choice["finish_reason"]
        )

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=REQUEST_LIMIT)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"the server answers {response.status}: {data[:500]!r}")
        return json.loads(data)

    def _wait(self) -> None:
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end and self._process.poll() is None:
            connection = http.client.HTTPConnection(HOST, self._port, timeout=5)
            try:
                connection.request("GET", "/v1/models")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                time.sleep(0.1)
            finally:
                connection.close()
        self._log.seek(0)
        said = self._log.read()[-2000:].decode(errors="replace")
        raise RuntimeError(f"llama_cpp.server did not start: {said}")


def _arguments(setting: Setting, port: int) -> list[str]:
    values = {
        "model": setting.path,
        "host": HOST,
        "port": port,
        "n_ctx": CONTEXT,
        "n_threads": setting.threads,
        "n_threads_batch": setting.threads,
        "type_k": setting.kv_type,
        "type_v": setting.kv_type,
        "flash_attn": setting.flash_attention,
        # Rows of logits that nobody asks for.
        "logits_all": False,
        # Its default lets a request end the one before in the middle.
        "interrupt_requests": False,
        "verbose": False,
    }
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
        return port
