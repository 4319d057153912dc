"""The C library behind the package `llama_cpp`: loaded once, its messages sent to `logging`.

Only the low-level bindings are used (`llama_cpp.llama_cpp`, the C functions by their names).
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from dcmodel.errors import MissingDependencyError, SetupError

logger = logging.getLogger(__name__)

# ggml's levels; 5 continues the line before.
WARNING, ERROR = 3, 4
# Errors are raised with what was said; a warning is of use to who looks for it.
LEVELS = {WARNING: logging.INFO, ERROR: logging.INFO}
KEPT_MESSAGES = 8
WAIT_POLICY = "OMP_WAIT_POLICY"


class _Said(threading.local):
    """To each thread: an adapter may be read while another thread decodes."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=KEPT_MESSAGES)


class Library:
    """The bindings as `c`, and what the library said when something failed."""

    def __init__(self, bindings: Any) -> None:
        self.c = bindings
        self._said = _Said()
        # Referenced for as long as the library may call it, which is always.
        self._callback = bindings.llama_log_callback(self._take)
        # The package's own callback prints to standard error.
        bindings.llama_log_set(self._callback, ctypes.c_void_p(0))
        bindings.llama_backend_init()

    def clear_errors(self) -> None:
        """Forget what was said so far; `reason` then speaks of the next call only."""
        self._said.errors.clear()

    def reason(self) -> str:
        """The first error since `clear_errors`, which is nearest to the cause; empty if there was none."""
        return next(iter(self._said.errors), "")

    def _take(self, level: int, text: bytes, _: object) -> None:
        message = text.decode("utf-8", errors="replace").strip()
        if level == ERROR and message:
            self._said.errors.append(message.partition(": ")[2] or message)
        if message.strip("."):
            logger.log(LEVELS.get(level, logging.DEBUG), "%s", message)


@cache
def library() -> Library:
    """The one library of this process. Raises `MissingDependencyError` or `SetupError`."""
    try:
        with _patient_threads():
            from llama_cpp import llama_cpp as bindings
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the llama_cpp backend needs {error.name or 'a package'}: {error}.",
            remedy='Run: pip install "dcmodel[llamacpp]"',
        ) from error
    except (ImportError, OSError, RuntimeError) as error:  # a library that it is linked to is not there
        raise SetupError(
            f"llama-cpp-python is installed and cannot be loaded: {error}.", remedy="Run `dcmodel doctor`."
        ) from error
    return Library(bindings)


@contextmanager
def _patient_threads() -> Iterator[None]:
    """OpenMP, if it is loaded herein, gets threads that sleep while they wait for each other.

    Spinning costs a factor of 3 on a machine that has other work. The variable is read once, when OpenMP is
    loaded; other libraries of this process bring their own and find the environment as it was.
    """
    if WAIT_POLICY in os.environ:
        yield
        return
    os.environ[WAIT_POLICY] = "PASSIVE"
    try:
        yield
    finally:
        del os.environ[WAIT_POLICY]
