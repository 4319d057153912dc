"""A deadline for calls into the engine that may not come back."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

from dcmodel.errors import InvalidConstraintError

T = TypeVar("T")

COMPILE_SECONDS = 20.0
"""How long a grammar may take to compile, its first mask included."""


def within(seconds: float, work: Callable[[], T], *, what: str) -> T:
    """The result of `work`, which runs on a thread of its own.

    Raises `InvalidConstraintError` when it takes longer. The thread cannot be ended then: it goes on
    in the background (without the interpreter's lock) until it is done or the process ends.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name=f"dcmodel-{what}", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise InvalidConstraintError(
            f"the {what} took longer than {seconds:g} s to compile.",
            remedy="Put alternatives and repeats into terminals, and shorten repeat counts.",
        )
    return results[0]


class _AbandonedError(SystemExit):
    """Thrown into a thread whose result nobody waits for any more.

    No handler of `Exception` stops it, and a thread may end with it without a report.
    """


def unless_late(seconds: float, work: Callable[[], T]) -> T | None:
    """The result of `work`, which is Python code and runs on a thread of its own; None if it takes longer.

    It is ended then. What it raises is raised here.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # raised again in the caller's thread
            errors.append(error)
        except _AbandonedError:
            return

    thread = threading.Thread(target=run, name="dcmodel-parse", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive() and thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(_AbandonedError)
        )
        return None
    if errors:
        raise errors[0]
    return results[0] if results else None
