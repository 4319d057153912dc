"""Which sequence has which session at the server, and which of the idle ones go when there are too many."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

from dcmodel.scheduling.randomness import SEED_MASK
from dcmodel.scheduling.sequence import Sequence
from lmql_backends.lmtp.client import LMTPClient
from lmql_backends.lmtp.protocol.messages import Request
from lmql_backends.lmtp.protocol.requests import LARGEST, sampling_to_wire
from lmql_backends.lmtp.remote_session import Answer, RemoteSession

SHARE = 2
"""One of so many of a connection's places may be taken by sessions; the rest is for streams and questions."""


@dataclass(frozen=True, slots=True)
class ServedName:
    """A model of a server's, and the vocabulary that the client's ids belong to."""

    model: str
    fingerprint: str


@dataclass(eq=False, slots=True)
class _Kept:
    session: RemoteSession
    sequence: weakref.ref[Sequence]


class RemoteSessions:
    """Used by the remote scheduler's thread alone. A session is closed when its sequence is dropped."""

    def __init__(
        self,
        client: LMTPClient,
        served: ServedName,
        answered: Callable[[RemoteSession, Answer], None],
        wake: Callable[[], None],
    ) -> None:
        """`wake`: have `close_dropped` called soon; from any thread."""
        self._client = client
        self._served = served
        self._answered = answered
        self._wake = wake
        self._kept: dict[int, _Kept] = {}
        """By the sequence's identity; those that rest in the order in which they came to rest."""
        self._resting: dict[int, None] = {}
        self._dropped: SimpleQueue[int] = SimpleQueue()
        """Identities of sequences that are gone."""

    def of(self, sequence: Sequence) -> RemoteSession | None:
        """Its session, which is busy from now on; None: it has to wait until another one comes to rest."""
        self.close_dropped()
        key = id(sequence)
        self._resting.pop(key, None)
        if (kept := self._kept.get(key)) is not None:
            return kept.session
        if len(self._kept) >= max(self._client.max_streams // SHARE, 1):
            if not self._resting:
                return None
            self._close(next(iter(self._resting)))
        session = RemoteSession(self._request(sequence), self._answered)
        dropped, wake = self._dropped, self._wake

        def gone(_: object) -> None:  # may run in any thread at any moment: it only leaves word
            dropped.put(key)
            wake()

        self._kept[key] = _Kept(session, weakref.ref(sequence, gone))
        return session

    def rest(self, sequence: Sequence) -> None:
        """It is kept for the next step, unless its place is needed."""
        self._resting[id(sequence)] = None

    def forget(self, sequence: Sequence) -> None:
        """Its session is over."""
        self._close(id(sequence))

    def close(self) -> None:
        """All are over."""
        for key in list(self._kept):
            self._close(key)

    def close_dropped(self) -> None:
        """Let go of those whose sequences are gone."""
        while True:
            try:
                key = self._dropped.get_nowait()
            except Empty:
                return
            kept = self._kept.get(key)
            if kept is not None and kept.sequence() is None:  # else another sequence lies there now
                self._close(key)

    def _close(self, key: int) -> None:
        self._resting.pop(key, None)
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._client.post(kept.session.close)

    def _request(self, sequence: Sequence) -> Request:
        sampling = replace(sequence.sampling, seed=sequence.seed & SEED_MASK)
        return Request(
            prompt=sequence.token_ids[: sequence.prompt_length],
            sampling=sampling_to_wire(sampling),
            max_tokens=min(sequence.limit - sequence.prompt_length, LARGEST),
            top_logprobs=sequence.top_logprobs,
            ignore_eos=True,  # where the text ends is decided on this side
            adapter="" if sequence.mounted is None else sequence.mounted.name,
            model=self._served.model,
            fingerprint=self._served.fingerprint,
        )
