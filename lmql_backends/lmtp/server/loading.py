"""What all that hold models by name share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from dcmodel.errors import ModelNotFoundError

T = TypeVar("T")


def checked_name(name: str, names: Sequence[str]) -> str:
    """The name that is meant; an empty one is the default. Raises `ModelNotFoundError`."""
    if not name:
        return names[0]
    if name not in names:
        shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
        raise ModelNotFoundError(
            f"the model {name[:200]!r} is not served here.", remedy=f"There are: {shown}."
        )
    return name


async def in_thread(work: Callable[[], T]) -> T:
    """`work` in a thread of its own, which no exit of the process waits for: loading may take minutes."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as problem:  # it belongs to whoever waits
            error = problem
        with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="dcmodel-load", daemon=True).start()
    return await future
