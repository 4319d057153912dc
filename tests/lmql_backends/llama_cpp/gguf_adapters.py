"""LoRA adapters as GGUF files, and models with them merged in."""

from __future__ import annotations

import gguf
import numpy as np

NAMES = ["blk.0.attn_q.weight", "blk.0.ffn_down.weight", "blk.1.attn_v.weight"]
RANK, ALPHA = 2, 3.0


def weights_of(path, names=NAMES):
    return {each.name: each.data.copy() for each in gguf.GGUFReader(path).tensors if each.name in names}


def random_adapter(path, seed: int, names=NAMES):
    """[out, rank] and [rank, in] by tensor."""
    rng = np.random.default_rng(seed)
    return {
        name: (
            rng.standard_normal((value.shape[0], RANK)).astype(np.float32),
            rng.standard_normal((RANK, value.shape[1])).astype(np.float32) * 0.2,
        )
        for name, value in weights_of(path, names).items()
    }


def save_adapter(path, factors, *, architecture="llama", general_type="adapter", adapter_type="lora"):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(general_type)
    writer.add_string("adapter.type", adapter_type)
    writer.add_float32("adapter.lora.alpha", ALPHA)
    for name, (b, a) in factors.items():
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merged(source, target, *parts):
    """A copy of the model with ``scale * alpha / rank * B @ A`` added to its weights."""
    target.write_bytes(source.read_bytes())
    reader = gguf.GGUFReader(target, "r+")
    for tensor in reader.tensors:
        for factors, scale in parts:
            if tensor.name in factors:
                b, a = factors[tensor.name]
                tensor.data[...] += scale * ALPHA / RANK * (b @ a)
    reader.data.flush()
    return target
