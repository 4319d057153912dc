"""Answers that are known already, on request: only such as asking again would give again. No I/O."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import msgspec

from lmql_backends.openai.transport.answers import Answer
from lmql_backends.openai.transport.continuation import is_deterministic

UNIMPORTANT = frozenset({"stream", "stream_options", "user", "safety_identifier", "prompt_cache_key"})
"""Fields of a body that do not change the answer."""


class AnswerCache:
    """The answers used last. Keyed by endpoint, route and the body without what does not matter."""

    def __init__(self, most: int = 10_000) -> None:
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()
        self._most = most

    def __len__(self) -> int:
        return len(self._answers)

    def key(
        self, endpoint: str, path: str, body: Mapping[str, Any], sample_index: int | None
    ) -> bytes | None:
        """Where the answer belongs; None: it is drawn anew each time.

        A `sample_index` makes any answer repeatable: the one of that number to this question.
        """
        if sample_index is None and not is_deterministic(body):
            return None
        important = {name: value for name, value in body.items() if name not in UNIMPORTANT}
        parts = msgspec.json.encode([endpoint, path, sample_index, important], order="deterministic")
        return hashlib.sha256(parts).digest()

    def get(self, key: bytes) -> Answer | None:
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
        return answer

    def put(self, key: bytes, answer: Answer) -> None:
        self._answers[key] = answer
        self._answers.move_to_end(key)
        if len(self._answers) > self._most:
            self._answers.popitem(last=False)
