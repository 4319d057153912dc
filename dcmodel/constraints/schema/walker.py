"""An exact check of JSON text against a schema, byte by byte.

Values are checked when they are complete: the whole text against the schema itself, and on the way the
values for which it is sure which part of the schema applies. In between a byte costs a table look-up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from jsonschema_rs import Validator

from dcmodel.constraint import Walker
from dcmodel.constraints.schema.numbers import load_exact
from dcmodel.constraints.schema.places import Place, Places

ANY = (1 << 256) - 1
BLANK = frozenset(b" \t\n\r")
SCALAR = frozenset(b"+-.0123456789eEtrufalsn")
VALUE, SCALAR_VALUE, TEXT, ESCAPE, AFTER, KEY, KEY_TEXT, KEY_ESCAPE, COLON, DONE = range(10)
IN_TEXT, IN_ESCAPE = frozenset((TEXT, KEY_TEXT)), frozenset((ESCAPE, KEY_ESCAPE))
PLAIN = re.compile(rb'[^"\\\x00-\x1f]+')
MAX_DEPTH = 200


@dataclass(frozen=True, slots=True)
class Frame:
    """An array or object that is open."""

    outer: Frame | None
    is_object: bool
    start: int
    place: Place | None
    """What applies to it."""
    depth: int
    count: int = 0
    seen: tuple[object, ...] = ()
    """Keys of an object, items of an array without repeats."""
    member: Place | None = None
    """What applies to the value that comes."""
    may_end: bool = True


class SchemaCheck:
    """A schema's validator and places, shared by all walkers."""

    def __init__(self, validator: Validator, places: Places) -> None:
        self.validator = validator
        self.places = places

    def walker(self) -> SchemaWalker:
        """A walker at the beginning of the text."""
        return SchemaWalker(self)


class SchemaWalker(Walker):
    """The state of the check on one text."""

    __slots__ = ("_check", "_frame", "_start", "_state", "_text", "_valid")

    def __init__(self, check: SchemaCheck) -> None:
        self._check = check
        self._text = b""
        self._state = VALUE
        self._start = 0
        self._frame: Frame | None = None
        self._valid: bool | None = None

    def following(self) -> int:
        return 0 if self._state == DONE else ANY

    @property
    def is_exact(self) -> bool:
        return False

    @property
    def is_accepting(self) -> bool:
        if self._frame is not None or self._state not in (DONE, SCALAR_VALUE):
            return False
        if self._valid is None:
            value = _read(self._text)
            self._valid = value is not _BROKEN and self._check.validator.is_valid(value)
        return self._valid

    @property
    def size(self) -> int:
        """The length of the text in bytes."""
        return len(self._text)

    def closing(self) -> bytes:
        """The signs that close all that is open."""
        signs = bytearray()
        frame = self._frame
        while frame is not None:
            signs.append(0x7D if frame.is_object else 0x5D)
            frame = frame.outer
        return bytes(signs)

    def fork(self) -> SchemaWalker:
        twin = SchemaWalker.__new__(SchemaWalker)
        twin._check, twin._text = self._check, self._text
        twin._state, twin._start, twin._frame, twin._valid = (
            self._state,
            self._start,
            self._frame,
            self._valid,
        )
        return twin

    def step(self, byte: int) -> bool:
        state = self._state
        if state in IN_TEXT:
            if byte == 0x22:
                if not (self._end_value(1, byte) if state == TEXT else self._end_key(byte)):
                    return False
            elif byte == 0x5C:
                self._state = ESCAPE if state == TEXT else KEY_ESCAPE
            elif byte < 0x20:
                return False
        elif state in IN_ESCAPE:
            self._state = TEXT if state == ESCAPE else KEY_TEXT
        elif not self._structure(state, byte):
            return False
        self._text += bytes((byte,))
        return True

    def walk(self, text: bytes) -> int:
        at = 0
        while at < len(text):
            if self._state in IN_TEXT and (plain := PLAIN.match(text, at)):
                self._text += plain[0]
                at = plain.end()
            elif self.step(text[at]):
                at += 1
            else:
                break
        return at

    # -- structure ---------------------------------------------------------------------------------

    def _structure(self, state: int, byte: int) -> bool:
        if state == SCALAR_VALUE:
            if byte in SCALAR:
                self._valid = None
                return True
            # What follows a number ends it.
            before = self._snapshot()
            if self._frame is None or not self._end_value(0) or not self._structure(AFTER, byte):
                self._restore(before)
                return False
            return True
        if byte in BLANK:
            return self._frame is not None and state != DONE
        if state == VALUE:
            return self._begin_value(byte)
        frame = self._frame
        if state == DONE or frame is None:
            return False
        if state == COLON:
            self._state = VALUE
            return byte == 0x3A
        if state == KEY:
            return self._begin_key(frame, byte)
        if byte == 0x2C:
            self._state = KEY if frame.is_object else VALUE
            self._frame = _moved(frame, may_end=False)
            return True
        return byte == (0x7D if frame.is_object else 0x5D) and self._close(frame, byte)

    def _begin_value(self, byte: int) -> bool:
        frame = self._frame
        if byte == 0x22:
            self._state, self._start = TEXT, len(self._text)
        elif byte == 0x7B or byte == 0x5B:
            depth = 0 if frame is None else frame.depth + 1
            if depth > MAX_DEPTH:
                return False
            self._frame = Frame(frame, byte == 0x7B, len(self._text), self._place(), depth)
            self._state = KEY if byte == 0x7B else VALUE
        elif byte in SCALAR:
            self._state, self._start, self._valid = SCALAR_VALUE, len(self._text), None
        elif byte == 0x5D and frame is not None and not frame.is_object and frame.may_end:
            return self._close(frame, byte)
        else:
            return False
        return True

    def _begin_key(self, frame: Frame, byte: int) -> bool:
        if byte == 0x22:
            self._state, self._start = KEY_TEXT, len(self._text)
            return True
        return byte == 0x7D and frame.may_end and self._close(frame, byte)

    def _close(self, frame: Frame, byte: int) -> bool:
        self._frame, self._start = frame.outer, frame.start
        if self._end_value(1, byte):
            return True
        self._frame = frame
        return False

    # -- complete values ---------------------------------------------------------------------------

    def _place(self) -> Place | None:
        """What applies to the value that begins."""
        frame = self._frame
        if frame is None:
            return self._check.places.root
        if frame.is_object:
            return frame.member
        return None if frame.place is None else frame.place.item(frame.count)

    def _end_key(self, byte: int) -> bool:
        frame = self._frame
        assert frame is not None, "a key is in an object"
        key = self._read_value(byte)
        if not isinstance(key, str) or key in frame.seen:
            return False
        member = None if frame.place is None else frame.place.member(key)
        self._frame = Frame(
            *(frame.outer, True, frame.start, frame.place, frame.depth, frame.count),
            seen=(*frame.seen, key),
            member=member,
        )
        self._state = COLON
        return True

    def _end_value(self, size: int, byte: int = 0) -> bool:
        """Check the value that ends, with `byte` if `size` is 1, and go on after it."""
        frame, place = self._frame, self._place()
        if frame is None:
            value = self._read_value(byte)
            if value is _BROKEN or not self._check.validator.is_valid(value):
                return False
            self._state, self._valid = DONE, True
            return True
        is_unique = frame.place is not None and frame.place.is_unique and not frame.is_object
        if is_unique or (place is not None and place.is_checked):
            value = self._read_value(byte if size else None)
            if value is _BROKEN or (place is not None and not place.admits(value)):
                return False
            if is_unique:
                same = _identity(value)
                if same in frame.seen:
                    return False
                frame = _moved(frame, may_end=True, seen=(*frame.seen, same))
        self._frame = _moved(frame, may_end=True, count=frame.count + 1)
        self._state = AFTER
        return True

    def _read_value(self, byte: int | None) -> Any:
        text = self._text[self._start :]
        return _read(text if byte is None else text + bytes((byte,)))

    # -- the text ----------------------------------------------------------------------------------

    def _snapshot(self) -> tuple[int, int, Frame | None, bool | None]:
        return self._state, self._start, self._frame, self._valid

    def _restore(self, before: tuple[int, int, Frame | None, bool | None]) -> None:
        self._state, self._start, self._frame, self._valid = before


_BROKEN = object()


def _read(text: bytes) -> Any:
    """The value of JSON text; `_BROKEN` for what is none."""
    try:
        return load_exact(text.decode("utf-8"))
    except (ValueError, RecursionError):
        return _BROKEN


def _moved(
    frame: Frame, *, may_end: bool, seen: tuple[object, ...] | None = None, count: int | None = None
) -> Frame:
    return Frame(
        *(frame.outer, frame.is_object, frame.start, frame.place, frame.depth),
        count=frame.count if count is None else count,
        seen=frame.seen if seen is None else seen,
        may_end=may_end,
    )


def _identity(value: Any) -> object:
    """Equal for equal JSON values, and hashable: 1 and 1.0 are equal, 1 and true are not."""
    if isinstance(value, bool) or value is None:
        return ("literal", value)
    if isinstance(value, list):
        return ("array", tuple(map(_identity, value)))
    if isinstance(value, dict):
        return ("object", frozenset((key, _identity(inner)) for key, inner in value.items()))
    return value
