"""What the conformance suite runs on: a name, how to open a model, and a plain reference for its logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from dcmodel.local_model import LocalDcModel
from dcmodel.model import DcModel

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


def registered_case(name: str, model: str | None) -> Case:
    """Any backend from the registry; transformers has a plain forward of the same weights beside it."""
    from dcmodel.backend import LoadedEngine, LoadOptions
    from dcmodel.registry import embedded_model, load_backend

    backend = load_backend(name)
    path = model or embedded_model()

    def open_model(**options: int) -> DcModel:
        loaded = backend.load(path, LoadOptions(device="cpu", dtype="float32", **options))
        return LocalDcModel(loaded) if isinstance(loaded, LoadedEngine) else loaded

    reference = plain_transformers(path) if name == "transformers" else None
    options = frozenset({"max_context", "max_sequences", "kv_tokens", "max_batch_tokens"})
    return Case(name, open_model, reference, options=options)


@cache
def plain_transformers(path: str) -> Callable[[Sequence[int]], np.ndarray]:
    """One unpadded forward of the unmodified model, nothing cached."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    @cache
    def logits(token_ids: tuple[int, ...]) -> np.ndarray:
        with torch.inference_mode():
            return plain(torch.tensor([token_ids]), use_cache=False).logits[0, -1].numpy()

    return lambda token_ids: logits(tuple(token_ids))
