"""How long sequences may be, and how much KV fits."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PretrainedConfig

from dcmodel.memory import free_memory

# Where a configuration does not say, nothing in the model limits the length (recurrent models).
UNLIMITED_POSITIONS = 32768
LENGTH_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")
# Shares of the free memory that KV may take; on a GPU the rest is for activations and half-empty segments.
CPU_SHARE, GPU_SHARE = 0.25, 0.6
CPU_KV_BYTES = 4 << 30


def model_positions(config: PretrainedConfig) -> int:
    """The longest sequence that the configuration allows."""
    text = config.get_text_config()
    for name in LENGTH_NAMES:
        length = getattr(text, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return UNLIMITED_POSITIONS


def packed_positions(config: PretrainedConfig) -> tuple[int, str]:
    """The longest sequence for which packing is exact, and why it is not more (empty: it is the model's).

    Longrope changes all rotations, also those of keys that are cached, once a batch holds a longer
    sequence than the original length. Chunked attention has masks that the attention function cannot see.
    """
    text = config.get_text_config()
    limit, reason = model_positions(config), ""
    for parameters in _rope_parameters(text):
        original = parameters.get("original_max_position_embeddings")
        if parameters.get("rope_type") == "longrope" and original and original < limit:
            limit, reason = int(original), "longrope changes beyond its original length"
    chunk = getattr(text, "attention_chunk_size", None)
    if isinstance(chunk, int) and 0 < chunk < limit:
        limit, reason = chunk, "attention is chunked"
    return limit, reason


def _rope_parameters(config: PretrainedConfig) -> list[dict[str, Any]]:
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [value for value in found.values() if isinstance(value, dict)]
    return nested or [found]


def expected_windows(config: PretrainedConfig, layers: int) -> list[int] | None:
    """The sliding window of each layer (0: none) as configured; None where that is not clear."""
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None) or 0
    if getattr(text, "use_sliding_window", True) is False:
        window = 0
    types = getattr(text, "layer_types", None)
    if types is None:
        return [window] * layers
    attending = [kind for kind in types if "attention" in kind and "linear" not in kind]
    if len(attending) != layers or any(kind not in WINDOWED for kind in attending):
        return None
    return [window if WINDOWED[kind] else 0 for kind in attending]


# Chunked attention is full attention up to the length that `packed_positions` gives.
WINDOWED = {"full_attention": False, "chunked_attention": False, "sliding_attention": True}


def default_kv_tokens(bytes_per_token: int, device: torch.device, *, most: int) -> int:
    """How many tokens of KV to make room for: a share of the free memory, at most `most`."""
    if device.type == "cuda":
        room = GPU_SHARE * torch.cuda.mem_get_info(device)[0]
    elif device.type == "mps":
        free = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        room = GPU_SHARE * max(0, free)
    else:
        room = min(CPU_SHARE * free_memory(), CPU_KV_BYTES)
    return max(1, min(most, int(room) // max(1, bytes_per_token)))
