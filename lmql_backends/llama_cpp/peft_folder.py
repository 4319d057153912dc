"""An adapter in PEFT's form (adapter_config.json and safetensors), as the GGUF file that llama.cpp reads."""

from __future__ import annotations

import json
import math
import re
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmodel.errors import AdapterLoadError, CapabilityError, MissingDependencyError
from lmql_backends.llama_cpp.model import LlamaModel

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gpt2")
"""Whose matrices stand in a GGUF file as they are, but for the order of rows below."""
ROTATED = {"llama": {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}}
CONVERTER = "Convert it with llama.cpp's convert_lora_to_gguf.py, and mount the .gguf file."
KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<side>[AB])(\.weight)?")
DTYPES: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
SIMPLE: Mapping[str, tuple[object, ...]] = {
    "bias": ("none", None),
    "use_dora": (False, None),
    "modules_to_save": (None, []),
}
Matrix = NDArray[np.float32]


@contextmanager
def converted(folder: Path, model: LlamaModel) -> Iterator[Path]:
    """The folder's adapter as a GGUF file, while the context is open.

    Raises `AdapterLoadError`, and `CapabilityError` for other kinds of adapters and architectures.
    """
    if model.architecture not in ARCHITECTURES:
        raise CapabilityError(
            f"PEFT adapters for the architecture {model.architecture!r} are not converted here.",
            remedy=CONVERTER,
        )
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        _check_config(config)
        matrices = read_safetensors(folder / "adapter_model.safetensors")
        pairs = _pairs(matrices)
    except FileNotFoundError as error:
        raise AdapterLoadError(
            f"{folder} has no {Path(error.filename).name}.",
            remedy="A PEFT adapter is adapter_config.json and adapter_model.safetensors (.bin is not read).",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterLoadError(f"{folder} holds no whole PEFT adapter: {error}.", remedy=CONVERTER) from error
    with tempfile.TemporaryDirectory(prefix="dcmodel-adapter-") as name:
        file = Path(name) / f"{folder.name or 'adapter'}.gguf"
        _write(file, pairs, config, model)
        yield file


def read_safetensors(path: Path) -> dict[str, Matrix]:
    """All matrices, in float32. Raises `OSError`, `ValueError` and `KeyError`."""
    data = path.read_bytes()
    if len(data) < 8:
        raise ValueError(f"{path.name} is cut short")
    (length,) = struct.unpack_from("<Q", data)
    start = 8 + length
    found = {}
    for name, item in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        dtype = DTYPES.get(item["dtype"])
        if dtype is None:
            raise ValueError(f"{name} has the type {item['dtype']}; float32, float16 and bfloat16 are read")
        first, last = item["data_offsets"]
        values = np.frombuffer(data[start + first : start + last], dtype).reshape(item["shape"])
        if item["dtype"] == "BF16":
            values = (values.astype("<u4") << 16).view("<f4")
        found[name] = values.astype(np.float32)
    return found


def _check_config(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise CapabilityError(f"an adapter of the kind {config.get('peft_type')!r} is not computed here.")
    if config.get("alora_invocation_tokens"):
        raise CapabilityError("an activated LoRA (aLoRA) is not computed here.")
    for name, allowed in SIMPLE.items():
        if config.get(name) not in allowed:
            raise CapabilityError(
                f"an adapter with {name} = {config[name]!r} is not computed by llama.cpp.",
                remedy="Merge it into the model, and convert the whole.",
            )


def _pairs(matrices: Mapping[str, Matrix]) -> dict[str, tuple[Matrix, Matrix]]:
    """A and B by the module's name. Raises `ValueError`."""
    found: dict[str, dict[str, Matrix]] = {}
    for name, values in matrices.items():
        match = KEY.fullmatch(name)
        if match is None or values.ndim != 2:
            raise ValueError(f"{name} is no matrix of a LoRA adapter")
        # A column of an embedding's A is looked up for each token.
        is_lookup = match["kind"] and match["side"] == "A"
        found.setdefault(match["module"], {})[match["side"]] = values.T if is_lookup else values
    if not found or any(len(sides) < 2 for sides in found.values()):
        raise ValueError("matrices are missing")
    return {module: (sides["A"], sides["B"]) for module, sides in found.items()}


def _write(
    path: Path, pairs: Mapping[str, tuple[Matrix, Matrix]], config: Mapping[str, Any], model: LlamaModel
) -> None:
    """The scale goes into B, since it may differ from module to module."""
    try:
        import gguf
    except ImportError as error:
        raise MissingDependencyError(
            "reading a PEFT adapter needs gguf.", remedy='Run: pip install "dcmodel[llamacpp]"'
        ) from error
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == model.architecture)
    names = gguf.get_tensor_name_map(kind, int(model.setting("block_count") or 0))
    writer = gguf.GGUFWriter(path, model.architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    for module, (a, b) in pairs.items():
        target = names.get_name(module)
        if target is None:
            raise AdapterLoadError(
                f"the model has no place for the adapter's module {module}.", remedy=CONVERTER
            )
        b = _in_order(target.rpartition(".")[2], b * np.float32(_scale(module, b.shape[1], config)), model)
        writer.add_tensor(f"{target}.weight.lora_a", np.ascontiguousarray(a))
        writer.add_tensor(f"{target}.weight.lora_b", np.ascontiguousarray(b))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _scale(module: str, rank: int, config: Mapping[str, Any]) -> float:
    """PEFT's; a pattern is a module's name or its end, or an expression for them."""
    alpha = float(config.get("lora_alpha") or rank)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            alpha = float(value)
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _in_order(part: str, rows: Matrix, model: LlamaModel) -> Matrix:
    """Hugging Face rotates the first half of a head with the second, llama.cpp neighbours."""
    setting = ROTATED.get(model.architecture, {}).get(part)
    if setting is None:
        return rows
    heads = int(model.setting(setting) or model.setting("attention.head_count") or 1)
    if rows.shape[0] % (2 * heads):
        raise AdapterLoadError(f"{part} has {rows.shape[0]} rows, and the model {heads} heads.")
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, rows.shape[1])
    return halves.swapaxes(1, 2).reshape(rows.shape)
