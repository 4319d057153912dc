"""How many threads to compute with."""

from __future__ import annotations

import os
from pathlib import Path

SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
QUOTA = Path("/sys/fs/cgroup/cpu.max")


def default_threads() -> int:
    """One per core that this process may use: a second thread on a core slows matrix products down."""
    usable = _usable_processors()
    cores = len({_core_of(processor) for processor in usable})
    return max(1, min(cores, _quota()))


def _usable_processors() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _core_of(processor: int) -> str:
    """The processors that share a core with this one, as the system writes them."""
    try:
        return Path(SIBLINGS.format(processor)).read_text().strip()
    except OSError:
        return str(processor)


def _quota() -> int:
    """Whole processors that a container may use; many where there is no limit."""
    try:
        quota, period = QUOTA.read_text().split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return 1 << 16
