"""One file, one way to compute it: what all contenders are given alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dcmodel.backend import LoadOptions

SHAPE = "56m"
F32, F16 = 0, 1
"""ggml's numbers."""
CONTEXT = 1024
"""Of those that run one request at a time; 512 + 48 + 32 tokens fit."""
# The largest distance of two logits between which the rounding may choose. float32 sums depend on their order
# alone; in q8_0, a sum that is rounded otherwise may also put an activation on the next level.
TIES = {("f32", "float32"): 1e-4, ("f32", "default"): 0.05}
COARSE_TIE = 0.3
# Of a candidate's score, in nats.
SCORE_TOLERANCES = {("f32", "float32"): 1e-3, ("f32", "default"): 0.1}
COARSE_SCORE_TOLERANCE = 1.0


@dataclass(frozen=True, slots=True)
class Setting:
    """A GGUF file, its weights' type, the mode and the number of threads."""

    path: Path
    weights: str
    mode: str
    """`default`: KV in float16 and flash attention; `float32`: neither."""
    threads: int

    @property
    def name(self) -> str:
        kv = "f16 KV, flash attention" if self.flash_attention else "f32 KV, no flash attention"
        return f"{SHAPE} {self.weights} weights, {kv}"

    @property
    def flash_attention(self) -> bool:
        return self.mode == "default"

    @property
    def kv_type(self) -> int:
        return F16 if self.mode == "default" else F32

    @property
    def is_exact(self) -> bool:
        """Whether what is computed in another order differs by the rounding of float32 only."""
        return self.weights == "f32" and self.mode == "float32"

    @property
    def tie(self) -> float:
        return TIES.get((self.weights, self.mode), COARSE_TIE)

    @property
    def score_tolerance(self) -> float:
        return SCORE_TOLERANCES.get((self.weights, self.mode), COARSE_SCORE_TOLERANCE)

    @property
    def options(self) -> LoadOptions:
        """dcmodel's own words for it."""
        dtype = None if self.mode == "default" else "float32"
        return LoadOptions(device="cpu", dtype=dtype, extra={"n_threads": self.threads})
