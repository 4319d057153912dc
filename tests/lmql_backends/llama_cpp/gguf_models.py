"""Small models as GGUF files: converted ones, and architectures written down tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from conformance.backends import save_random_llama as save_folder

from lmql_backends.tiny.gguf_export import convert

VOCAB = 64


def save_random_llama(folder: Path, *, weights: str = "f32") -> Path:
    """The conformance suite's random Llama in `folder`, and its GGUF there."""
    save_folder(folder)
    return convert(folder, folder / "model.gguf", weights=weights)


def with_tensor(source: Path, target: Path, name: str, change) -> Path:
    """A copy of a GGUF file in which `change` has changed one float32 tensor in place."""
    target.write_bytes(source.read_bytes())
    reader = gguf.GGUFReader(target, "r+")
    (tensor,) = [each for each in reader.tensors if each.name == name]
    change(tensor.data)
    reader.data.flush()
    return target


def save_mamba(path: Path, *, layers: int = 2, width: int = 32, seed: int = 0) -> Path:
    """A random Mamba: a recurrent state instead of a KV cache."""
    rng = np.random.default_rng(seed)
    inner, state, rank, kernel = 2 * width, 8, 4, 4
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(layers)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    writer.add_layer_norm_rms_eps(1e-5)
    add_byte_vocabulary(writer)

    def add(name: str, *shape: int, scale: float = 0.3) -> None:
        writer.add_tensor(name, (rng.standard_normal(shape) * scale).astype(np.float32))

    def add_constant(name: str, value: np.ndarray) -> None:
        writer.add_tensor(name, value.astype(np.float32))

    add("token_embd.weight", VOCAB, width, scale=1.0)
    add_constant("output_norm.weight", np.ones(width))
    for layer in range(layers):
        block = f"blk.{layer}."
        add_constant(f"{block}attn_norm.weight", np.ones(width))
        add(f"{block}ssm_in.weight", 2 * inner, width)
        add(f"{block}ssm_conv1d.weight", inner, kernel)
        add(f"{block}ssm_conv1d.bias", inner)
        add(f"{block}ssm_x.weight", rank + 2 * state, inner)
        add(f"{block}ssm_dt.weight", inner, rank)
        add(f"{block}ssm_dt.bias", inner)
        add_constant(f"{block}ssm_a", -np.tile(np.arange(1, state + 1), (inner, 1)))
        add_constant(f"{block}ssm_d", np.ones(inner))
        add(f"{block}ssm_out.weight", width, inner)
    return _finish(writer, path)


def add_byte_vocabulary(writer: gguf.GGUFWriter, size: int = VOCAB) -> None:
    """A few byte tokens; the last is the end of a text."""
    alphabet = [chr(33 + index) for index in range(size - 2)] + ["!!"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*alphabet, "<|end|>"])
    writer.add_token_types([1] * (size - 1) + [3])
    writer.add_token_merges(["! !"])
    writer.add_eos_token_id(size - 1)
    writer.add_add_bos_token(False)


def _finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
