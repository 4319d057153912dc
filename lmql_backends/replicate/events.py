"""Server-sent events out of bytes, however these are cut, with their ids. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

MAX_EVENT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Event:
    """One event."""

    name: str
    data: str
    id: str
    """The last one that the server gave; where a broken stream is to go on."""


class EventTooLongError(ValueError):
    """A server sends one event without an end."""


class EventParser:
    """Feed it bytes as they come; it gives whole events. A torn one at the end is dropped.

    Lines end with CR, LF or CRLF; comments (keep-alive pings) and unknown fields are skipped; data in several
    lines is joined by newlines; a character may be cut anywhere.
    """

    def __init__(self) -> None:
        self._torn: list[bytes] = []
        self._data: list[bytes] = []
        self._name = b""
        self._id = b""
        self._size = 0
        self._is_behind_cr = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete. Raises `EventTooLongError`, `UnicodeDecodeError`."""
        if self._is_behind_cr and data.startswith(b"\n"):
            data = data[1:]
        if data:
            self._is_behind_cr = data.endswith(b"\r")
        self._size += len(data)
        events: list[Event] = []
        for line in data.splitlines(keepends=True):
            self._torn.append(line)
            if line.endswith((b"\n", b"\r")):
                whole = b"".join(self._torn).rstrip(b"\r\n")
                self._torn.clear()
                self._take_line(whole, events)
        if self._size > MAX_EVENT_BYTES:
            raise EventTooLongError(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return events

    def _take_line(self, line: bytes, events: list[Event]) -> None:
        if not line:
            self._dispatch(events)
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match field:
            case b"data":
                self._data.append(value)
            case b"event":
                self._name = value
            case b"id":
                self._id = value
            case _:
                return

    def _dispatch(self, events: list[Event]) -> None:
        self._size = 0
        if self._data:
            data = b"\n".join(self._data).decode()
            events.append(Event((self._name or b"message").decode(), data, self._id.decode()))
            self._data.clear()
        self._name = b""
