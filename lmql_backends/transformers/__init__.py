"""Engine over unmodified transformers models: packed ragged batches, KV in slots, exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from dcmodel.backend import Backend, LoadedEngine, LoadOptions
from dcmodel.errors import MissingDependencyError

__all__ = ["BACKEND", "TransformersBackend"]


class TransformersBackend(Backend):
    """Runs causal language models of the transformers library in this process."""

    name: ClassVar[str] = "transformers"
    summary: ClassVar[str] = "PyTorch models in this process: a folder with a config.json, or a hub id"
    extra: ClassVar[str] = "transformers"
    distributions: ClassVar[tuple[str, ...]] = ("torch", "transformers", "safetensors")
    guarantees: ClassVar[Mapping[str, str]] = {
        "masks": "exact",
        "log-probabilities": "exact",
        "scores": "exact, token trees",
        "sessions": "exact",
        "batched = alone": "exact up to rounding",
        "seeds": "exact",
    }

    def claims(self, model: str) -> bool:
        """Nothing by its form alone: folders and hub ids are for several backends."""
        return False

    def load(self, model: str, options: LoadOptions) -> LoadedEngine:
        try:
            from lmql_backends.transformers.loading import load
        except ImportError as error:
            if error.name is not None and error.name.partition(".")[0] in ("dcmodel", "lmql_backends"):
                raise
            raise MissingDependencyError(
                f"the transformers backend needs {error.name or 'a package'}: {error}.",
                remedy='Run: pip install "dcmodel[transformers]"',
            ) from error
        return load(model, options)


BACKEND = TransformersBackend()
