"""How much memory a model will take, by its files, and how much this process has taken."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dcmodel.registry import EMBEDDED, Registry

GIB = 1 << 30
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pt")
STATM = Path("/proc/self/statm")


def file_bytes(model: str) -> int:
    """The weights' size of a model's files on this machine; 0 where they are not here (a name on the Hub that
    was never loaded): it is then measured when it is loaded."""
    if model == EMBEDDED:
        return file_bytes(str(Registry().embedded_path()))
    path = Path(model).expanduser()
    try:
        if path.is_file():
            return path.stat().st_size
        if path.is_dir():
            return _of_folder(path)
    except OSError:
        return 0
    return _of_folder(snapshot) if (snapshot := _in_hub_cache(model)) is not None else 0


def _of_folder(folder: Path) -> int:
    """Of the first form in which weights are there: a folder may hold the same ones in several."""
    for pattern in WEIGHTS:
        if sizes := [file.stat().st_size for file in folder.glob(pattern)]:
            return sum(sizes)
    return 0


def _in_hub_cache(name: str) -> Path | None:
    """The newest snapshot of a name on the Hub, where it was loaded before."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    snapshots = cache / f"models--{name.replace('/', '--')}" / "snapshots"
    found = [path for path in snapshots.glob("*") if path.is_dir()] if "/" in name else []
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def used_bytes() -> int:
    """Main memory that this process uses now, and what torch has taken of GPUs; 0 where nobody tells."""
    try:
        resident = int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        resident = 0
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return resident
    devices = range(torch.cuda.device_count())
    return resident + sum(int(torch.cuda.memory_reserved(place)) for place in devices)


def gigabytes(count: int) -> str:
    """For people."""
    return f"{count / GIB:.2f}"
