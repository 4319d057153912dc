"""A GGUF file, opened by llama.cpp: its weights (or its vocabulary alone) and its metadata."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from dcmodel.errors import ModelLoadError, ModelNotFoundError
from lmql_backends.llama_cpp.header import MAGIC
from lmql_backends.llama_cpp.library import Library, library

# Loading reports through one log for the whole process.
_LOADING = threading.Lock()


class LlamaModel:
    """Holds a `llama_model`; freed by `close`, or when nobody refers to it. Not used after `close`."""

    def __init__(self, path: Path, lib: Library, handle: Any) -> None:
        self.path = path
        self.lib = lib
        self.handle = handle
        self.vocab = lib.c.llama_model_get_vocab(handle)
        self.adapters_lock = threading.Lock()
        """Held while the library reads or changes the model's list of adapters."""
        self.dropped: deque[Any] = deque()
        """Adapters that nobody refers to any more."""
        self._finalizer = weakref.finalize(self, lib.c.llama_model_free, handle)

    def close(self) -> None:
        """Its adapters go with it."""
        with self.adapters_lock:
            self._finalizer()

    def free_dropped(self) -> None:
        """With the lock held, and none of them in use in a context."""
        while self.dropped:
            handle = self.dropped.popleft()
            if self._finalizer.alive:
                self.lib.c.llama_adapter_lora_free(handle)

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """Every key of the file that is no array, as text."""
        c, found = self.lib.c, {}
        for index in range(c.llama_model_meta_count(self.handle)):
            key = _text(c.llama_model_meta_key_by_index, self.handle, index)
            found[key] = _text(c.llama_model_meta_val_str_by_index, self.handle, index)
        return found

    @property
    def architecture(self) -> str:
        return self.metadata.get("general.architecture", "unknown")

    def setting(self, name: str) -> str | None:
        """A value under the architecture's own prefix, as text: ``setting("pooling_type")``."""
        return self.metadata.get(f"{self.architecture}.{name}")

    @property
    def vocab_size(self) -> int:
        return int(self.lib.c.llama_vocab_n_tokens(self.vocab))


def open_model(
    path: Path, *, vocab_only: bool = False, configure: Callable[[Any], None] | None = None
) -> LlamaModel:
    """Open a GGUF file; `configure` changes the `llama_model_params`, which are the library's defaults.

    Raises `ModelNotFoundError`, or `ModelLoadError` where the file is none, is cut short, or does not fit.
    """
    check_file(path)
    lib = library()
    params = lib.c.llama_model_default_params()
    params.vocab_only = vocab_only
    if configure is not None:
        configure(params)
    with _LOADING:
        lib.clear_errors()
        handle = lib.c.llama_model_load_from_file(str(path).encode(), params)
        reason = lib.reason()
    if not handle:
        raise ModelLoadError(
            f"llama.cpp cannot load {path}: {reason or 'it does not say why'}.",
            remedy="Check the file (is it whole?), or whether this llama.cpp is too old for it.",
        )
    return LlamaModel(path, lib, handle)


def check_file(path: Path) -> None:
    """Raise unless `path` is a file that begins as a GGUF file does."""
    if not path.is_file():
        raise ModelNotFoundError(f"there is no file {path}.", remedy="Check the path.")
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except OSError as error:
        raise ModelLoadError(
            f"{path} cannot be read: {error.strerror or error}.", remedy="Check its permissions."
        ) from error
    if start != MAGIC:
        raise ModelLoadError(
            f"{path} is no GGUF file: it begins with {start!r}.",
            remedy="Give a .gguf file; other checkpoints run on the transformers backend.",
        )


def _text(function: Callable[..., int], handle: Any, index: int) -> str:
    """Ask for a text of unknown length."""
    buffer = ctypes.create_string_buffer(256)
    length = function(handle, index, buffer, len(buffer))
    if length >= len(buffer):
        buffer = ctypes.create_string_buffer(length + 1)
        function(handle, index, buffer, len(buffer))
    return buffer.value.decode("utf-8", errors="replace")
