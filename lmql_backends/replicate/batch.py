"""`Batch`: the questions of one prediction, and its output on the way to who asked. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from lmql_backends.lmtp.protocol.messages import ServerMessage
from lmql_backends.replicate.asked import Asked
from lmql_backends.replicate.speech import Speech


class Batch:
    """Lives as long as its job, through however many predictions that takes."""

    def __init__(
        self, speech: Speech, asked: Iterable[Asked[Any]], deliver: Callable[[list[ServerMessage]], None]
    ) -> None:
        self.open: dict[int, Asked[Any]] = {item.id: item for item in asked}
        """What has no whole answer yet."""
        self.progress = 0
        """How many answers brought anything further."""
        self.has_dropped = False
        """Whether something is no longer wanted that a prediction may still be at."""
        self._speech = speech
        self._deliver = deliver
        self._torn = ""
        self._lines = 0
        """Lines of this prediction's output that were taken."""
        self._is_live = True

    @property
    def is_over(self) -> bool:
        return not self.open

    def inputs(self) -> dict[str, str]:
        """Of a new prediction, for what is open. Raises `InvalidRequestError`."""
        self._torn, self._lines, self._is_live = "", 0, True
        return self._speech.inputs(self.rest())

    def rest(self) -> Sequence[Asked[Any]]:
        return list(self.open.values())

    def drop(self, id_: int) -> Asked[Any] | None:
        """Nobody wants its answer any more; None: it has been given, or was never asked here."""
        asked = self.open.pop(id_, None)
        self.has_dropped = self.has_dropped or asked is not None
        return asked

    def take(self, pieces: Iterable[str]) -> None:
        """The next pieces of the output; each ends where a line does, but for a torn one."""
        if self._is_live:
            self._give([answer for piece in pieces for answer in self._read(piece)])

    def broken(self) -> None:
        """The output goes on somewhere else, perhaps further back or further on."""
        self._torn = ""
        self._is_live = self._speech.is_numbered

    def take_all(self, text: str) -> None:
        """The whole output of a prediction that is over, some of which was taken before."""
        self._torn = ""
        known = 0 if self._speech.is_numbered else self._lines
        lines = [line for line in text.split("\n") if line]
        self._give(self._read("\n".join(lines[known:]) + "\n"))

    def _read(self, text: str) -> Iterator[Any]:
        *whole, last = (self._torn + text).split("\n")
        for line in filter(None, whole):
            self._lines += 1
            yield from self._speech.read(line) or ()
        # A piece is whole lines, whose last end the platform may have trimmed.
        found = self._speech.read(last) if last else None
        self._torn = last if found is None else ""
        if found is not None:
            self._lines += 1
            yield from found

    def _give(self, answers: Iterable[Any]) -> None:
        given: list[ServerMessage] = []
        for answer in answers:
            asked = None if answer.id is None else self.open.get(answer.id)
            if asked is None:
                continue
            before = asked.heard
            given += asked.take(answer)
            self.progress += asked.heard - before
            if asked.is_over:
                del self.open[asked.id]
        if given:
            self._deliver(given)
