"""One thread: barriers on shared cores cost more than the arithmetic of these tiny models."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

# For `tiny_models`: test folders are no packages.
sys.path.insert(0, str(Path(__file__).parent))

torch.set_num_threads(1)
