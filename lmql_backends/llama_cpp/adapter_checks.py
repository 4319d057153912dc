"""Adapter files, checked against their model before llama.cpp sees them: it ends the process on some."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from dcmodel.errors import AdapterLoadError, CapabilityError
from lmql_backends.llama_cpp.gguf_index import FLOAT32_KEY, GgufIndex, Tensor, read_index
from lmql_backends.llama_cpp.header import STRING

TEXTS = ("general.type", "general.architecture", "adapter.type")
ALPHA = "adapter.lora.alpha"
INVOCATION = "adapter.alora.invocation_tokens"
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
NVFP4 = 40
BLOCKS = {0: (1, 4), 1: (1, 2), 30: (1, 2), 8: (32, 34)}
"""Of ggml's types that converters write (f32, f16, bf16, q8_0): how many values take how many bytes."""
REMEDY = "Use an adapter that was made for this model, converted with convert_lora_to_gguf.py."


def check_adapter_file(path: Path, name: str, model: Mapping[str, Tensor], architecture: str) -> int:
    """The largest rank in a GGUF adapter that fits the model (`name`) of these tensors.

    Raises `AdapterLoadError`, and `CapabilityError` for what llama.cpp would compute in part only.
    """
    try:
        index = read_index(path)
        _check_keys(index, architecture)
        pairs = _pairs(index, path.name)
        ranks = [_check_pair(target, *pair, model, index.size) for target, pair in pairs.items()]
    except (ValueError, OSError) as error:
        raise AdapterLoadError(
            f"{path.name} is no LoRA adapter for {name}: {error}.", remedy=REMEDY
        ) from error
    return max(ranks)


def _check_keys(index: GgufIndex, architecture: str) -> None:
    """Raises `ValueError` with the reason."""
    for key in TEXTS:
        if index.kinds.get(key, STRING) != STRING:
            raise ValueError(f"{key} is no text")
    found = index.values.get("general.type", "")
    if found != "adapter":
        raise ValueError(f"general.type is {found!r}, not 'adapter'")
    found = index.values.get("general.architecture", "")
    if found != architecture:
        raise ValueError(f"its architecture is {found!r}, the model's {architecture!r}")
    found = index.values.get("adapter.type", "")
    if found != "lora":
        raise ValueError(f"adapter.type is {found!r}, not 'lora'")
    alpha = index.values.get(ALPHA, 0.0)
    if index.kinds.get(ALPHA, FLOAT32_KEY) != FLOAT32_KEY or not math.isfinite(float(alpha)):
        raise ValueError(f"{ALPHA} is {alpha!r}")
    if INVOCATION in index.kinds:
        raise CapabilityError(
            "an activated LoRA (aLoRA) begins in the middle of a prompt, which is not computed here.",
            remedy="Use a plain LoRA adapter.",
        )


def _pairs(index: GgufIndex, name: str) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B by the model's tensor. Raises `ValueError`, and `CapabilityError` for norms."""
    parts: dict[str, dict[str, Tensor]] = {}
    for tensor_name, tensor in index.tensors.items():
        target, _, side = tensor_name.rpartition(".lora_")
        if side in ("a", "b") and target:
            parts.setdefault(target, {})[side] = tensor
        elif tensor_name.endswith("_norm.weight"):
            raise CapabilityError(
                f"{name} changes {tensor_name}, which llama.cpp leaves out.",
                remedy="Merge the adapter into the model, and convert the whole.",
            )
        else:
            raise ValueError(f"the tensor {tensor_name[:80]!r} is no half of a pair (.lora_a, .lora_b)")
    if not parts:
        raise ValueError("it holds no tensors")
    for target, sides in parts.items():
        if len(sides) < 2:
            raise ValueError(f"of the pair for {target[:80]!r}, one half is missing")
    return {target: (sides["a"], sides["b"]) for target, sides in parts.items()}


def _check_pair(target: str, a: Tensor, b: Tensor, model: Mapping[str, Tensor], size: int) -> int:
    """The pair's rank. Raises `ValueError`."""
    base = model.get(target)
    if base is None:
        raise ValueError(f"the model has no tensor {target[:80]!r}")
    if base.kind == NVFP4 or len(base.shape) < 2:
        raise ValueError(f"llama.cpp adds nothing to {target!r}")
    wanted: tuple[tuple[int, ...], tuple[int, ...]]
    if target == EMBEDDING:
        if OUTPUT not in model:
            raise ValueError("the model's embeddings are its output, too: llama.cpp cannot add to both")
        # A and B change places: a column of A is looked up for each token.
        (width, vocabulary), rank = base.shape, b.shape[0]
        wanted = ((rank, vocabulary), (rank, width))
    else:
        rank = b.shape[0]
        inputs, outputs, *experts = base.shape
        wanted = ((inputs, rank, *experts), (rank, outputs, *experts))
    if (a.shape, b.shape) != wanted or rank < 1:
        raise ValueError(
            f"the shapes for {target!r} are {a.shape} and {b.shape} where {wanted[0]} and {wanted[1]} would "
            "fit the model"
        )
    for place, tensor in enumerate((a, b)):
        _check_data(f"{target}.lora_{'ab'[place]}", tensor, size)
    return rank


def _check_data(name: str, tensor: Tensor, size: int) -> None:
    if tensor.kind not in BLOCKS:
        raise ValueError(f"{name} has ggml's type {tensor.kind}; f32, f16, bf16 and q8_0 are known here")
    values, count = BLOCKS[tensor.kind]
    if tensor.shape[0] % values:
        raise ValueError(f"{name} has rows of {tensor.shape[0]} values")
    if tensor.offset + math.prod(tensor.shape) // values * count > size:
        raise ValueError(f"{name} goes past the end of the file")


def model_tensors(paths: Iterator[Path]) -> Mapping[str, Tensor]:
    """Those of all files of a model."""
    found: dict[str, Tensor] = {}
    for path in paths:
        found |= read_index(path).tensors
    return found
