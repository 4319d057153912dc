"""The part of `LLM` that generates: whole completions, and streams."""

from __future__ import annotations

from typing import Literal, Unpack, overload

from dcmodel.llm.completions import generate_all, start
from dcmodel.llm.loading import ModelHolder
from dcmodel.llm.options import (
    DecodingOptions,
    GenerateOptions,
    refuse_decoding_options,
    request_template,
    with_explicit_options,
)
from dcmodel.llm.prompts import Prompt, Prompts
from dcmodel.llm.streaming import AsyncTextStream, TextStream
from dcmodel.loop import background_loop, run
from dcmodel.model import GenerateStream
from dcmodel.types import Completion


class Generating(ModelHolder):
    """`generate` and `stream`, and their asynchronous forms."""

    @overload
    def generate(  # type: ignore[overload-overlap]
        self, prompts: Prompt, *, progress: bool | None = ..., **options: Unpack[DecodingOptions]
    ) -> Completion: ...
    @overload
    def generate(
        self,
        prompts: Prompts,
        *,
        progress: bool | None = ...,
        return_exceptions: Literal[False] = ...,
        **options: Unpack[DecodingOptions],
    ) -> list[Completion]: ...
    @overload
    def generate(
        self,
        prompts: Prompts,
        *,
        progress: bool | None = ...,
        return_exceptions: Literal[True],
        **options: Unpack[DecodingOptions],
    ) -> list[Completion | Exception]: ...
    @with_explicit_options(DecodingOptions)
    def generate(
        self,
        prompts: Prompt | Prompts,
        *,
        progress: bool | None = None,
        return_exceptions: bool = False,
        **options: Unpack[DecodingOptions],
    ) -> Completion | list[Completion] | list[Completion | Exception]:
        """Continue one prompt (text or token ids), or a list of prompts at once.

        A list gives a list in the same order, with a progress bar on a terminal (`progress` forces it
        on or off). If a request fails, the others still finish; then the first error is raised or, with
        `return_exceptions`, stands in its place. In a batch, prompt number i is sampled with seed + i.

        With `n`, `beams` or ``sampling="exact"`` a prompt has several results: the `Completion` is the
        first of them, and the others are its `alternatives` (see `DecodingOptions`).
        """
        template = request_template(options)
        return run(generate_all(self.model, template, prompts, progress, return_exceptions))

    @overload
    async def agenerate(  # type: ignore[overload-overlap]
        self, prompts: Prompt, *, progress: bool | None = ..., **options: Unpack[DecodingOptions]
    ) -> Completion: ...
    @overload
    async def agenerate(
        self,
        prompts: Prompts,
        *,
        progress: bool | None = ...,
        return_exceptions: Literal[False] = ...,
        **options: Unpack[DecodingOptions],
    ) -> list[Completion]: ...
    @overload
    async def agenerate(
        self,
        prompts: Prompts,
        *,
        progress: bool | None = ...,
        return_exceptions: Literal[True],
        **options: Unpack[DecodingOptions],
    ) -> list[Completion | Exception]: ...
    @with_explicit_options(DecodingOptions)
    async def agenerate(
        self,
        prompts: Prompt | Prompts,
        *,
        progress: bool | None = None,
        return_exceptions: bool = False,
        **options: Unpack[DecodingOptions],
    ) -> Completion | list[Completion] | list[Completion | Exception]:
        """`generate`, awaited."""
        template = request_template(options)
        model = await self._ready()
        return await generate_all(model, template, prompts, progress, return_exceptions)

    @with_explicit_options(GenerateOptions)
    def stream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> TextStream:
        """Continue one prompt token by token; ``.completion()`` of the stream is the whole result."""
        refuse_decoding_options(options, "a stream")
        template = request_template(options)
        model = self.model

        async def begin() -> GenerateStream:
            return start(model, template, prompt)

        return TextStream(background_loop(), begin)

    @with_explicit_options(GenerateOptions)
    def astream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> AsyncTextStream:
        """`stream` for ``async for``; the request starts with the first step that is awaited."""
        refuse_decoding_options(options, "a stream")
        template = request_template(options)

        async def begin() -> GenerateStream:
            return start(await self._ready(), template, prompt)

        return AsyncTextStream(begin)
