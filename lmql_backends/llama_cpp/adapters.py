"""LoRA adapters in GGUF form: for a whole model as it is loaded, and mounted for single sequences."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dcmodel.adapters import LoadedAdapter
from dcmodel.errors import AdapterLoadError, InvalidRequestError, ModelLoadError, ModelNotFoundError
from lmql_backends.llama_cpp.adapter_checks import REMEDY, check_adapter_file, model_tensors
from lmql_backends.llama_cpp.gguf_index import Tensor
from lmql_backends.llama_cpp.hub import adapter_file, all_files
from lmql_backends.llama_cpp.model import LlamaModel, check_file

Applied = tuple[tuple[Any, float], ...]
"""The library's adapters, each with its scale, that a decode computes with."""


class LlamaAdapter:
    """One of the library's adapters. It belongs to its model, and is gone when that is closed."""

    def __init__(self, model: LlamaModel, handle: Any) -> None:
        self.handle = handle
        self._model = model

    def __del__(self) -> None:
        """Whoever drops it may be in the middle of a call of the library: it is freed later."""
        self._model.dropped.append(self.handle)


class AdapterFiles:
    """Opens adapters for one model; `open` may be called from any thread."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self._tensors: Mapping[str, Tensor] | None = None

    def read(self, source: str) -> LoadedAdapter:
        """Of a GGUF file or a PEFT folder. Raises `AdapterLoadError` and `CapabilityError`."""
        try:
            path = adapter_file(source)
            if path.is_dir():
                from lmql_backends.llama_cpp.peft_folder import converted

                with converted(path, self._model) as file:
                    rank, adapter = self.open(file)
            else:
                rank, adapter = self.open(path)
        except AdapterLoadError:
            raise
        except (ModelNotFoundError, ModelLoadError) as error:
            remedy = error.remedy if isinstance(error, ModelNotFoundError) else REMEDY
            raise AdapterLoadError(error.message, remedy=remedy) from error
        return LoadedAdapter(rank=rank, weights=adapter)

    def open(self, path: Path) -> tuple[int, LlamaAdapter]:
        """Its rank, and the adapter. Raises `ModelNotFoundError`, `AdapterLoadError`, `CapabilityError`."""
        check_file(path)
        model = self._model
        rank = check_adapter_file(path, model.path.name, self._model_tensors(), model.architecture)
        lib = model.lib
        # The model's list of adapters is read when a decode begins with others than the one before.
        with model.adapters_lock:
            model.free_dropped()
            lib.clear_errors()
            handle = lib.c.llama_adapter_lora_init(model.handle, os.fspath(path).encode())
            reason = lib.reason()
        if not handle:
            raise AdapterLoadError(
                f"{path.name} is no LoRA adapter for {model.path.name}: "
                f"{reason or 'llama.cpp does not say why'}.",
                remedy=REMEDY,
            )
        return rank, LlamaAdapter(model, handle)

    def _model_tensors(self) -> Mapping[str, Tensor]:
        if self._tensors is None:
            self._tensors = model_tensors(all_files(self._model.path))
        return self._tensors


def open_adapters(files: AdapterFiles, lora: object) -> list[tuple[LlamaAdapter, float]]:
    """Those of the option `lora`: None, a file, a list of files or of (file, scale).

    Raises `ModelNotFoundError`, `ModelLoadError` and `InvalidRequestError`.
    """
    return [(files.open(path)[1], scale) for path, scale in _wished(lora)]


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
