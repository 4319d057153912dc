"""Probes of the last day, kept in the user's cache. Files that can be made again at any time."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from dcmodel.checks import check_integer
from dcmodel.errors import InvalidRequestError
from lmql_backends.openai.capabilities import FIELD_TOPICS, GRAMMAR_TOPICS, EndpointCapabilities, Topic

logger = logging.getLogger(__name__)

FORM = 5
"""Changes when what is written, or how it is found out, changes."""
DAY = 86_400.0
SETTLES: Mapping[str, Collection[Topic]] = MappingProxyType(
    {
        "seed": {Topic.SEED},
        "allowed_token_ids": {Topic.ALLOWED},
        "continuation": {Topic.CONTINUATION},
        "continuation_style": {Topic.CONTINUATION},
        "exact_continuation": {Topic.CONTINUATION},
        "decisions": {Topic.DECISIONS},
        "echo_scoring": {Topic.SCORES},
        "prompt_logprobs": {Topic.SCORES},
        "sampling_fields": FIELD_TOPICS.values(),
        "grammars": GRAMMAR_TOPICS,
    }
)
"""What need not be asked where the user says it."""


COUNTS = frozenset({"max_bias_entries", "max_top_logprobs", "max_stops"})


class _Kept(msgspec.Struct):
    time: float
    capabilities: EndpointCapabilities


class ProbeCache:
    """A file for each endpoint, model, route and vocabulary. A broken one counts as missing."""

    def __init__(
        self, folder: Path | None = None, *, seconds: float = DAY, now: Callable[[], float] = time.time
    ) -> None:
        """`folder`: by default ``probes`` in the user's cache of dcmodel."""
        self._folder = folder or cache_folder() / "probes"
        self._seconds = seconds
        self._now = now

    def read(self, *key: str) -> EndpointCapabilities | None:
        """What was found for this key, unless that is too long ago."""
        try:
            kept = msgspec.json.decode(self._path(key).read_bytes(), type=_Kept)
        except (OSError, msgspec.MsgspecError):
            return None
        return kept.capabilities if 0.0 <= self._now() - kept.time < self._seconds else None

    def write(self, capabilities: EndpointCapabilities, *key: str) -> None:
        """Keep it; readers see all of it or nothing."""
        data = msgspec.json.encode({"time": self._now(), "capabilities": to_plain(capabilities)})
        temporary = ""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._forget()
            handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".probe-")
            with os.fdopen(handle, "wb") as target:
                target.write(data)
            os.replace(temporary, self._path(key))
        except OSError as error:
            logger.info("the probe is not kept in %s: %s", self._folder, error)
            if temporary:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    def _forget(self) -> None:
        """Remove what is too old to be read."""
        for path in self._folder.glob("*.json"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - self._seconds:
                    path.unlink()

    def _path(self, key: tuple[str, ...]) -> Path:
        digest = hashlib.sha256("\n".join((str(FORM), *key)).encode()).hexdigest()
        return self._folder / f"{digest[:32]}.json"


def to_plain(capabilities: EndpointCapabilities) -> dict[str, Any]:
    """JSON values."""
    plain: dict[str, Any] = {
        item.name: getattr(capabilities, item.name)
        for item in fields(capabilities)
        if item.name not in ("grammars", "sampling_fields", "unasked")
    }
    plain["unasked"] = sorted(map(str, capabilities.unasked))
    plain["sampling_fields"] = sorted(map(str, capabilities.sampling_fields))
    plain["grammars"] = {
        str(kind): {"support": str(known.support), "field": known.field, "raw_logprobs": known.raw_logprobs}
        for kind, known in capabilities.grammars.items()
    }
    return plain


def overridden(found: EndpointCapabilities, changes: Any) -> EndpointCapabilities:
    """With what the user says. Raises `InvalidRequestError` for what is no capability."""
    if isinstance(changes, EndpointCapabilities):
        return changes
    if not isinstance(changes, dict):
        raise InvalidRequestError(
            f"capabilities is {changes!r:.60}.", remedy='Give a dict, such as {"max_bias_entries": 300}.'
        )
    known = to_plain(found)
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise InvalidRequestError(
            f"there is no capability {unknown[0]!r}.", remedy=f"There are {', '.join(known)}."
        )
    for name in COUNTS & set(changes):
        check_integer(f"capabilities[{name!r}]", changes[name], low=0)
    try:
        able = msgspec.convert({**known, **changes}, EndpointCapabilities)
        return replace(
            able, unasked=able.unasked - {topic for name in changes for topic in SETTLES.get(name, ())}
        )
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"capabilities cannot be read: {error}.") from error


def cache_folder() -> Path:
    """Where this user's programs keep what can be made again."""
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "dcmodel"
