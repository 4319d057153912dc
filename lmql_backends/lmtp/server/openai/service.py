"""What all routes share: the models, the clock, and the edge where errors become answers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from dcmodel.errors import InvalidConstraintError
from lmql_backends.lmtp.server.contracts import Handler, HttpRequest, HttpResponse, Models
from lmql_backends.lmtp.server.openai.answers import Head
from lmql_backends.lmtp.server.openai.errors import FieldError, response_of

T = TypeVar("T")

LARGE_BODY = 32 << 10
"""Bytes from which a body is read on a thread: tokenizing it would hold up the streams of others."""


class Service:
    """The models and the clock of one server."""

    def __init__(self, models: Models, clock: Callable[[], float]) -> None:
        self.models = models
        self._clock = clock

    @property
    def now(self) -> int:
        """Seconds since 1970, for `created`."""
        return int(self._clock())

    def head(self, prefix: str, kind: str, model: str) -> Head:
        """A new name for an answer."""
        return Head(id=f"{prefix}-{secrets.token_hex(12)}", object=kind, created=self.now, model=model)


@contextmanager
def about(field: str) -> Iterator[None]:
    """Errors of a constraint inside are about this field of the body."""
    try:
        yield
    except FieldError:
        raise
    except InvalidConstraintError as error:
        raise FieldError.about(field, error) from error


async def off_loop(size: int, work: Callable[[], T]) -> T:
    """Do it here or, where the input is large, on a thread."""
    return work() if size < LARGE_BODY else await asyncio.to_thread(work)


def guarded(handler: Callable[[HttpRequest], Awaitable[HttpResponse]]) -> Handler:
    """The handler with its errors as answers in OpenAI's shape."""

    async def answer(request: HttpRequest) -> HttpResponse:
        try:
            return await handler(request)
        except Exception as error:  # becomes the answer: `errors.py` logs what nobody foresaw
            return response_of(error)

    return answer
