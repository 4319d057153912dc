"""Engine over llama.cpp's low-level API: GGUF models, many sequences in one KV cache, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from dcmodel.backend import Backend, LoadedEngine, LoadOptions

__all__ = ["BACKEND", "LlamaCppBackend"]


class LlamaCppBackend(Backend):
    """Runs GGUF models in this process."""

    name: ClassVar[str] = "llama_cpp"
    summary: ClassVar[str] = "GGUF models in this process: a .gguf file, or org/repo/file.gguf on the Hub"
    extra: ClassVar[str] = "llamacpp"
    distributions: ClassVar[tuple[str, ...]] = ("llama-cpp-python",)
    model_format: ClassVar[str] = "gguf"
    guarantees: ClassVar[Mapping[str, str]] = {
        "masks": "exact",
        "log-probabilities": "exact up to the rounding of the KV cache (float16; exact with dtype=float32)",
        "scores": "exact, token trees",
        "sessions": "exact",
        "batched = alone": "exact up to rounding",
        "seeds": "exact up to rounding",
    }

    def claims(self, model: str) -> bool:
        """Files by their suffix, and folders that hold such files and no other checkpoint."""
        if model.lower().endswith(".gguf"):
            return True
        folder = Path(model).expanduser()
        return folder.is_dir() and any(folder.glob("*.gguf")) and not (folder / "config.json").exists()

    def load(self, model: str, options: LoadOptions) -> LoadedEngine:
        from lmql_backends.llama_cpp.loading import load

        return load(model, options)


BACKEND = LlamaCppBackend()
