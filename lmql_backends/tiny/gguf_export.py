"""A Llama checkpoint as a GGUF file, for llama.cpp.

    python -m lmql_backends.tiny.gguf_export [FOLDER] MODEL.gguf --weights f16

FOLDER (the embedded model if it is not given) holds config.json, model.safetensors and a tokenizer.json with
byte-level BPE. Other architectures are llama.cpp's own converter's task.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmodel.errors import DcModelError, MissingDependencyError, ModelLoadError, ModelNotFoundError
from lmql_backends.tiny import MODEL_DIR
from lmql_backends.tiny.gguf_vocabulary import add_vocabulary

WEIGHTS = ("f32", "f16", "q8_0")
ARCHITECTURE = "LlamaForCausalLM"
Q8_0_BLOCK = 32
WHOLE_TENSORS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_TENSORS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def convert(folder: Path, target: Path, *, weights: str = "f32") -> Path:
    """Write the checkpoint in `folder` to `target` and return that; an existing file is replaced as a whole.

    `weights`: f32 (exact), f16 or q8_0, for the matrices; norms stay f32. Raises `ModelNotFoundError`, and
    `ModelLoadError` for what it does not know.
    """
    if weights not in WEIGHTS:
        raise ModelLoadError(f"weights is {weights!r}.", remedy=f"It is one of {', '.join(WEIGHTS)}.")
    gguf, load_file = _packages()
    config = _read_json(folder / "config.json")
    _check(config)
    tensors = _read_tensors(folder / "model.safetensors", load_file)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        writer = gguf.GGUFWriter(name, "llama")
        _add_shape(writer, config)
        add_vocabulary(
            writer,
            _read_json(folder / "tokenizer.json"),
            _read_json(folder / "tokenizer_config.json"),
            config,
        )
        for tensor_name, values in _tensors(tensors, config):
            _add_tensor(gguf, writer, tensor_name, values, weights)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return target


def _packages() -> tuple[Any, Callable[[Path], dict[str, NDArray[Any]]]]:
    try:
        import gguf
        from safetensors.numpy import load_file
    except ImportError as error:
        raise MissingDependencyError(
            f"making a GGUF file needs {error.name}.", remedy='Run: pip install "dcmodel[llamacpp]"'
        ) from error
    return gguf, load_file


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"there is no file {path}.", remedy="Give a checkpoint's folder.") from error
    return found


def _read_tensors(
    path: Path, load_file: Callable[[Path], dict[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ModelNotFoundError(
            f"there is no file {path}.", remedy="Save the model again, in one file of this name."
        ) from error
    except TypeError as error:  # numpy has no bfloat16
        raise ModelLoadError(
            f"{path} holds a type that is not converted here: {error}.",
            remedy="Save the model again in float32 or float16.",
        ) from error


def _check(config: Mapping[str, Any]) -> None:
    """Raise `ModelLoadError` unless every weight has its place in llama.cpp's llama."""
    rope = config.get("rope_parameters") or {}
    unknown = {
        "architectures": (config.get("architectures"), [ARCHITECTURE]),
        "attention_bias": (config.get("attention_bias", False), False),
        "mlp_bias": (config.get("mlp_bias", False), False),
        "hidden_act": (config.get("hidden_act", "silu"), "silu"),
        "rope_type": (rope.get("rope_type", "default"), "default"),
    }
    for name, (value, expected) in unknown.items():
        if value != expected:
            raise ModelLoadError(
                f"{name} is {value!r}; only {expected!r} is converted here.",
                remedy="Use llama.cpp's own convert_hf_to_gguf.py.",
            )


def _add_shape(writer: Any, config: Mapping[str, Any]) -> None:
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float((config.get("rope_parameters") or config).get("rope_theta", 10_000)))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _tensors(
    tensors: Mapping[str, NDArray[Any]], config: Mapping[str, Any]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    heads = config["num_attention_heads"]
    rotated = {"attn_q": heads, "attn_k": config.get("num_key_value_heads") or heads}
    for name, values in tensors.items():
        array = np.ascontiguousarray(values, dtype=np.float32)
        if name in WHOLE_TENSORS:
            yield WHOLE_TENSORS[name], array
            continue
        start, _, rest = name.partition("model.layers.")
        layer, _, part = rest.removesuffix(".weight").partition(".")
        if start or part not in LAYER_TENSORS:
            raise ModelLoadError(f"the tensor {name!r} has no place in llama.cpp's llama.")
        kind = LAYER_TENSORS[part]
        yield f"blk.{layer}.{kind}.weight", _rotated(array, rotated[kind]) if kind in rotated else array


def _rotated(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Hugging Face rotates the first half of a head with the second, llama.cpp neighbours."""
    width = rows.shape[0] // heads
    halves = rows.reshape(heads, 2, width // 2, rows.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def _add_tensor(gguf: Any, writer: Any, name: str, values: NDArray[np.float32], weights: str) -> None:
    if weights == "f32" or values.ndim == 1:
        writer.add_tensor(name, values)
    elif weights == "f16":
        writer.add_tensor(name, values.astype(np.float16))
    else:
        kind = gguf.GGMLQuantizationType.Q8_0
        if values.shape[1] % Q8_0_BLOCK:
            raise ModelLoadError(
                f"{name} has rows of {values.shape[1]}; q8_0 needs a multiple of {Q8_0_BLOCK}.",
                remedy="Use the weights f16.",
            )
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write a Llama checkpoint as a GGUF file.")
    parser.add_argument("folder", nargs="?", type=Path, default=MODEL_DIR, help="default: the embedded model")
    parser.add_argument("target", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--weights", choices=WEIGHTS, default="f32", help="default: f32")
    options = parser.parse_args(arguments)
    try:
        path = convert(options.folder, options.target, weights=options.weights)
    except (DcModelError, OSError) as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    sys.stdout.write(f"{path}: {path.stat().st_size / 1e6:.1f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
