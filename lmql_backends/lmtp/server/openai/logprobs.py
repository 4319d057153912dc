"""Log-probabilities in OpenAI's two forms, and vLLM's of prompts. Nats; -inf is -9999, as JSON has none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from dcmodel.types import ScoredContinuation, TokenLogprobs, TopLogprob
from dctokenizers import Tokenizer

LOWEST = -9999.0


class LegacyLogprobs(msgspec.Struct):
    """Of /v1/completions: one entry per token in each list."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class TokenLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class ContentLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TokenLogprob]


class ChatLogprobs(msgspec.Struct):
    """Of /v1/chat/completions."""

    content: list[ContentLogprob]
    refusal: None = None


class PromptLogprob(msgspec.Struct):
    logprob: float
    rank: int
    """1 = likeliest."""
    decoded_token: str


PromptPlaces = list[dict[str, PromptLogprob] | None]
"""By token id, for each token of a prompt; of the first nothing is known."""


class TokenNames:
    """Texts of single tokens. A token that is not whole characters is ``bytes:\\xe2\\x82``, as OpenAI's."""

    def __init__(self, tokenizer: Tokenizer, *, as_ids: bool = False) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids

    def bytes_of(self, token_id: int) -> bytes:
        """Of ids past the vocabulary, which rows of some models have: nothing."""
        return self._tokenizer.token_bytes(token_id) if token_id < self._tokenizer.vocab_size else b""

    def __call__(self, token_id: int) -> str:
        if self._as_ids:
            return f"token_id:{token_id}"
        data = self.bytes_of(token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class LegacyWriter:
    """Makes the legacy form of one text, token by token; offsets go on where the last ended."""

    def __init__(
        self, tokenizer: Tokenizer, *, tops: int, masked: bool = False, as_ids: bool = False, skipped: int = 0
    ) -> None:
        """`skipped`: characters that the tokens repeat of the prompt; those begin before the text."""
        self._name = TokenNames(tokenizer, as_ids=as_ids)
        self._decoder = tokenizer.stream_decoder()
        self._known = tokenizer.vocab_size
        self._tops = tops
        self._masked = masked
        self._offset = -skipped

    def prompt(
        self, token_ids: Sequence[int], scored: ScoredContinuation | None, text: str
    ) -> LegacyLogprobs:
        """Of a prompt that is echoed as `text`."""
        made = self._empty()
        self._add(made, token_ids[0], None, ())
        if scored is not None:
            tops = scored.top_logprobs or ((),) * len(scored.token_ids)
            for token_id, logprob, top in zip(scored.token_ids, scored.logprobs, tops, strict=True):
                self._add(made, token_id, logprob, top)
        self._decoder.finish()
        self._offset = len(text)
        return made

    def output(
        self,
        token_ids: Iterable[int],
        known: Iterable[TokenLogprobs],
        *,
        into: LegacyLogprobs | None = None,
    ) -> LegacyLogprobs:
        """Of tokens of the output, behind what there is already."""
        made = self._empty() if into is None else into
        for token_id, item in zip(token_ids, known, strict=True):
            self._add(made, token_id, *logprob_and_tops(item, self._masked))
        return made

    def _empty(self) -> LegacyLogprobs:
        return LegacyLogprobs([], [], [] if self._tops else None, [])

    def _add(
        self, made: LegacyLogprobs, token_id: int, logprob: float | None, tops: Sequence[TopLogprob]
    ) -> None:
        made.tokens.append(self._name(token_id))
        made.token_logprobs.append(None if logprob is None else finite(logprob))
        made.text_offset.append(self._offset)
        if token_id < self._known:
            self._offset += len(self._decoder.push([token_id]))
        if made.top_logprobs is None:
            return
        if logprob is None:
            made.top_logprobs.append(None)
            return
        # The token itself is always among them. Of ids with the same text the likeliest is shown.
        named: dict[str, float] = {}
        for item in tops[: self._tops]:
            named.setdefault(self._name(item.token_id), finite(item.logprob))
        named.setdefault(self._name(token_id), finite(logprob))
        made.top_logprobs.append(named)


def chat_logprobs(
    names: TokenNames, token_ids: Iterable[int], known: Iterable[TokenLogprobs], *, tops: int, masked: bool
) -> ChatLogprobs:
    """Of tokens of an answer."""
    content = []
    for token_id, item in zip(token_ids, known, strict=True):
        logprob, top = logprob_and_tops(item, masked)
        others = [
            TokenLogprob(names(other.token_id), finite(other.logprob), list(names.bytes_of(other.token_id)))
            for other in top[:tops]
        ]
        content.append(
            ContentLogprob(names(token_id), finite(logprob), list(names.bytes_of(token_id)), others)
        )
    return ChatLogprobs(content)


def prompt_places(
    names: TokenNames, prompt_ids: Sequence[int], scored: ScoredContinuation | None, tops: int
) -> PromptPlaces:
    """vLLM's ``prompt_logprobs``."""
    places: PromptPlaces = [None] * min(len(prompt_ids), 1)
    if scored is None:
        return places
    rows = scored.top_logprobs or ((),) * len(scored.token_ids)
    for token_id, logprob, rank, row in zip(
        scored.token_ids, scored.logprobs, scored.ranks, rows, strict=True
    ):
        place = {str(token_id): PromptLogprob(finite(logprob), rank + 1, names(token_id))}
        for number, item in enumerate(row[:tops], start=1):
            entry = PromptLogprob(finite(item.logprob), number, names(item.token_id))
            place.setdefault(str(item.token_id), entry)
        places.append(place)
    return places


def logprob_and_tops(item: TokenLogprobs, masked: bool) -> tuple[float, Sequence[TopLogprob]]:
    """Before or after the mask."""
    return (item.masked_logprob, item.top_masked) if masked else (item.raw_logprob, item.top_raw)


def finite(logprob: float) -> float:
    return max(logprob, LOWEST)
