"""Which accelerators this machine has, found in /dev and /sys: no heavy import, no driver started.

`torch` would know better and takes seconds to import; a choice between backends must not wait for that.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

NVIDIA, AMD, INTEL = "0x10de", "0x1002", "0x8086"
"""Vendors, as PCI numbers them."""
DISPLAY = "0x03"
"""The PCI class of whatever computes pictures."""
CONTAINER = "(in a container: start it with --gpus all)"


@dataclass(frozen=True, slots=True)
class Device:
    """An accelerator that can be used."""

    kind: str
    """``cuda`` (NVIDIA), ``rocm`` (AMD), ``xpu`` (Intel) or ``mps`` (Apple)."""
    detail: str


@dataclass(frozen=True, slots=True)
class Obstacle:
    """An accelerator that is there and cannot be used."""

    kind: str
    detail: str
    next_command: str
    """What to type, or to do."""


@dataclass(frozen=True, slots=True)
class Devices:
    """What was found."""

    found: tuple[Device, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()

    def of_kind(self, kinds: tuple[str, ...]) -> Device | None:
        """The first device of one of these kinds."""
        return next((device for device in self.found if device.kind in kinds), None)

    def obstacle(self, kinds: tuple[str, ...]) -> Obstacle | None:
        """The first obstacle of one of these kinds."""
        return next((obstacle for obstacle in self.obstacles if obstacle.kind in kinds), None)


def find_devices(
    root: Path = Path("/"), environ: Mapping[str, str] | None = None, platform: str = sys.platform
) -> Devices:
    """Look for accelerators below `root`; takes about a millisecond and raises nothing."""
    environ = os.environ if environ is None else environ
    if platform == "darwin":
        arm = os.uname().machine == "arm64"
        return Devices((Device("mps", "Apple silicon"),) if arm else ())
    looks: tuple[Callable[[Path, Mapping[str, str]], Device | Obstacle | None], ...] = (_nvidia, _amd, _intel)
    seen = [look(root, environ) for look in looks]
    return Devices(
        tuple(item for item in seen if isinstance(item, Device)),
        tuple(item for item in seen if isinstance(item, Obstacle)),
    )


def _nvidia(root: Path, environ: Mapping[str, str]) -> Device | Obstacle | None:
    wsl = (root / "dev/dxg").exists() and (root / "usr/lib/wsl/lib/libcuda.so.1").exists()
    driver = (root / "dev/nvidiactl").exists()
    cards = sorted(name for name in _names(root / "dev") if re.fullmatch(r"nvidia\d+", name))
    if not (wsl or driver):
        if not _has_card(root, NVIDIA):
            return None
        detail = "an NVIDIA card is there and its driver is not (no /dev/nvidiactl)"
        return Obstacle("cuda", detail, f"install the NVIDIA driver {CONTAINER}")
    if not (wsl or cards):
        detail = "the NVIDIA driver is there and no card (no /dev/nvidia0)"
        return Obstacle("cuda", detail, f"nvidia-smi {CONTAINER}")
    hidden = _hidden_by(environ, "CUDA_VISIBLE_DEVICES")
    if hidden:
        return Obstacle("cuda", f"{hidden} hides the NVIDIA cards", f"unset {hidden}")
    return Device("cuda", f"{len(cards)} x NVIDIA" if cards else "NVIDIA under WSL")


def _amd(root: Path, environ: Mapping[str, str]) -> Device | Obstacle | None:
    if not (root / "dev/kfd").exists():
        if not _has_card(root, AMD):
            return None
        detail = "an AMD card is there and its compute driver is not (no /dev/kfd)"
        return Obstacle("rocm", detail, "install ROCm (in a container: --device /dev/kfd --device /dev/dri)")
    nodes = root / "sys/class/kfd/kfd/topology/nodes"
    cards = sum(_text(nodes / name / "gpu_id") not in ("", "0") for name in _names(nodes))
    if nodes.exists() and not cards:
        return Obstacle("rocm", "ROCm's driver is there and lends no card", "rocm-smi")
    hidden = _hidden_by(environ, "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    if hidden:
        return Obstacle("rocm", f"{hidden} hides the AMD cards", f"unset {hidden}")
    return Device("rocm", f"{cards} x AMD" if cards else "AMD")


def _intel(root: Path, environ: Mapping[str, str]) -> Device | Obstacle | None:
    has_node = any(name.startswith("renderD") for name in _names(root / "dev/dri"))
    return Device("xpu", "Intel graphics") if has_node and _has_card(root, INTEL) else None


def _has_card(root: Path, vendor: str) -> bool:
    folder = root / "sys/bus/pci/devices"
    return any(
        _text(folder / name / "vendor") == vendor and _text(folder / name / "class").startswith(DISPLAY)
        for name in _names(folder)
    )


def _hidden_by(environ: Mapping[str, str], *names: str) -> str | None:
    """The variable that hides all cards, if one does."""
    return next((name for name in names if environ.get(name, "0").strip() in ("", "-1")), None)


def _names(folder: Path) -> Iterator[str]:
    try:
        yield from (entry.name for entry in folder.iterdir())
    except OSError:  # not there, or not for us
        return


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
