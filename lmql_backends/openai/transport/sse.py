"""Server-sent events out of bytes, however these are cut. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

MAX_EVENT_BYTES = 16 * 2**20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event. `name` is empty where the server gave none."""

    data: str
    name: str = ""


class EventTooLongError(ValueError):
    """A server sends one event without an end."""


class SseParser:
    """Feed it bytes as they come; it gives whole events.

    Lines end with CR, LF or CRLF; comments (keep-alive pings) and unknown fields are skipped; data in several
    lines is joined by newlines; a character may be cut anywhere.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        """A line that has no end yet."""
        self._data: list[bytes] = []
        self._name = b""
        self._size = 0
        self._is_behind_cr = False
        self._is_first_line = True

    def feed(self, data: bytes) -> list[ServerEvent]:
        """The events that these bytes complete. Raises `EventTooLongError`, `UnicodeDecodeError`."""
        if not data:
            return []
        if self._is_behind_cr and data.startswith(b"\n"):
            data = data[1:]
        self._is_behind_cr = data.endswith(b"\r") if data else False
        self._size += len(data)
        events: list[ServerEvent] = []
        for line in data.splitlines(keepends=True):
            if not line.endswith((b"\n", b"\r")):
                self._pieces.append(line)
                break
            if self._pieces:
                self._pieces.append(line)
                line = b"".join(self._pieces)
                self._pieces.clear()
            self._take_line(line.rstrip(b"\r\n"), events)
        if self._size > MAX_EVENT_BYTES:
            raise EventTooLongError(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return events

    def finish(self) -> list[ServerEvent]:
        """At the end: an event of whole lines whose empty line is missing. A torn line is dropped."""
        events: list[ServerEvent] = []
        self._pieces.clear()
        self._dispatch(events)
        return events

    def _take_line(self, line: bytes, events: list[ServerEvent]) -> None:
        if self._is_first_line:
            self._is_first_line = False
            line = line.removeprefix(BYTE_ORDER_MARK)
        if not line:
            self._dispatch(events)
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value

    def _dispatch(self, events: list[ServerEvent]) -> None:
        self._size = 0
        if self._data:
            events.append(ServerEvent(b"\n".join(self._data).decode(), self._name.decode()))
            self._data.clear()
        self._name = b""
