"""The metadata of a GGUF file, read with the `gguf` package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dctokenizers.errors import TokenizerError, require


def read_metadata(path: Path, *, prefix: str) -> dict[str, Any]:
    """Values of the keys that begin with `prefix`, without it; arrays as lists, strings as str.

    Raises `TokenizerError` where the file is no GGUF file, is cut short, or is of an unknown version.
    """
    gguf = require("gguf", extra="gguf", purpose=f"Reading the vocabulary of {path}")
    try:
        reader = gguf.GGUFReader(path)
        return {
            name.removeprefix(prefix): field.contents()
            for name, field in reader.fields.items()
            if name.startswith(prefix)
        }
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise TokenizerError(f"{path} is not a GGUF file, or is cut short: {error}.") from error
