"""The embedded model as a GGUF file, made when it is first asked for."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

from lmql_backends.tiny import MODEL_DIR
from lmql_backends.tiny.gguf_export import convert

# Change it when what is written changes.
FORM = 1


def embedded_gguf() -> Path:
    """The file, in float32, in the user's cache; in a temporary folder where that cannot be written to."""
    name = f"embedded-{_digest()}.gguf"
    for folder in (cache_folder(), Path(tempfile.gettempdir()) / f"dcmodel-{_user()}"):
        path = folder / name
        if not _is_ours(folder):
            continue
        if path.exists():
            return path
        try:
            return convert(MODEL_DIR, path)
        except OSError:
            if path.exists():  # Windows: another process made it and has it open
                return path
    return convert(MODEL_DIR, Path(tempfile.mkdtemp()) / name)


def cache_folder() -> Path:
    """Where this user's programs keep what can be made again."""
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "dcmodel"


def _digest() -> str:
    digest = hashlib.sha256(f"form {FORM}\n".encode())
    for file in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        digest.update((MODEL_DIR / file).read_bytes())
    return digest.hexdigest()[:16]


def _is_ours(folder: Path) -> bool:
    """Make the folder if it is not there; False where that cannot be done, or where it is somebody else's."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return sys.platform == "win32" or folder.stat().st_uid == os.getuid()
    except OSError:
        return False


def _user() -> str:
    return "user" if sys.platform == "win32" else str(os.getuid())
