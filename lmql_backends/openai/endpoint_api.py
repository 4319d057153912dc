"""What is asked of an endpoint for one continuation, and what comes back: `Asker`. No HTTP here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, Protocol, Self

from dcmodel.types import Cost, TopLogprob
from lmql_backends.openai.capabilities import EndpointCapabilities, GrammarKind

NO_BIAS: Mapping[int, float] = MappingProxyType({})
NOTHING = Cost()


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt at ``/chat/completions``."""

    messages: tuple[Mapping[str, Any], ...]
    answer: str = ""
    """The beginning of the answer, which is to be continued; empty: there is none yet."""


Prompt = tuple[int, ...] | str | Conversation


@dataclass(frozen=True, slots=True)
class SentPrompt:
    """A prompt and the output so far in the form that the endpoint takes."""

    prompt: Prompt
    is_exact: bool
    """Whether the endpoint surely reads the tokens that were meant: ids are sent, or a text that the
    tokenizer cuts into these very tokens. Otherwise the text is the same and the tokens may differ."""


@dataclass(frozen=True, slots=True)
class ServerGrammar:
    """A rule for the endpoint to enforce."""

    kind: GrammarKind
    source: Any
    """A schema (`json_schema`), a list of texts (`choice`), a dict (`constraint`), else a string."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request for one continuation. Equal asks with different prompts may share an HTTP request."""

    prompt: Prompt
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    top_k: int = 0
    """As the next three: where `EndpointCapabilities.sampling_fields` has it."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    bias: Mapping[int, float] = field(default_factory=lambda: NO_BIAS)
    """At most `EndpointCapabilities.max_bias_entries`; more raise `CapabilityError`: nothing is ever cut."""
    allowed: tuple[int, ...] | None = None
    """The only tokens that may be drawn (``allowed_token_ids``)."""
    top_logprobs: int = 0
    """At most `EndpointCapabilities.max_top_logprobs`."""
    grammar: ServerGrammar | None = None
    sample_index: int | None = None
    """Tells apart several draws of the same ask for the response cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back: a whole answer, or a piece of a stream. Lists are aligned with `token_ids`."""

    token_ids: tuple[int, ...]
    """The answer's tokens, without the end-of-sequence token."""
    are_ids_exact: bool
    """The endpoint told the ids, or its tokens' bytes name one id each; False: `text` was encoded anew, so
    that the model may have drawn other tokens of the same text."""
    text: str
    """Of a piece: what it adds. Whole characters only where the endpoint sends those."""
    logprobs: tuple[float, ...] | None = None
    """None where the endpoint shows none, or where they cannot be aligned with `token_ids`."""
    tops: tuple[tuple[TopLogprob, ...], ...] | None = None
    """Likeliest first, each place with as many as were asked for, perhaps fewer."""
    are_logprobs_raw: bool | None = None
    """Whether they are those of the model itself, before biases and temperature; None: not known."""
    finish_reason: str | None = None
    """``stop``, ``length``, or the endpoint's own word; None: more pieces follow."""
    stop_reason: str = ""
    """The stop string that ended it, where that is known."""
    is_ended: bool = False
    """The model drew an end-of-sequence token (`end_id`), or a grammar had nothing left to say."""
    end_id: int | None = None
    """The end-of-sequence token that was drawn, where the endpoint tells it."""
    end_logprob: float | None = None
    end_tops: tuple[TopLogprob, ...] = ()
    """The likeliest tokens at the place where the end was drawn, where the endpoint shows them."""
    cost: Cost = NOTHING
    """Of a piece: nothing; see `ReplyStream.cost`."""


class ReplyStream(Protocol):
    """An answer piece by piece::

    async with asker.ask_stream(ask) as pieces:
        async for piece in pieces:
            ...  # leaving early closes the response, and the endpoint stops
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __aiter__(self) -> AsyncIterator[Reply]: ...

    async def __anext__(self) -> Reply: ...

    @property
    def cost(self) -> Cost:
        """Of everything so far; final, and estimated where it was left early, after `__aexit__`."""
        ...


class Asker(Protocol):
    """One model at one endpoint."""

    @property
    def capabilities(self) -> EndpointCapabilities: ...

    def place(self, prompt_ids: tuple[int, ...], output_ids: tuple[int, ...] = ()) -> SentPrompt | None:
        """`prompt_ids` and the output so far as a prompt of this endpoint: ids where it takes ids.

        None where that cannot be sent: a text cannot end inside a character (take back tokens until it does
        not, and let the reply begin with their bytes), and some chats cannot be continued at all.
        """
        ...

    def lied(self, kind: GrammarKind) -> None:
        """An answer broke the grammar that was sent with it: `capabilities` no longer honour this kind."""
        ...

    async def ask(self, ask: Ask) -> Reply:
        """The whole answer. Raises dcmodel's errors: `InvalidRequestError` for what the endpoint refuses,
        `CapabilityError` for what it cannot do, `RetryableError` when retries did not help."""
        ...

    async def ask_several(self, ask: Ask, count: int) -> list[Reply]:
        """Up to `count` answers, each drawn for itself, in one request; one where the endpoint gives no more.
        The first has the cost of all."""
        ...

    def ask_stream(self, ask: Ask) -> ReplyStream:
        """The answer as it comes. Nothing is sent before ``async with``."""
        ...
