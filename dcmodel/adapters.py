"""Adapters (LoRA) on top of a model: what they are called, and the contract between model and engine.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models". An adapter is mounted under a name and
unmounted at run time; each request names the one that it wants, and one batch may mix them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dcmodel.errors import AdapterNotFoundError, InvalidRequestError

BASE = 0
"""The handle of the model without an adapter."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterInfo:
    """A mounted adapter, as callers see it."""

    name: str
    source: str
    """Where it came from: a folder, a file, a hub id."""
    rank: int
    """The largest rank among its matrices."""
    kind: str = "lora"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedAdapter:
    """What an engine read from a source and has checked against its model; nothing computes with it yet."""

    rank: int
    weights: Any
    """The engine's own business."""
    kind: str = "lora"


def check_adapter_name(name: str) -> None:
    """Raise `InvalidRequestError` unless `name` can name an adapter, also in a URL and a model's route."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequestError(
            f"{name!r} cannot be an adapter's name.",
            remedy="Use letters, digits and . _ - / (a letter or digit first, at most 200).",
        )


def check_adapter(name: str | None, mounted: Iterable[AdapterInfo]) -> None:
    """Raise `AdapterNotFoundError` unless `name` is mounted, or None."""
    names = [item.name for item in mounted]
    if name is not None and name not in names:
        raise AdapterNotFoundError(
            f"no adapter {name!r} is mounted ({', '.join(names) or 'none is'}).",
            remedy="Mount it first: llm.mount(name, source); on the command line, --adapter NAME=SOURCE.",
        )
