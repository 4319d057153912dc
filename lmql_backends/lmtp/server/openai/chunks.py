"""The events of streamed texts. What is the same in all chunks of a text is made once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from dcmodel.types import Completion, TokenStep
from lmql_backends.lmtp.server.openai.answers import ChoiceEnd, Head, UsageBody, end_of
from lmql_backends.lmtp.server.openai.events import DONE
from lmql_backends.lmtp.server.openai.logprobs import (
    ChatLogprobs,
    LegacyLogprobs,
    LegacyWriter,
    TokenNames,
    chat_logprobs,
)

encode = msgspec.json.Encoder().encode
NOTHING = b"null"


class Frame:
    """What stands around the choice in every chunk of a request."""

    def __init__(self, head: Head, *, include_usage: bool) -> None:
        self._start = b"data: " + encode(head)[:-1] + b',"choices":['
        self._include_usage = include_usage
        self.open = self._start
        self.close = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"

    def final(self, usage: UsageBody) -> bytes:
        """What comes after all texts."""
        if not self._include_usage:
            return DONE
        return self._start + b'],"usage":' + encode(usage) + b"}\n\n" + DONE


class TextEnd(ChoiceEnd, kw_only=True):
    index: int
    text: str
    logprobs: None = None


class Delta(msgspec.Struct, kw_only=True, omit_defaults=True):
    content: str = ""


class ChatEnd(ChoiceEnd, kw_only=True):
    index: int
    delta: Delta
    logprobs: None = None


class TextWriter:
    """Chunks of /v1/completions."""

    def __init__(
        self, frame: Frame, index: int, *, logprobs: LegacyWriter | None, echo: bytes = b"", with_ids: bool
    ) -> None:
        """`echo`: the choice that shows the prompt, made by `echoed`."""
        self._frame = frame
        self._index = index
        self._logprobs = logprobs
        self._echo = echo
        self._with_ids = with_ids
        self._is_plain = logprobs is None and not with_ids
        self._sent = 0
        self._open = frame.open + b'{"index":%d,"text":' % index
        self._close = b',"logprobs":null,"finish_reason":null}' + frame.close

    @staticmethod
    def echoed(
        index: int, text: str, logprobs: LegacyLogprobs | None, prompt_ids: Sequence[int] | None
    ) -> bytes:
        """A choice for the prompt itself."""
        choice: dict[str, Any] = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": None}
        return encode(choice if prompt_ids is None else {**choice, "token_ids": prompt_ids})

    def begin(self) -> bytes:
        return self._frame.open + self._echo + self._frame.close if self._echo else b""

    def step(self, step: TokenStep) -> bytes:
        self._sent += len(step.text)
        if self._is_plain:
            return self._open + encode(step.text) + self._close if step.text else b""
        logprobs = NOTHING
        if self._logprobs is not None and step.logprobs is not None:
            logprobs = encode(self._logprobs.output((step.token_id,), (step.logprobs,)))
        ids = b',"token_ids":[%d]' % step.token_id if self._with_ids else b""
        return b"".join(
            (
                *(self._open, encode(step.text), b',"logprobs":', logprobs),
                *(b',"finish_reason":null', ids, b"}", self._frame.close),
            )
        )

    def end(self, completion: Completion) -> bytes:
        choice = TextEnd(index=self._index, text=completion.text[self._sent :], **end_of(completion))
        return self._frame.open + encode(choice) + self._frame.close


class ChatWriter:
    """Chunks of /v1/chat/completions."""

    def __init__(
        self, frame: Frame, index: int, *, names: TokenNames | None, tops: int, masked: bool, with_ids: bool
    ) -> None:
        """`names`: where log-probabilities are wanted."""
        self._frame = frame
        self._index = index
        self._names = names
        self._tops = tops
        self._masked = masked
        self._with_ids = with_ids
        self._is_plain = names is None and not with_ids
        self._sent = 0
        self._open = frame.open + b'{"index":%d,"delta":{"content":' % index
        self._close = b'},"logprobs":null,"finish_reason":null}' + frame.close

    def begin(self) -> bytes:
        delta = b'{"index":%d,"delta":{"role":"assistant","content":"","refusal":null}' % self._index
        return self._frame.open + delta + b',"logprobs":null,"finish_reason":null}' + self._frame.close

    def step(self, step: TokenStep) -> bytes:
        self._sent += len(step.text)
        if self._is_plain:
            return self._open + encode(step.text) + self._close if step.text else b""
        logprobs = NOTHING
        if self._names is not None and step.logprobs is not None:
            logprobs = encode(self._known(step))
        ids = b',"token_ids":[%d]' % step.token_id if self._with_ids else b""
        return b"".join(
            (
                *(self._open, encode(step.text), b'},"logprobs":', logprobs),
                *(b',"finish_reason":null', ids, b"}", self._frame.close),
            )
        )

    def end(self, completion: Completion) -> bytes:
        delta = Delta(content=completion.text[self._sent :])
        choice = ChatEnd(index=self._index, delta=delta, **end_of(completion))
        return self._frame.open + encode(choice) + self._frame.close

    def _known(self, step: TokenStep) -> ChatLogprobs:
        assert self._names is not None
        assert step.logprobs is not None
        return chat_logprobs(
            self._names, (step.token_id,), (step.logprobs,), tops=self._tops, masked=self._masked
        )
