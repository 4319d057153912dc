"""How predictions are asked for: where, as whom, and how long it is tried."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from dcmodel.checks import check_integer, check_number
from dcmodel.errors import InvalidRequestError, UnauthorizedError

BASE_URL = "https://api.replicate.com"
OPTIONS = ("token", "base_url", "deadline", "retries", "stall_seconds", "max_frame_bytes")
LEGACY_OPTIONS = ("tokenizer",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of one client."""

    token: str = field(repr=False)
    base_url: str = BASE_URL
    deadline: float = 1800.0
    """Seconds from the beginning of a job to its end, waiting included; Replicate ends a prediction that runs
    for half an hour."""
    retries: int = 8
    """How many failures of the server or of the connection a job bears until it gets any further."""
    base: float = 0.5
    cap: float = 20.0
    """Seconds: waits lie between them, each at most three times the last one (decorrelated jitter)."""
    request_seconds: float = 60.0
    """Of one request, streams excepted."""
    stall_seconds: float = 120.0
    """How long a stream may be silent before the prediction is looked at; a cold boot may take minutes."""
    max_frame_bytes: int = 4 << 20
    """What one prediction is asked; more is asked of several."""

    def __post_init__(self) -> None:
        check_number("deadline", self.deadline, low=0.0, open_low=True)
        check_integer("retries", self.retries, low=0)
        check_number("stall_seconds", self.stall_seconds, low=0.0, open_low=True)
        check_integer("max_frame_bytes", self.max_frame_bytes, low=1024)
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise InvalidRequestError(
                f"the base URL of Replicate is {self.base_url!r:.200}.",
                remedy=f"Give one such as {BASE_URL} (base_url=, or REPLICATE_BASE_URL).",
            )


def settings_of(extra: Mapping[str, Any]) -> Settings:
    """From a user's options and the environment. Raises `UnauthorizedError` without a token."""
    unknown = sorted(set(extra) - set(OPTIONS) - set(LEGACY_OPTIONS))
    if unknown:
        raise InvalidRequestError(
            f"the option {unknown[0]!r} is not known for a model on Replicate.",
            remedy=f"Options: {', '.join((*OPTIONS, *LEGACY_OPTIONS))}.",
        )
    given = {name: extra[name] for name in OPTIONS if extra.get(name) is not None}
    given.setdefault("token", os.environ.get("REPLICATE_API_TOKEN") or "")
    given.setdefault("base_url", os.environ.get("REPLICATE_BASE_URL") or BASE_URL)
    if not isinstance(given["token"], str) or not given["token"].strip():
        raise UnauthorizedError(
            "there is no token for Replicate.",
            remedy='Run: export REPLICATE_API_TOKEN=…, or give extra={"token": ...}.',
        )
    given["token"] = given["token"].strip()
    given["base_url"] = str(given["base_url"]).rstrip("/").removesuffix("/v1")
    return Settings(**given)
