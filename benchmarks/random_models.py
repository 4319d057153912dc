"""Untrained models of a given shape, saved once per machine as checkpoints like any other."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.vocabularies import EOS, PAD, make_tokenizer, save_tokenizer


@dataclass(frozen=True, slots=True)
class Shape:
    """A llama."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab_size: int
    is_tied: bool = True
    """Whether the embeddings are the last layer as well."""


SHAPES = {
    "135m": Shape(30, 576, 9, 3, 1536, 49152),  # SmolLM2-135M
    "135m-200k": Shape(30, 576, 9, 3, 1536, 200_000),
    "15m": Shape(6, 288, 6, 6, 768, 32000),
    "56m": Shape(8, 512, 8, 4, 1376, 32000, is_tied=False),  # a step is bound by reading the weights
    "49k": Shape(2, 64, 2, 1, 128, 49152),  # all vocabulary: what masks and sampling cost
    "200k": Shape(2, 64, 2, 1, 128, 200_000),
}
EMBEDDED = "embedded"


def checkpoint(name: str) -> Path:
    """The folder of a shape's checkpoint, or of the embedded model."""
    if name == EMBEDDED:
        from lmql_backends.tiny import MODEL_DIR

        return MODEL_DIR
    # v1: change it when what is saved changes.
    folder = Path(tempfile.gettempdir()) / f"dcmodel-bench-{os.getuid()}-v1" / name
    if not (folder / "config.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=folder.parent))
        _save(SHAPES[name], fresh)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    return folder


def gguf(name: str, weights: str) -> Path:
    """The shape's checkpoint as a GGUF file with f32, f16 or q8_0 weights, in the same folder."""
    from lmql_backends.tiny.gguf_export import convert

    folder = checkpoint(name)
    target = folder / f"{name}.{weights}.gguf"
    return target if target.exists() else convert(folder, target, weights=weights)


def _save(shape: Shape, folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(shape.vocab_size)
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=shape.is_tied,
        eos_token_id=tokenizer.token_to_id(EOS),
        bos_token_id=None,
        pad_token_id=tokenizer.token_to_id(PAD),
    )
    torch.manual_seed(0)
    save_tokenizer(tokenizer, folder)
    LlamaForCausalLM(config).save_pretrained(folder)
