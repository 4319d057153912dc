"""`LLM`: the one simple interface. Text in, text out; synchronous and asynchronous alike."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload

from dcmodel.backend import LoadOptions
from dcmodel.checks import check_integer
from dcmodel.env import Settings
from dcmodel.errors import InvalidRequestError, ModelClosedError
from dcmodel.llm.options import GenerateOptions, request_template, with_explicit_options
from dcmodel.llm.prompts import Continuations, Prompt, Prompts
from dcmodel.llm.results import ChoiceResult, Normalizer, Scored, check_normalizer
from dcmodel.llm.streaming import AsyncTextStream, TextStream
from dcmodel.llm.tasks import choose_all, generate_all, score_all, start
from dcmodel.loop import background_loop, run
from dcmodel.model import DcModel, GenerateStream
from dcmodel.registry import EMBEDDED, Registry
from dcmodel.types import Completion, ModelInfo
from dctokenizers import Tokenizer


class LLM:
    """A language model by name; loaded at the first call. Safe to use from many threads and event loops.

    `LLM()` is the embedded model, ``LLM("path-or-hub-id")`` any other. An argument goes before its
    ``DCMODEL_*`` variable, which goes before the default. `extra` is passed to the library that loads
    the model as it is. ``with LLM() as llm:`` (or ``async with``) closes it at the end.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        backend: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        max_context: int | None = None,
        max_sequences: int | None = None,
        kv_tokens: int | None = None,
        max_batch_tokens: int | None = None,
        extra: Mapping[str, Any] | None = None,
        registry: Registry | None = None,
    ) -> None:
        settings = Settings.from_environ()
        settings = replace(settings, device=device or settings.device)
        options = LoadOptions(
            device=settings.device,
            dtype=dtype or settings.dtype,
            max_context=max_context if max_context is not None else settings.max_context,
            max_sequences=max_sequences,
            kv_tokens=kv_tokens,
            max_batch_tokens=max_batch_tokens,
            extra=extra or {},
        )
        for name in ("max_context", "max_sequences", "kv_tokens", "max_batch_tokens"):
            if getattr(options, name) is not None:
                check_integer(name, getattr(options, name), low=1)
        self.name = os.fspath(model) if model is not None else settings.model or EMBEDDED
        if not self.name:
            raise InvalidRequestError("the model's name is empty.", remedy="LLM() is the embedded model.")
        load = (registry or Registry()).load
        self._prepare(partial(load, self.name, options, explicit=backend, settings=settings))

    @classmethod
    def from_model(cls, model: DcModel) -> Self:
        """An `LLM` over a model that is loaded already; closing the one closes the other."""
        llm = cls.__new__(cls)
        llm.name = model.info.name
        llm._prepare(lambda: model)
        return llm

    def _prepare(self, load: Callable[[], DcModel]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._model: DcModel | None = None
        self._pid = os.getpid()
        self._is_closed = False

    # -- Generating ---------------------------------------------------------------------------------

    @overload
    def generate(  # type: ignore[overload-overlap]
        self, prompts: Prompt, *, progress: bool | None = ..., **options: Unpack[GenerateOptions]
    ) -> Completion: ...
    @overload
    def generate(
        self,
        prompts: Prompts,
        *,
        progress: bool | None = ...,
        return_exceptions: Literal[False] = ...,
        **options: Unpack[GenerateOptions],
    ) -> list[Completion]: ...
    @overload
    def generate(
        self,
        prompts: Prompts,
        *,
        progress: bool | None = ...,
        return_exceptions: Literal[True],
        **options: Unpack[GenerateOptions],
    ) -> list[Completion | Exception]: ...
    @with_explicit_options
    def generate(
        self,
        prompts: Prompt | Prompts,
        *,
        progress: bool | None = None,
        return_exceptions: bool = False,
        **options: Unpack[GenerateOptions],
    ) -> Completion | list[Completion] | list[Completion | Exception]:
        """Continue one prompt (text or token ids), or a list of prompts at once.

        A list gives a list in the same order, with a progress bar on a terminal (`progress` forces it
        on or off). If a request fails, the others still finish; then the first error is raised or, with
        `return_exceptions`, stands in its place. In a batch, prompt number i is sampled with seed + i.
        """
        template = request_template(options)
        return run(generate_all(self.model, template, prompts, progress, return_exceptions))

    @overload
    async def agenerate(  # type: ignore[overload-overlap]
        self, prompts: Prompt, *, progress: bool | None = ..., **options: Unpack[GenerateOptions]
    ) -> Completion: ...
    @overload
    async def agenerate(
        self,
        prompts: Prompts,
        *,
        progress: bool | None = ...,
        return_exceptions: Literal[False] = ...,
        **options: Unpack[GenerateOptions],
    ) -> list[Completion]: ...
    @overload
    async def agenerate(
        self,
        prompts: Prompts,
        *,
        progress: bool | None = ...,
        return_exceptions: Literal[True],
        **options: Unpack[GenerateOptions],
    ) -> list[Completion | Exception]: ...
    @with_explicit_options
    async def agenerate(
        self,
        prompts: Prompt | Prompts,
        *,
        progress: bool | None = None,
        return_exceptions: bool = False,
        **options: Unpack[GenerateOptions],
    ) -> Completion | list[Completion] | list[Completion | Exception]:
        """`generate`, awaited."""
        template = request_template(options)
        return await generate_all(await self._ready(), template, prompts, progress, return_exceptions)

    @with_explicit_options
    def stream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> TextStream:
        """Continue one prompt token by token; ``.completion()`` of the stream is the whole result."""
        template = request_template(options)
        model = self.model

        async def begin() -> GenerateStream:
            return start(model, template, prompt)

        return TextStream(background_loop(), begin)

    @with_explicit_options
    def astream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> AsyncTextStream:
        """`stream` for ``async for``; the request starts with the first step that is awaited."""
        template = request_template(options)

        async def begin() -> GenerateStream:
            return start(await self._ready(), template, prompt)

        return AsyncTextStream(begin)

    # -- Scoring ------------------------------------------------------------------------------------

    @overload
    def score(  # type: ignore[overload-overlap]
        self, prompts: Prompt, continuations: Sequence[str], *, progress: bool | None = ...
    ) -> list[Scored]: ...
    @overload
    def score(
        self, prompts: Prompts, continuations: Continuations, *, progress: bool | None = ...
    ) -> list[list[Scored]]: ...
    def score(
        self, prompts: Prompt | Prompts, continuations: Continuations, *, progress: bool | None = None
    ) -> list[Scored] | list[list[Scored]]:
        """How likely the model finds each continuation of a prompt, in the order given.

        For a list of prompts, `continuations` is one list for all of them or one list for each.
        Whitespace at the end of a prompt counts to the continuation (see `prompts.scoring_request`).
        """
        return run(score_all(self.model, prompts, continuations, progress))

    @overload
    async def ascore(  # type: ignore[overload-overlap]
        self, prompts: Prompt, continuations: Sequence[str], *, progress: bool | None = ...
    ) -> list[Scored]: ...
    @overload
    async def ascore(
        self, prompts: Prompts, continuations: Continuations, *, progress: bool | None = ...
    ) -> list[list[Scored]]: ...
    async def ascore(
        self, prompts: Prompt | Prompts, continuations: Continuations, *, progress: bool | None = None
    ) -> list[Scored] | list[list[Scored]]:
        """`score`, awaited."""
        return await score_all(await self._ready(), prompts, continuations, progress)

    @overload
    def choose(  # type: ignore[overload-overlap]
        self,
        prompts: Prompt,
        options: Sequence[str],
        *,
        normalizer: Normalizer = ...,
        progress: bool | None = ...,
    ) -> ChoiceResult: ...
    @overload
    def choose(
        self,
        prompts: Prompts,
        options: Continuations,
        *,
        normalizer: Normalizer = ...,
        progress: bool | None = ...,
    ) -> list[ChoiceResult]: ...
    def choose(
        self,
        prompts: Prompt | Prompts,
        options: Continuations,
        *,
        normalizer: Normalizer = "sum",
        progress: bool | None = None,
    ) -> ChoiceResult | list[ChoiceResult]:
        """The likeliest of the options after a prompt, with a probability for each.

        Probabilities are a softmax over the options' log-probabilities: their sums over tokens
        (``"sum"``: the model's own odds between the texts), or their means (``"mean"``, which does not
        favour short options). Lists of prompts and options as in `score`.
        """
        check_normalizer(normalizer)
        return run(choose_all(self.model, prompts, options, normalizer, progress))

    @overload
    async def achoose(  # type: ignore[overload-overlap]
        self,
        prompts: Prompt,
        options: Sequence[str],
        *,
        normalizer: Normalizer = ...,
        progress: bool | None = ...,
    ) -> ChoiceResult: ...
    @overload
    async def achoose(
        self,
        prompts: Prompts,
        options: Continuations,
        *,
        normalizer: Normalizer = ...,
        progress: bool | None = ...,
    ) -> list[ChoiceResult]: ...
    async def achoose(
        self,
        prompts: Prompt | Prompts,
        options: Continuations,
        *,
        normalizer: Normalizer = "sum",
        progress: bool | None = None,
    ) -> ChoiceResult | list[ChoiceResult]:
        """`choose`, awaited."""
        check_normalizer(normalizer)
        return await choose_all(await self._ready(), prompts, options, normalizer, progress)

    # -- The model behind it ------------------------------------------------------------------------

    @property
    def model(self) -> DcModel:
        """The model itself, for requests in token ids; loads it if that has not happened yet."""
        with self._lock:
            if self._is_closed:
                raise ModelClosedError(f"the model {self.name!r} was closed.", remedy="Make a new LLM.")
            if self._model is None or self._pid != os.getpid():  # threads do not survive a fork
                self._model, self._pid = self._load(), os.getpid()
            return self._model

    @property
    def tokenizer(self) -> Tokenizer:
        return self.model.tokenizer

    @property
    def info(self) -> ModelInfo:
        return self.model.info

    @property
    def is_loaded(self) -> bool:
        return self._model is not None

    def close(self) -> None:
        """Cancel what runs and release the model; later calls raise `ModelClosedError`."""
        run(self.aclose())

    async def aclose(self) -> None:
        """`close`, awaited."""
        model = await asyncio.to_thread(self._detach)
        if model is not None:
            await model.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "loaded" if self.is_loaded else "not loaded yet"
        return f"<LLM {self.name!r}, {state}>"

    async def _ready(self) -> DcModel:
        """The model, loaded beside the event loop. (A synchronous call loads it in its own thread, where
        Ctrl-C can stop it.)"""
        model = self._model
        if model is not None and self._pid == os.getpid():
            return model
        return await asyncio.to_thread(lambda: self.model)

    def _detach(self) -> DcModel | None:
        with self._lock:
            model, self._model, self._is_closed = self._model, None, True
        return model
