"""The server's log: one line per event, as text or as JSON. Neither prompts nor tokens are in it."""

from __future__ import annotations

import json
import logging
import time
from typing import TextIO

LOGGERS = ("dcmodel", "lmql_backends", "uvicorn")


class TextFormatter(logging.Formatter):
    """``12:30:01 INFO request model=small tokens=12``, without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_word(value)}" for name, value in _fields(record).items())
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname} {_escaped(record.getMessage())}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One object per line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


FORMATTERS: dict[str, type[logging.Formatter]] = {"text": TextFormatter, "json": JsonFormatter}


def log_to(stream: TextIO, form: str, level: int) -> logging.Handler:
    """Send the logs of the server and of its parts to `stream`; returns the handler, for `log_no_more`."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(FORMATTERS[form]())
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(max(level, logging.WARNING) if name == "uvicorn" else level)
    return handler


def log_no_more(handler: logging.Handler) -> None:
    """Undo `log_to`."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def _word(value: object) -> str:
    text = _escaped(str(value))
    return json.dumps(text) if not text or " " in text else text


def _escaped(text: str) -> str:
    """Lines and terminals are not at the mercy of what clients send."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
