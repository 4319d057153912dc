"""Small GGUF models, and engines over them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

# For `gguf_models`: test folders are no packages.
sys.path.insert(0, str(Path(__file__).parent))

from gguf_models import save_random_llama

from dcmodel.backend import LoadOptions
from dcmodel.engine import GenerateBatch, Span
from lmql_backends.llama_cpp import BACKEND
from lmql_backends.llama_cpp.engine import LlamaCppEngine

# One thread: barriers on shared cores cost more than the arithmetic of these tiny models.
EXACT = {"dtype": "float32", "device": "cpu", "extra": {"n_threads": 1}}


class Reference:
    """Logits of plain forwards of the same weights on transformers, one per list of tokens."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

        @cache
        def rows(token_ids: tuple[int, ...]) -> np.ndarray:
            with torch.inference_mode():
                return model(torch.tensor([token_ids]), use_cache=False).logits[0].numpy()

        self._rows = rows
        self.vocab_size = model.config.vocab_size

    def __call__(self, token_ids) -> np.ndarray:
        """``[len(token_ids), vocab_size]``"""
        return self._rows(tuple(token_ids))


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> tuple[Path, Path]:
    """A random Llama: its folder for transformers, and its GGUF in float32."""
    folder = tmp_path_factory.mktemp("llama")
    return folder, save_random_llama(folder)


@pytest.fixture(scope="session")
def reference(llama) -> Reference:
    return Reference(llama[0])


@pytest.fixture
def open_engine(llama) -> Iterator[Callable[..., LlamaCppEngine]]:
    """Opens engines on the random Llama, or another file; closes them after the test."""
    opened: list[LlamaCppEngine] = []

    def open_one(path: Path | None = None, **options) -> LlamaCppEngine:
        loaded = BACKEND.load(os.fspath(path or llama[1]), LoadOptions(**{**EXACT, **options}))
        opened.append(loaded.engine)
        return loaded.engine

    yield open_one
    for engine in opened:
        engine.close()


@pytest.fixture
def engine(open_engine) -> LlamaCppEngine:
    return open_engine(max_sequences=16, kv_tokens=1024, max_batch_tokens=128)


def span_of(sequence: int, text, start: int = 0, *, wanted=None, branches=None) -> Span:
    """The tokens of `text` from `start` on; all rows are wanted unless told."""
    count = len(text) - start
    return Span(sequence, start, text[start:], range(count) if wanted is None else wanted, branches)


def rows_of(engine: LlamaCppEngine, *spans: Span) -> list[np.ndarray]:
    """The rows of each span, copied."""
    rows = engine.forward(GenerateBatch(list(spans))).to_numpy().copy()
    return np.split(rows, np.cumsum([span.num_rows for span in spans])[:-1])
