"""Tokenizers that servers sent, kept in the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import tempfile
from pathlib import Path

from dcmodel.errors import DcModelError
from dctokenizers import Tokenizer, TokenizerError
from lmql_backends.lmtp.protocol.codec import MSGPACK
from lmql_backends.lmtp.protocol.messages import Described, TokenizerFile
from lmql_backends.lmtp.protocol.tokenizers import from_wire

logger = logging.getLogger(__name__)

FORM = 1
"""Changes when what is written changes."""


class TokenizerCache:
    """Files that can be made again at any time. One that is broken or cannot be written counts as missing."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: by default ``tokenizers`` in the user's cache of dcmodel."""
        self._folder = folder or cache_folder() / "tokenizers"

    def read(self, described: Described) -> Tokenizer | None:
        """The tokenizer, if it is there and is what it should be."""
        try:
            data = self._path(described).read_bytes()
        except OSError:
            return None
        messages = MSGPACK.decode_server(data).messages
        if len(messages) != 1 or not isinstance(messages[0], TokenizerFile):
            return None
        try:
            tokenizer = from_wire(messages[0])
        except (DcModelError, TokenizerError) as error:
            logger.warning("a cached tokenizer is of no use: %s", error)
            return None
        return tokenizer if tokenizer.fingerprint == described.fingerprint else None

    def write(self, described: Described, file: TokenizerFile) -> None:
        """Keep it; readers see all of it or nothing."""
        path = self._path(described)
        data = MSGPACK.encode([file])
        assert isinstance(data, bytes)
        temporary = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tokenizer-")
            with os.fdopen(handle, "wb") as target:
                target.write(data)
            os.replace(temporary, path)
        except OSError as error:
            logger.info("the tokenizer is not kept in %s: %s", path.parent, error)
            if temporary:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    def _path(self, described: Described) -> Path:
        # Equal vocabularies may begin their prompts differently.
        key = "\n".join((str(FORM), described.fingerprint, described.name, described.backend))
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.msgpack"


def cache_folder() -> Path:
    """Where this user's programs keep what can be made again."""
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "dcmodel"
