"""Reading small files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dctokenizers.errors import TokenizerError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `TokenizerError` where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise TokenizerError(f"{path} is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise TokenizerError(f"{path} is not a JSON object.")
    return found
