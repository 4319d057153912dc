"""How threads of native libraries wait for each other."""

from __future__ import annotations

import os

WAIT_POLICY = "OMP_WAIT_POLICY"


def wait_patiently() -> None:
    """OpenMP's threads sleep while they wait, unless the environment says otherwise.

    Spinning costs a factor of 10 where the cores have other work, and gains little where they have none.
    For processes of our own, where they start: OpenMP reads the variable once, when torch loads it.
    """
    os.environ.setdefault(WAIT_POLICY, "PASSIVE")
