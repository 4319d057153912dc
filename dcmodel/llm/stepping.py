"""The part of `LLM` for callers that take each step themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack, cast, overload

from dcmodel.adapted import through_adapter
from dcmodel.constraints.mask_answers import Answer
from dcmodel.errors import InvalidRequestError
from dcmodel.llm.loading import ModelHolder
from dcmodel.llm.options import (
    GenerateOptions,
    RequestTemplate,
    refuse_decoding_options,
    request_template,
    with_explicit_options,
)
from dcmodel.llm.prompts import Prompt, Prompts, prompt_ids, split_prompts
from dcmodel.llm.text_session import TextSession
from dcmodel.loop import run
from dcmodel.model import DcModel
from dcmodel.types import NextTokens


class Stepping(ModelHolder):
    """`next_tokens` and `session`, and their asynchronous forms."""

    @overload
    def next_tokens(  # type: ignore[overload-overlap]
        self, prompts: Prompt, masks: Answer = ..., k: int | None = ..., *, adapter: str | None = ...
    ) -> NextTokens: ...
    @overload
    def next_tokens(
        self,
        prompts: Prompts,
        masks: Sequence[Answer] | None = ...,
        k: int | None = ...,
        *,
        adapter: str | None = ...,
    ) -> list[NextTokens]: ...
    def next_tokens(
        self,
        prompts: Prompt | Prompts,
        masks: Any = None,
        k: int | None = None,
        *,
        adapter: str | None = None,
    ) -> NextTokens | list[NextTokens]:
        """The distribution of the next token after a prompt, or after each of a list, in one batched step.

        masks    one for a single prompt, a list of them for a list: a `TokenMask`, token ids, booleans,
                 packed bits, a bias dict of +-100; None allows everything
        k        only so many of the likeliest allowed tokens; None: the whole vocabulary, by id
        adapter  the name of a mounted adapter (see `mount`); None: the model as it is
        """
        return run(next_tokens_of(through_adapter(self.model, adapter), prompts, masks, k))

    @overload
    async def anext_tokens(  # type: ignore[overload-overlap]
        self, prompts: Prompt, masks: Answer = ..., k: int | None = ..., *, adapter: str | None = ...
    ) -> NextTokens: ...
    @overload
    async def anext_tokens(
        self,
        prompts: Prompts,
        masks: Sequence[Answer] | None = ...,
        k: int | None = ...,
        *,
        adapter: str | None = ...,
    ) -> list[NextTokens]: ...
    async def anext_tokens(
        self,
        prompts: Prompt | Prompts,
        masks: Any = None,
        k: int | None = None,
        *,
        adapter: str | None = None,
    ) -> NextTokens | list[NextTokens]:
        """`next_tokens`, awaited."""
        return await next_tokens_of(through_adapter(await self._ready(), adapter), prompts, masks, k)

    @with_explicit_options(GenerateOptions, heal=False)
    def session(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> TextSession:
        """A text behind a prompt that you extend step by step, fork and take back; see `TextSession`.

        Options are those of a generation. The prompt's tokens stay as they are, unless ``heal=True``.
        """
        template = _session_template(options)
        return run(_open(self.model, template, prompt))

    @with_explicit_options(GenerateOptions, heal=False)
    async def asession(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> TextSession:
        """`session`, awaited."""
        template = _session_template(options)
        return await _open(await self._ready(), template, prompt)


async def next_tokens_of(
    model: DcModel, prompts: Prompt | Prompts, masks: Any, k: int | None
) -> NextTokens | list[NextTokens]:
    """The core of both forms."""
    items, is_batch = split_prompts(prompts)
    prefixes = [prompt_ids(model.tokenizer, item) for item in items]
    if not is_batch:
        (found,) = await model.next_tokens(prefixes, [cast(Answer, masks)], k)
        return found
    if masks is None:
        return await model.next_tokens(prefixes, None, k)
    if not hasattr(masks, "__len__") or len(masks) != len(prefixes):
        raise InvalidRequestError(
            f"masks for {len(prefixes)} prompts are given as {masks!r:.40}.",
            remedy="Give a list with one mask for each prompt; None in it allows everything.",
        )
    return await model.next_tokens(prefixes, list(masks), k)


def _session_template(options: GenerateOptions) -> RequestTemplate:
    refuse_decoding_options(options, "a session")
    return request_template({"heal": False, **options})


async def _open(model: DcModel, template: RequestTemplate, prompt: Prompt) -> TextSession:
    request = template.fill(model.tokenizer, prompt, 0, can_heal=model.can_heal)
    return TextSession(await model.session(request), model.tokenizer)
