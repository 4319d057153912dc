"""What the parts of the server agree on: models by name, HTTP requests and answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum

from dcmodel.llm import LLM
from dcmodel.model import DcModel


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model under the name that clients use."""

    name: str
    model: DcModel
    llm: LLM
    """Over the same model, for texts and chat templates."""


class ModelState(StrEnum):
    """Where a model stands."""

    READY = "ready"
    LOADING = "loading"
    UNLOADED = "unloaded"
    """It is loaded when somebody asks for it."""


class Models(ABC):
    """Models by name; some may be loaded when first asked for, and unloaded when nobody uses them."""

    @abstractmethod
    def names(self) -> Sequence[str]:
        """Those that clients may ask for; the first is the default."""

    def adapters(self, name: str) -> Sequence[str]:
        """Names of the adapters that are mounted on a model, or will be when it is loaded."""
        return ()

    def state(self, name: str) -> ModelState:
        """Whether a model (one of `names`) answers at once. Nothing is loaded for it."""
        return ModelState.READY

    def context(self, name: str) -> int | None:
        """How many tokens a model (one of `names`) takes, while it is loaded. Nothing is loaded for it."""
        return None

    @abstractmethod
    def use(self, name: str) -> AbstractAsyncContextManager[ServedModel]:
        """The model, which stays loaded inside the context. An empty name is the default.

        Raises `ModelNotFoundError` for a name that is not served, what loading raises, and
        `OverloadedError` where nothing new is taken.
        """


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request whose body has been read whole, within the server's limit."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in small letters."""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer; a body that is an iterator is sent as it comes, and closed if the client goes away."""

    status: int = 200
    body: bytes | AsyncIterator[bytes] = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class CutError(Exception):
    """Raised by a handler, or by the body of its answer: the connection ends here, in the middle."""

    def __init__(self, *, reset: bool = False) -> None:
        """`reset`: by RST; otherwise by FIN."""
        super().__init__("the connection is cut")
        self.reset = reset


Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]
"""Cancelled when the client goes away before it has answered."""
Routes = Mapping[tuple[str, str], Handler]
"""By method and path, such as ``("POST", "/v1/completions")``; every one needs the token. A path that ends in
``/*`` stands for all that begin so and have no entry of their own; the handler reads ``HttpRequest.path``."""
