"""What goes wrong between text, bytes and token ids.

TokenizerError (ValueError)        a text, a file or an id that this tokenizer cannot serve
└── TokenIdError (IndexError)      an id outside 0 <= id < vocab_size
MissingPackageError (ImportError)  an optional package is not installed
"""

from __future__ import annotations

import importlib
from types import ModuleType


class TokenizerError(ValueError):
    """A text that cannot be encoded, or a tokenizer that cannot be read."""


class TokenIdError(TokenizerError, IndexError):
    """A token id outside the vocabulary."""


class MissingPackageError(ImportError):
    """An optional package is missing; the message ends with the pip line."""


def require(package: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, or say how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingPackageError(
            f'{purpose} needs the package {package!r}. Run: pip install "dcmodel[{extra}]"', name=package
        ) from error
