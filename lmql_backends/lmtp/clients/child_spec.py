"""What a child process is to load; everything in it travels as JSON, nothing is pickled."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from dcmodel.backend import LoadOptions
from dcmodel.errors import InvalidRequestError

LOADED = b"loaded"
"""The child's answer when it can be connected to; any other is the error of loading."""
MAX_FRAME_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """A model, or a function of the user's that makes it."""

    model: str = "embedded"
    backend: str | None = None
    """None: chosen in the child, as `LLM` would."""
    options: LoadOptions = field(default_factory=LoadOptions)
    factory: str = ""
    """``module:function``, called in the child with the `ChildSpec` instead of loading by name. It gives a
    `DcModel`, or a `Models` for several."""

    def to_bytes(self) -> bytes:
        """Equal for equal specs. Raises `InvalidRequestError` where the options are no JSON values."""
        try:
            return json.dumps(asdict(self), sort_keys=True, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise InvalidRequestError(
                f"the options of a model in a child process must be JSON values: {error}.",
                remedy="Give numbers, texts, lists and dicts in `extra`, or load the model in this process.",
            ) from error

    @classmethod
    def from_bytes(cls, data: bytes) -> ChildSpec:
        fields: dict[str, Any] = json.loads(data)
        fields["options"] = LoadOptions(**fields["options"])
        return cls(**fields)
