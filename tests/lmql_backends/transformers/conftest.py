"""One thread: barriers on shared cores cost more than the arithmetic of these tiny models."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
