"""From a choice, or a chunk's choice, to a `Reply`. No I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dcmodel.types import Cost, TopLogprob
from dctokenizers import Tokenizer
from lmql_backends.openai.capabilities import EndpointCapabilities
from lmql_backends.openai.custom_tools import tool_input
from lmql_backends.openai.endpoint_api import NOTHING, Ask, Reply
from lmql_backends.openai.token_index import NAMED_ID, TokenIndex

ENDINGS = ("stop", "tool_calls")
"""The model had nothing more to say."""
UNKNOWN_LOGPROB = -9000.0
"""Endpoints say -9999 where they do not know, or where it is minus infinity."""


@dataclass(slots=True)
class Entry:
    """What an endpoint shows of one token."""

    token_id: int | None
    logprob: float
    """NaN where it is not known."""
    tops: tuple[TopLogprob, ...]


class ReplyReader:
    """Reads what one endpoint answers to one ask; of a stream, piece by piece."""

    def __init__(self, tokenizer: Tokenizer, index: TokenIndex, able: EndpointCapabilities, ask: Ask) -> None:
        # Where they are ignored they are tokens like others, and end nothing.
        self._eos = frozenset() if ask.ignore_eos else frozenset(tokenizer.eos_token_ids)
        self._index = index
        self._able = able
        self._ask = ask
        self._end: Entry | None = None

    def read(self, choice: Mapping[str, Any], text: str, cost: Cost = NOTHING) -> Reply:
        """`text`: what the choice says, or adds."""
        told = told_ids(choice)
        entries = self.entries(choice.get("logprobs"))
        ids, are_exact = self._ids(told, entries, text)
        if len(entries) != len(ids):
            entries = []
        if ids and ids[-1] in self._eos:
            self._end = entries[-1] if entries else Entry(ids[-1], math.nan, ())
            ids, entries = ids[:-1], entries[:-1]
        finish = choice.get("finish_reason")
        stop = choice.get("stop_reason")
        has_entries = self._able.shows_logprobs and len(entries) == len(ids)
        reply = Reply(
            token_ids=tuple(ids),
            are_ids_exact=are_exact,
            text=text,
            logprobs=tuple(item.logprob for item in entries) if has_entries else None,
            tops=tuple(item.tops for item in entries) if has_entries and self._ask.top_logprobs else None,
            are_logprobs_raw=self._are_raw(),
            finish_reason=finish,
            stop_reason=stop if isinstance(stop, str) else "",
            is_ended=finish is not None and self._is_ended(finish, stop),
            end_id=self._end.token_id if finish and self._end else None,
            end_logprob=_known(self._end.logprob) if finish and self._end else None,
            end_tops=self._end.tops if finish and self._end else (),
            cost=cost,
        )
        return reply

    def entries(self, logprobs: Any, *, with_all_tops: bool = False) -> list[Entry]:
        """Of both of OpenAI's forms. `with_all_tops`: with more of them than the ask is for."""
        if not isinstance(logprobs, dict):
            return []
        if logprobs.get("content") is not None:
            return [self._chat_entry(item) for item in logprobs["content"]]
        if logprobs.get("tokens") is None:
            return []
        tokens: Sequence[str] = logprobs["tokens"]
        values = logprobs.get("token_logprobs") or [None] * len(tokens)
        rows = logprobs.get("top_logprobs") or [None] * len(tokens)
        return [
            Entry(self._index.of_text(token), _value(value), self._tops(row or {}, with_all_tops))
            for token, value, row in zip(tokens, values, rows, strict=False)
        ]

    # -- inside ------------------------------------------------------------------------------------

    def _ids(
        self, told: tuple[int, ...] | None, entries: Sequence[Entry], text: str
    ) -> tuple[list[int], bool]:
        if told is not None and (told or not text):
            return list(told), True
        named = [item.token_id for item in entries]
        if named and None not in named:
            return [item for item in named if item is not None], True
        ids = list(self._index.encoded(text)) if text else []
        return ids, not ids

    def _are_raw(self) -> bool | None:
        """Whether what is shown is the model's own: processed values are, too, where nothing was done."""
        ask, able = self._ask, self._able
        if ask.grammar is not None:
            known = able.grammars.get(ask.grammar.kind)
            if known is not None and known.raw_logprobs is not None:
                return known.raw_logprobs
            return able.raw_logprobs
        is_plain = not ask.bias and ask.allowed is None and ask.temperature == 1.0 and ask.top_p == 1.0
        return True if is_plain else able.raw_logprobs

    def _is_ended(self, finish: str, stop: Any) -> bool:
        if self._end is not None:
            return True
        is_text = isinstance(stop, str) and bool(stop)
        # Where the endpoint does not say which, a stop string may have ended it as well.
        return finish in ENDINGS and not is_text and (not self._ask.stop or isinstance(stop, int))

    def _chat_entry(self, item: Mapping[str, Any]) -> Entry:
        tops = [(self._chat_id(top), top.get("logprob")) for top in item.get("top_logprobs") or ()]
        return Entry(self._chat_id(item), _value(item.get("logprob")), _sorted(tops))

    def _chat_id(self, item: Mapping[str, Any]) -> int | None:
        token = str(item.get("token", ""))
        data = item.get("bytes")
        if token.startswith(NAMED_ID) or not isinstance(data, list):
            return self._index.of_text(token)
        return self._index.of_bytes(bytes(data)) if data else self._index.of_text(token)

    def _tops(self, row: Mapping[str, Any], all_of_them: bool) -> tuple[TopLogprob, ...]:
        named = _sorted([(self._index.of_text(token), value) for token, value in row.items()])
        return named if all_of_them else named[: self._ask.top_logprobs]


def told_ids(choice: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The token ids that the endpoint tells; None where it does not."""
    for name in ("token_ids", "tokens"):
        ids = choice.get(name)
        if isinstance(ids, list) and all(isinstance(item, int) for item in ids):
            return tuple(ids)
    return None


def text_of_choice(choice: Mapping[str, Any]) -> str:
    """Of either route."""
    message = choice.get("message")
    if isinstance(message, dict):
        return message.get("content") or tool_input(message)
    return choice.get("text") or ""


def _sorted(row: Sequence[tuple[int | None, Any]]) -> tuple[TopLogprob, ...]:
    """Likeliest first, without those that name no token of the vocabulary or are not known."""
    known = [
        TopLogprob(token_id, float(value))
        for token_id, value in row
        if token_id is not None and value is not None and value > UNKNOWN_LOGPROB
    ]
    return tuple(sorted(known, key=lambda item: -item.logprob))


def _value(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and value > UNKNOWN_LOGPROB else math.nan


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
