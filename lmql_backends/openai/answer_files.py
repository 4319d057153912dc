"""Answers that would be the same again, kept on disk, for the programs of one user."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from lmql_backends.openai.transport.answers import Answer
from lmql_backends.openai.transport.cache import AnswerCache

logger = logging.getLogger(__name__)

MOST_BYTES = 256 << 20
KEPT_SHARE = 0.9
"""What is left of `MOST_BYTES` when the answers used longest ago are removed."""


class _Kept(msgspec.Struct):
    choices: list[dict[str, Any]]
    usage: dict[str, Any] | None
    system_fingerprint: str


class AnswerFiles(AnswerCache):
    """A file for each answer, behind the cache in memory. A broken file counts as missing."""

    def __init__(self, folder: Path, *, most_bytes: int = MOST_BYTES) -> None:
        """What is more than `most_bytes` is removed, what was used longest ago first."""
        super().__init__()
        self._folder = folder
        self._most_bytes = most_bytes
        self._bytes: int | None = None
        """As far as this process knows; None: not looked yet."""

    def get(self, key: bytes) -> Answer | None:
        answer = super().get(key)
        if answer is not None:
            return answer
        path = self._path(key)
        try:
            kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
            os.utime(path)
        except (OSError, msgspec.MsgspecError):
            return None
        answer = Answer(
            choices=tuple(kept.choices), usage=kept.usage, system_fingerprint=kept.system_fingerprint
        )
        super().put(key, answer)
        return answer

    def put(self, key: bytes, answer: Answer) -> None:
        super().put(key, answer)
        data = msgspec.json.encode(_Kept(list(answer.choices), answer.usage, answer.system_fingerprint))
        try:
            self._write(self._path(key), data)
        except OSError as error:
            logger.info("an answer is not kept in %s: %s", self._folder, error)

    def _write(self, path: Path, data: bytes) -> None:
        """Readers see all of it or nothing."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._bytes is None:
            self._bytes = sum(size for _, size, _ in self._files())
        handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".answer-")
        try:
            with os.fdopen(handle, "wb") as target:
                target.write(data)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        self._bytes += len(data)
        if self._bytes > self._most_bytes:
            self._forget()

    def _forget(self) -> None:
        """Remove what was used longest ago; other processes may have removed or written some, too."""
        files = sorted(self._files())
        left = sum(size for _, size, _ in files)
        for _, size, path in files:
            if left <= KEPT_SHARE * self._most_bytes:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            left -= size
        self._bytes = left

    def _files(self) -> list[tuple[int, int, Path]]:
        """When each was used, its size, and where it is."""
        found = []
        for path in self._folder.glob("*.json"):
            with contextlib.suppress(OSError):
                state = path.stat()
                found.append((state.st_mtime_ns, state.st_size, path))
        return found

    def _path(self, key: bytes) -> Path:
        return self._folder / f"{key.hex()}.json"
