"""Counter-based random numbers: the number for (seed, position) depends on nothing else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
SEED_MASK = (1 << 64) - 1
MAX_ATTEMPT = 1 << 20
"""How often a number can be drawn anew at one place, at most."""


def uniforms(seeds: NDArray[np.uint64], positions: NDArray[np.uint64]) -> NDArray[np.float64]:
    """One number in [0, 1) for each pair; 53 random bits.

    The SplitMix64 finaliser (Steele, Lea, Flood 2014) over the seed's hash and the position.
    """
    bits = _mix(_mix(seeds + _GOLDEN) + positions * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))


def child_seed(seed: int, number: int) -> int:
    """The seed of the `number`-th fork of a sequence."""
    with np.errstate(over="ignore"):
        mixed = _mix(np.array([seed], dtype=np.uint64) + _GOLDEN) ^ _mix(
            np.array([number], dtype=np.uint64) * _MIX_1
        )
    return int(_mix(mixed)[0])
