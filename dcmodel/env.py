"""The ``DCMODEL_*`` environment variables, in one place: argument > environment > default.

    DCMODEL_MODEL         model that `LLM()` and the commands use   (default: the embedded model)
    DCMODEL_BACKEND       backend that runs it                      (default: chosen, see `dcmodel backends`)
    DCMODEL_DEVICE        cpu, cuda, cuda:1, mps                    (default: an accelerator if there is one)
    DCMODEL_DTYPE         float32, bfloat16, float16                (default: the backend's)
    DCMODEL_MAX_CONTEXT   longest sequence in tokens                (default: the model's)
    DCMODEL_TOKEN         what a server wants from its clients      (default: nothing)

An empty variable counts as unset. Hugging Face's own variables (``HF_HOME``, ``HF_TOKEN``,
``HF_HUB_OFFLINE``) are left to it.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from dcmodel.errors import SettingError

PREFIX = "DCMODEL_"
DTYPES = ("float32", "bfloat16", "float16")
DEVICE_PATTERN = re.compile(r"cpu|mps|(cuda|xpu)(:\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the environment says. None: it says nothing."""

    model: str | None = None
    backend: str | None = None
    device: str | None = None
    dtype: str | None = None
    max_context: int | None = None
    token: str | None = field(default=None, repr=False)
    unknown: tuple[str, ...] = ()
    """Variables with our prefix that mean nothing, most likely misspelt (shown by `dcmodel doctor`)."""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read them; raises `SettingError` naming the variable that holds a bad value."""
        environ = os.environ if environ is None else environ
        return cls(
            model=environ.get("DCMODEL_MODEL") or None,
            backend=environ.get("DCMODEL_BACKEND") or None,
            device=_device(environ.get("DCMODEL_DEVICE")),
            dtype=_dtype(environ.get("DCMODEL_DTYPE")),
            max_context=_positive("DCMODEL_MAX_CONTEXT", environ.get("DCMODEL_MAX_CONTEXT")),
            token=environ.get("DCMODEL_TOKEN") or None,
            unknown=tuple(sorted(name for name in environ if name.startswith(PREFIX) and name not in NAMES)),
        )


NAMES = (
    "DCMODEL_MODEL",
    "DCMODEL_BACKEND",
    "DCMODEL_DEVICE",
    "DCMODEL_DTYPE",
    "DCMODEL_MAX_CONTEXT",
    "DCMODEL_TOKEN",
)


def nearest_name(name: str) -> str | None:
    """The variable that `name` was probably meant to be."""
    matches = difflib.get_close_matches(name, NAMES, n=1)
    return matches[0] if matches else None


def _device(value: str | None) -> str | None:
    if not value:
        return None
    if not DEVICE_PATTERN.fullmatch(value):
        raise SettingError(
            f"DCMODEL_DEVICE is {value!r}, which is no device.", remedy="Use cpu, cuda, cuda:0, xpu or mps."
        )
    return value


def _dtype(value: str | None) -> str | None:
    if not value:
        return None
    if value not in DTYPES:
        raise SettingError(
            f"DCMODEL_DTYPE is {value!r}, which is no dtype.", remedy=f"Use one of {', '.join(DTYPES)}."
        )
    return value


def _positive(name: str, value: str | None) -> int | None:
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or int(value) == 0:
        raise SettingError(f"{name} is {value!r}; it must be a whole number above 0.")
    return int(value)
