"""`DcModel`: the contract of everything that generates and scores, local or remote."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from dcmodel.adapters import AdapterInfo
from dcmodel.constraints.mask_answers import Answer
from dcmodel.errors import CapabilityError
from dcmodel.session import Session
from dcmodel.types import (
    Certificate,
    Completion,
    Cost,
    GenerateRequest,
    ModelInfo,
    NextTokens,
    ScoreRequest,
    ScoreResult,
    TokenStep,
)
from dctokenizers import Tokenizer


class GenerateStream(ABC, AsyncIterator[TokenStep]):
    """The steps of one running request. Belongs to the event loop that made it."""

    @abstractmethod
    async def __anext__(self) -> TokenStep:
        """The next token. Raises the request's `GenerationError`, if any, after the tokens before it."""

    @abstractmethod
    async def completion(self) -> Completion:
        """The whole result; waits for the end, and may be called with or without iterating."""

    @abstractmethod
    def cancel(self) -> None:
        """Stop within one step. The completion then has the tokens so far and reason ``cancelled``.

        Does nothing to a request that has ended. A stream that is dropped is cancelled, too.
        """

    # -- for servers: many streams without a task switch per token -----------------------------------

    def watch(self, news: Callable[[], None]) -> bool:
        """Instead of iterating: call `news` in the stream's loop whenever `ready` has something new, and at
        the end; perhaps once too often, and perhaps at once. False: this stream can only be iterated."""
        return False

    def ready(self, limit: int | None = None) -> list[TokenStep]:
        """The next steps, at most `limit`, of those that can be had without waiting; perhaps none."""
        return []

    @property
    def is_exhausted(self) -> bool:
        """Of a watched stream: it has ended, and `ready` has given all. `completion` then does not wait."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A model's own probabilities of given texts, which are not those of their tokens."""

    probabilities: tuple[float, ...]
    """In the order of the texts; their sum is 1."""
    certificate: Certificate
    cost: Cost


class DcModel(ABC):
    """A model that generates and scores token by token. Safe to use from several event loops."""

    can_heal: bool = False
    """Whether `generate` honours `GenerateRequest.healed`; `LLM` heals prompts only where it does."""
    info: ModelInfo
    tokenizer: Tokenizer

    @abstractmethod
    def generate(self, request: GenerateRequest) -> GenerateStream:
        """Start a request; call it inside a running event loop.

        Raises `InvalidRequestError` at once for what can never work: token ids out of range, a prompt
        beyond the context. A constraint that does not compile raises from the stream.
        """

    @abstractmethod
    async def score(self, request: ScoreRequest) -> ScoreResult:
        """Raw log-probabilities of many continuations of one prompt."""

    async def next_tokens(
        self,
        prefixes: Sequence[Sequence[int]],
        masks: Sequence[Answer] | None = None,
        k: int | None = None,
        *,
        adapter: str | None = None,
    ) -> list[NextTokens]:
        """The distribution of the next token after each prefix, under its own mask, in one batched step.

        `k`: only the likeliest allowed ones; None: the whole vocabulary. Masks as for `Session.step`.
        Raises `CapabilityError` where the backend shows no distributions.
        """
        raise CapabilityError(f"{type(self).__name__} shows no distributions of next tokens.")

    async def judge(self, prompt_ids: Sequence[int], options: Sequence[str]) -> Judgement | None:
        """The model's own probabilities of some texts after a prompt, where it was loaded to give them and
        they are others than those of the texts' tokens. None: score the texts."""
        return None

    async def session(self, request: GenerateRequest) -> Session:
        """A text that the caller extends step by step, under the request's prompt, constraint, stop strings,
        sampling and `max_tokens`.

        Raises what `generate` and its stream raise, and `CapabilityError` where the backend has no sessions.
        """
        raise CapabilityError(f"{type(self).__name__} has no sessions.")

    # -- adapters -------------------------------------------------------------------------------------

    @property
    def adapters(self) -> tuple[AdapterInfo, ...]:
        """What is mounted, in the order of mounting. Requests that name anything else are refused with
        `AdapterNotFoundError`, before they compute."""
        return ()

    async def mount_adapter(self, name: str, source: str) -> AdapterInfo:
        """Load an adapter and give it a name; what runs goes on meanwhile.

        Raises `InvalidRequestError` for a name that is taken or cannot be one, `AdapterLoadError` for what is
        missing, broken or does not fit the model, `CapabilityError` where there are no adapters.
        """
        raise CapabilityError(f"{type(self).__name__} has no adapters.")

    async def unmount_adapter(self, name: str) -> None:
        """Forget an adapter: new requests cannot name it; those that run with it, and open sessions and
        their forks, go on as they would have. When the last of them is gone, its memory is free: on return,
        where nothing used it. Raises `AdapterNotFoundError`."""
        raise CapabilityError(f"{type(self).__name__} has no adapters.")

    @abstractmethod
    async def aclose(self) -> None:
        """Cancel what runs and release the model. Later calls raise `ModelClosedError`."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
