"""What the conformance suite runs on: a name, how to open a model, and a plain reference for its logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np

from dcmodel.backend import LoadedEngine, LoadOptions
from dcmodel.local import LocalDcModel
from dcmodel.model import DcModel
from dcmodel.registry import Registry

NO_LIMITS: Mapping[str, str] = MappingProxyType({})
Reference = Callable[[Sequence[int]], np.ndarray]
"""Log-probabilities of the next token after these ids, float64 [vocab_size]."""


@dataclass(frozen=True)
class Case:
    """One backend under test."""

    name: str
    open: Callable[..., DcModel]
    """Makes a fresh model; keyword options are those of `LoadOptions` (only engines have them)."""
    logits: Callable[[Sequence[int]], np.ndarray] | None
    """Plain logits of the next token after these ids, [vocab_size]; None where nothing but the backend
    itself can tell: then it is compared with its own scores."""
    tolerance: float = 2e-5
    """Nats."""
    options: frozenset[str] = field(default_factory=frozenset)
    """Which options `open` takes."""
    limits: Mapping[str, str] = field(default_factory=lambda: NO_LIMITS)
    """What the backend has not (`limits.CHECKS`), and why."""
    kv_block: int = 1
    """What is reused of a prompt comes in blocks of so many tokens, where KV lies in blocks."""
    repeats: int = 4
    """How often a constraint is tried on each prompt; fewer where each token may be a request of its own."""
    draws: int = 2000
    """How many draws show a distribution; fewer where each is a request of its own."""
    candidates: int = 100_000
    """How many continuations are scored at once; fewer where each is a text to be sent."""

    @property
    def reference(self) -> Reference | None:
        logits = self.logits
        return None if logits is None else lambda token_ids: log_softmax(logits(token_ids))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - float(logits.max())
    return shifted - np.log(np.exp(shifted).sum())


def fake_case() -> Case:
    from fakes.fake_engine import FakeModel, loaded_fake
    from fakes.small_tokenizer import small_tokenizer

    tokenizer = small_tokenizer()
    model = FakeModel(tokenizer.vocab_size)

    def open_model(**options: int) -> DcModel:
        if "max_context" in options:
            options["max_positions"] = options.pop("max_context")
        return LocalDcModel(loaded_fake(tokenizer, **options))

    return Case(
        "fake",
        open_model,
        model.logits,
        tolerance=1e-5,
        options=frozenset({"max_context", "max_sequences", "kv_tokens", "max_batch_tokens"}),
    )


OPTIONS = frozenset({"max_context", "max_sequences", "kv_tokens", "max_batch_tokens"})


# Barriers between threads on shared cores cost more than the arithmetic of these small models.
EXTRA = {"llama_cpp": {"n_threads": 1}}


def registered_case(name: str, model: str | None) -> Case:
    """Any backend from the registry; beside those of ours stands a plain forward of the same weights."""
    registry = Registry()
    backend = registry.backend(name)
    path = model or str(registry.embedded_path(backend.model_format))

    def open_model(**options: int) -> DcModel:
        fixed = LoadOptions(device="cpu", dtype="float32", extra=EXTRA.get(name, {}))
        loaded = backend.load(path, replace(fixed, **options))
        return LocalDcModel(loaded) if isinstance(loaded, LoadedEngine) else loaded

    if name != "transformers" and (name != "llama_cpp" or model is not None):
        return Case(name, open_model, None, options=OPTIONS)
    folder = model or str(registry.embedded_path())
    return Case(name, open_model, plain_forward(folder), tolerance=fp32_noise(folder), options=OPTIONS)


def random_case(folder: Path) -> Case:
    """A small random Llama on transformers: logits are small, so rounding is too, and the bound is tight."""
    path = save_random_llama(folder)
    return replace(registered_case("transformers", path), name="random", tolerance=2e-5)


def random_gguf_case(folder: Path) -> Case:
    """The same on llama.cpp."""
    from lmql_backends.tiny.gguf_export import convert

    path = save_random_llama(folder)
    gguf = convert(folder, folder / "model.gguf")
    case = registered_case("llama_cpp", str(gguf))
    return replace(case, name="random-gguf", logits=plain_forward(path), tolerance=2e-5)


def save_random_llama(folder: Path) -> str:
    import torch
    from fakes.small_tokenizer import save_small_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    vocab_size = save_small_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        # Wide enough that greedy has no ties, small enough that float32 rounds below 2e-5.
        initializer_range=0.15,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@cache
def plain_forward(path: str, dtype: str = "float32") -> Callable[[Sequence[int]], np.ndarray]:
    """One unpadded forward of the unmodified model, nothing cached."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    plain = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()

    @cache
    def logits(token_ids: tuple[int, ...]) -> np.ndarray:
        with torch.inference_mode():
            return plain(torch.tensor([token_ids]), use_cache=False).logits[0, -1].numpy()

    return lambda token_ids: logits(tuple(token_ids))


def fp32_noise(path: str) -> float:
    """2e-5, or four times what float32 itself does to this model's log-probabilities, if that is more.

    A trained model with logits of 20 and more rounds away more than 2e-5 in a plain forward already.
    """
    single, double = plain_forward(path), plain_forward(path, "float64")
    vocab_size = len(single((1,)))
    worst = 0.0
    for start in range(2, vocab_size - 30, vocab_size // 20):
        token_ids = tuple(range(start, start + 30))
        difference = log_softmax(single(token_ids)) - log_softmax(double(token_ids))
        worst = max(worst, float(np.abs(difference).max()))
    return max(2e-5, 4 * worst)
