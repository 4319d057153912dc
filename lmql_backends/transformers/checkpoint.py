"""Loading a causal model from a folder or the hub, with errors that say what to do."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging as library_logging

from dcmodel.errors import ModelLoadError, ModelNotFoundError

# Options of `from_pretrained` that say where to look, for the configuration as well as the weights.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LIBRARY_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    RuntimeError,
    SafetensorError,
)


def choose_device(asked: str | None) -> torch.device:
    """The asked device, else an accelerator if there is one."""
    if asked is not None:
        try:
            device = torch.device(asked)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ModelLoadError(
                f"the device {asked!r} cannot be used: {_first_line(error)}", remedy="Use device='cpu'."
            ) from error
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def choose_dtype(asked: str | None, device: torch.device) -> torch.dtype | str:
    """The asked dtype; else float32 on a CPU and the checkpoint's own elsewhere."""
    if asked is not None:
        if asked not in DTYPES:
            raise ModelLoadError(
                f"the dtype {asked!r} is not known.", remedy=f"Use one of {', '.join(DTYPES)}."
            )
        return DTYPES[asked]
    return torch.float32 if device.type == "cpu" else "auto"


def load_config(name: str, extra: Mapping[str, Any]) -> PretrainedConfig:
    """The configuration of a model with a causal head."""
    if extra.get("trust_remote_code"):
        raise ModelLoadError(
            "trust_remote_code is not supported: it runs code from the model's repository.",
            remedy="Use a model that transformers itself implements.",
        )
    path = Path(name).expanduser()
    if not path.is_dir() and (path.is_file() or looks_like_path(name)):
        what = "is a file" if path.is_file() else "does not exist"
        raise ModelNotFoundError(
            f"{name} {what}; this backend reads folders with a config.json, and hub ids.",
            remedy="Give such a folder, or a hub id like 'org/model'.",
        )
    options = {key: extra[key] for key in HUB_OPTIONS if key in extra}
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(str(path) if path.is_dir() else name, **options)
    except LIBRARY_ERRORS as error:
        if not path.is_dir() and isinstance(error, OSError):
            raise ModelNotFoundError(
                f"there is no folder {name!r}, and the hub gave no such model: {_first_line(error)}",
                remedy="Check the name; a private model needs `hf auth login`, an offline machine a folder.",
            ) from error
        if not (path / "config.json").is_file() and path.is_dir():
            raise ModelNotFoundError(
                f"the folder {name} has no config.json.",
                remedy="Give the folder that `save_pretrained` wrote.",
            ) from error
        raise _cannot_load(name, error) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelLoadError(
            f"{name} is a {config.model_type!r} model, which does not generate text from left to right.",
            remedy="Use a causal language model.",
        )
    return config


def load_model(
    name: str,
    config: PretrainedConfig,
    *,
    device: torch.device,
    dtype: torch.dtype | str,
    extra: Mapping[str, Any],
) -> PreTrainedModel:
    """The model in evaluation mode, on its device, with all of its weights."""
    path = Path(name).expanduser()
    options = {"dtype": dtype, **extra, "config": config, "trust_remote_code": False}
    try:
        with _quiet_unless_terminal():
            loaded: tuple[PreTrainedModel, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(  # type: ignore[assignment]
                str(path) if path.is_dir() else name, output_loading_info=True, **options
            )
        model, report = loaded
        missing = sorted(report["missing_keys"])
        if missing:
            raise ModelLoadError(
                f"{name} lacks {len(missing)} of its weights, {missing[0]} among them.",
                remedy="Use a checkpoint of a causal language model; an encoder's has no head for it.",
            )
        if getattr(model, "hf_device_map", None) is None and not getattr(model, "is_quantized", False):
            nn.Module.to(model, device)
    except torch.OutOfMemoryError as error:
        raise ModelLoadError(
            f"{name} does not fit the memory of {device}.",
            remedy="Use a smaller model, dtype='bfloat16', or device='cpu'.",
        ) from error
    except LIBRARY_ERRORS as error:
        raise _cannot_load(name, error) from error
    model.train(False)
    model.requires_grad_(False)
    return model


def end_token_ids(model: PreTrainedModel) -> tuple[int, ...]:
    """The ids that end this model's texts, as its generation configuration says, or its configuration."""
    for source in (model.generation_config, model.config, model.config.get_text_config()):
        found = getattr(source, "eos_token_id", None)
        if found is not None:
            return tuple(found) if isinstance(found, list | tuple) else (int(found),)
    return ()


def looks_like_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~")) or "\\" in name or name.count("/") > 1


@contextmanager
def _quiet_unless_terminal() -> Iterator[None]:
    """No progress bars in logs and pipes."""
    was_enabled = library_logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        library_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_enabled:
            library_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _cannot_load(name: str, error: Exception) -> ModelLoadError:
    return ModelLoadError(
        f"{name} cannot be loaded: {type(error).__name__}: {_first_line(error)}",
        remedy="The whole report of transformers is this error's cause.",
    )


def _first_line(error: BaseException) -> str:
    """The first sentence or line of a library's message, without its line breaks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = re.sub(r"\s+", " ", lines[0] if lines else type(error).__name__)
    return text if text.endswith((".", "!", "?")) else text + "."
