"""LoRA adapters in GGUF form, applied to a whole context."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcmodel.errors import InvalidRequestError, ModelLoadError
from lmql_backends.llama_cpp.model import LlamaModel, check_file


def load_adapters(model: LlamaModel, context: Any, lora: object) -> None:
    """Apply `lora` (None, a file, a list of files or of (file, scale)) to a `llama_context`.

    The adapters belong to the model and go with it. Raises `ModelNotFoundError`, `ModelLoadError` and
    `InvalidRequestError`.
    """
    wished = _wished(lora)
    if not wished:
        return
    lib = model.lib
    handles = [_open(model, path) for path, _ in wished]
    adapters = (lib.c.llama_adapter_lora_p_ctypes * len(wished))(*handles)
    scales = (ctypes.c_float * len(wished))(*(scale for _, scale in wished))
    lib.clear_errors()
    if lib.c.llama_set_adapters_lora(context, adapters, len(wished), scales):
        names = ", ".join(path.name for path, _ in wished)
        raise ModelLoadError(f"the adapters {names} cannot be applied: {lib.reason()}.")


def _open(model: LlamaModel, path: Path) -> Any:
    check_file(path)
    lib = model.lib
    lib.clear_errors()
    handle = lib.c.llama_adapter_lora_init(model.handle, os.fspath(path).encode())
    if not handle:
        raise ModelLoadError(
            f"{path.name} is no LoRA adapter for {model.path.name}: "
            f"{lib.reason() or 'llama.cpp does not say why'}.",
            remedy="Use an adapter that was made for this model, converted with convert_lora_to_gguf.py.",
        )
    return handle


def _wished(lora: object) -> list[tuple[Path, float]]:
    if lora is None:
        return []
    items: Sequence[object] = [lora] if isinstance(lora, str | os.PathLike) else _listed(lora)
    return [_one(item) for item in items]


def _listed(lora: object) -> Sequence[object]:
    if isinstance(lora, list | tuple):
        return lora
    raise _not_understood(lora)


def _one(item: object) -> tuple[Path, float]:
    path, scale = item if isinstance(item, list | tuple) and len(item) == 2 else (item, 1.0)
    is_number = isinstance(scale, int | float) and not isinstance(scale, bool) and math.isfinite(scale)
    if not isinstance(path, str | os.PathLike) or not is_number:
        raise _not_understood(item)
    return Path(path).expanduser(), float(scale)


def _not_understood(item: object) -> InvalidRequestError:
    return InvalidRequestError(
        f"lora is {item!r:.80}.", remedy="Give a file, a list of files, or a list of (file, scale)."
    )
