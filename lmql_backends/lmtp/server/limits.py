"""What one connection may ask for, so that no client can cost the others their server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dcmodel.adapters import check_adapter_name
from dcmodel.errors import AdapterLoadError, CapabilityError, ContextLengthError, InvalidRequestError
from dcmodel.types import ModelInfo
from lmql_backends.lmtp.protocol.messages import NextTokens, Open, Request, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Bounds of a connection; what goes past one is an error of that request alone."""

    max_streams: int = 1024
    """Conversations (streams, questions, sessions) that may be open at a time."""
    max_frame_bytes: int = 4 << 20
    """Told to the client; the transport holds it."""
    max_queued: int = 4096
    """Messages of one session that wait for those before them."""
    max_stop_strings: int = 256
    max_stop_chars: int = 65_536
    """All stop strings of a request together."""
    max_prefixes: int = 4096
    """Of one `NextTokens`."""
    max_continuations: int = 65_536
    """Of one `Score`."""
    max_numbers: int = 1 << 24
    """In one answer: the log-probabilities of `Score` and `NextTokens`."""
    max_forks_before: int = 65_536
    """Length of `Open.forked`, and how often a session was forked."""
    mount_from: tuple[Path, ...] | None = ()
    """Folders from which clients may mount adapters (and then unmount any). Empty: they may not; None: from
    anywhere."""

    def check_request(self, request: Request, max_positions: int) -> None:
        """Raises `InvalidRequestError`. `max_positions`: of the model; 0 where it does not tell."""
        if not isinstance(request.prompt, str):
            _check_length(len(request.prompt), max_positions)
        _check(len(request.stop), self.max_stop_strings, "stop strings")
        _check(sum(map(len, request.stop)), self.max_stop_chars, "characters of stop strings")

    def check_open(self, message: Open, max_positions: int) -> None:
        """Raises `InvalidRequestError`."""
        self.check_request(message.request, max_positions)
        _check(len(message.forked), self.max_forks_before, "forks")
        _check(max(message.forked, default=0), self.max_forks_before, "forks of one session")
        if 0 in message.forked[:-1]:
            raise InvalidRequestError("forks are counted from 1.", remedy="Send the numbers as they were.")

    def check_score(self, message: Score, max_positions: int) -> None:
        """Raises `InvalidRequestError`."""
        _check_length(len(message.prompt), max_positions)
        _check(len(message.continuations), self.max_continuations, "continuations")
        tokens = sum(map(len, message.continuations))
        numbers = tokens * (1 + message.top_logprobs)
        if message.prompt_logprobs is not None:
            numbers += len(message.prompt) * (1 + message.prompt_logprobs)
        _check(numbers, self.max_numbers, "log-probabilities in the answer")

    def check_mounting(self) -> None:
        """Raises `CapabilityError`."""
        if self.mount_from == ():
            raise CapabilityError(
                "this server mounts and unmounts no adapters for its clients.",
                remedy="Start it with --allow-mounting FOLDER, or mount them with --adapter.",
            )

    def mount_source(self, name: str, source: str) -> str:
        """What is to be mounted; a relative path is one in the allowed folders.

        Raises `CapabilityError`, `InvalidRequestError` and `AdapterLoadError`.
        """
        self.check_mounting()
        check_adapter_name(name)
        if self.mount_from is None:
            return source
        for folder in self.mount_from:
            try:
                root, path = folder.resolve(), (folder / source).resolve()
                if path != root and path.is_relative_to(root) and path.exists():
                    return str(path)
            except (OSError, ValueError, RuntimeError):  # names that no file can have
                continue
        raise AdapterLoadError(
            f"{source[:200]!r} is in none of the folders from which this server mounts adapters.",
            remedy="Give a path inside of them.",
        )

    def check_next_tokens(self, message: NextTokens, info: ModelInfo) -> None:
        """Raises `InvalidRequestError`."""
        _check(len(message.prefixes), self.max_prefixes, "prefixes")
        _check_length(max(map(len, message.prefixes), default=0), info.max_positions)
        width = info.vocab_size if message.k is None else min(message.k, info.vocab_size)
        _check(len(message.prefixes) * width, self.max_numbers, "log-probabilities in the answer")


def is_small(request: Request) -> bool:
    """Whether it can be read without holding up an event loop for longer than a thread would cost."""
    long_text = isinstance(request.prompt, str) and len(request.prompt) > SMALL_TEXT
    return not long_text and _weight(request.constraint, SMALL_RULE) <= SMALL_RULE


SMALL_TEXT = 2048
"""Characters."""
SMALL_RULE = 256
"""Values and hundreds of characters in a constraint."""


def _weight(value: object, budget: int) -> int:
    """How much there is in a JSON value; counting ends where the budget does."""
    if isinstance(value, str):
        return 1 + len(value) // 100
    items: Sequence[object] = ()
    if isinstance(value, dict):
        items = [*value.values()]
    elif isinstance(value, list | tuple):
        items = value
    total = 1
    for item in items:
        if total > budget:
            break
        total += _weight(item, budget - total)
    return total


def _check_length(length: int, max_positions: int) -> None:
    """Here, a list costs nothing yet; a model looks at each of its ids before it counts them."""
    if 0 < max_positions < length:
        raise ContextLengthError(
            f"the prompt of {length} tokens does not fit the context of {max_positions}.",
            remedy="Shorten it, or use a model with a longer context.",
        )


def _check(value: int, limit: int, what: str) -> None:
    if value > limit:
        raise InvalidRequestError(
            f"the request has {value} {what}; this server takes {limit}.", remedy="Ask in several parts."
        )
