"""What may be said of how to load a GGUF model, in llama.cpp's own words.

These are the keys of `LoadOptions.extra`; the rest of `LoadOptions` says what all backends know.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

from dcmodel.backend import LoadOptions
from dcmodel.errors import InvalidRequestError, ModelLoadError
from lmql_backends.llama_cpp.threads import default_threads

KV_TYPES = {
    "f32": 0,
    "f16": 1,
    "bf16": 30,
    "q8_0": 8,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "iq4_nl": 20,
}
QUANTIZED = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl")
KV_OF_DTYPE = {None: "f16", "float16": "f16", "bfloat16": "bf16", "float32": "f32"}
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
ROPE_SCALING = {"none": 0, "linear": 1, "yarn": 2, "longrope": 3}
SPLIT_MODES = {"none": 0, "layer": 1, "row": 2}
LOAD_MODES = {"auto": -1, "none": 0, "mmap": 1, "mlock": 2, "mmap+mlock": 3, "direct_io": 4}
ALL_LAYERS = 999

NUMBERS = ("n_threads", "n_threads_batch", "n_ubatch", "n_gpu_layers", "main_gpu", "yarn_orig_ctx")
FRACTIONS = (
    *("rope_freq_base", "rope_freq_scale", "yarn_ext_factor"),
    *("yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"),
)
SWITCHES = ("offload_kqv", "op_offload", "check_tensors", "kv_unified")
NAMES: Mapping[str, Mapping[str, int]] = {
    "type_k": KV_TYPES,
    "type_v": KV_TYPES,
    "flash_attn": FLASH_ATTENTION,
    "rope_scaling": ROPE_SCALING,
    "split_mode": SPLIT_MODES,
    "load_mode": LOAD_MODES,
}
ELSEWHERE = ("lora", "revision", "tensor_split")
"""Read by those who use them."""
KNOWN = (*NUMBERS, *FRACTIONS, *SWITCHES, *NAMES, *ELSEWHERE)


class LlamaOptions:
    """`LoadOptions`, checked, and what follows from them for the library's own parameters."""

    def __init__(self, options: LoadOptions, c: Any) -> None:
        """`c`: the library's functions. Raises `InvalidRequestError` for an unknown key or a wrong value."""
        self._values = {name: _checked(name, value) for name, value in options.extra.items()}
        kv = KV_OF_DTYPE.get(options.dtype)
        if kv is None:
            raise InvalidRequestError(
                f"dtype is {options.dtype!r}; llama.cpp keeps KV in float32, float16 or bfloat16.",
                remedy="The weights have the types of the file. extra={'type_k': 'q8_0'} quantizes KV.",
            )
        self.type_k: str = self._values.get("type_k", kv)
        self.type_v: str = self._values.get("type_v", kv)
        self.flash_attention: str = self._values.get("flash_attn", "off" if kv == "f32" else "auto")
        if self.flash_attention == "off" and self.type_v in QUANTIZED:
            raise InvalidRequestError(
                f"type_v is {self.type_v!r} and flash_attn is off.",
                remedy="Quantized values need flash attention: leave flash_attn out.",
            )
        self._device = options.device
        _, colon, index = (options.device or "").partition(":")
        if colon and not index.isdigit():
            raise InvalidRequestError(
                f"device is {options.device!r}.", remedy="Give the number of a device: cuda:0."
            )
        self._c = c
        self._shares: Any = None
        self.threads: int = self._values.get("n_threads", default_threads())

    @property
    def is_exact(self) -> bool:
        """Whether attention is computed in float32."""
        return self.type_k == self.type_v == "f32" and self.flash_attention == "off"

    @property
    def is_unified(self) -> bool:
        """One KV cache for all sequences, which share prefixes in it; else each has a part for itself."""
        return bool(self._values.get("kv_unified", True))

    @property
    def extends_context(self) -> bool:
        """Whether the positions are scaled, so that more of them work than the model was trained on."""
        return any(name.startswith(("rope_", "yarn_")) for name in self._values)

    @property
    def on_cpu(self) -> bool:
        is_asked = self._device == "cpu" or self._values.get("n_gpu_layers") == 0
        return is_asked or not self._c.llama_supports_gpu_offload()

    @property
    def device(self) -> str:
        """Where it runs, for `ModelInfo`."""
        return "cpu" if self.on_cpu else self._device or "gpu"

    def configure_model(self, params: Any) -> None:
        """Set `llama_model_params`. Raises `ModelLoadError` where a device is asked that this build lacks."""
        if self._device not in (None, "cpu") and self.on_cpu:
            raise ModelLoadError(
                f"device is {self._device!r} and this llama-cpp-python was built for the CPU only.",
                remedy="Build it with CMAKE_ARGS=-DGGML_CUDA=on (or GGML_METAL), or use device='cpu'.",
            )
        params.n_gpu_layers = 0 if self.on_cpu else self._values.get("n_gpu_layers", ALL_LAYERS)
        _, _, index = (self._device or "").partition(":")
        if index:
            params.split_mode, params.main_gpu = SPLIT_MODES["none"], int(index)
        for name in ("main_gpu", "check_tensors"):
            if name in self._values:
                setattr(params, name, self._values[name])
        for name in ("split_mode", "load_mode"):
            if name in self._values:
                setattr(params, name, NAMES[name][self._values[name]])
        if "tensor_split" in self._values:
            shares = self._values["tensor_split"]
            # The library reads as many as it has devices.
            self._shares = (ctypes.c_float * max(len(shares), self._c.llama_max_devices()))(*shares)
            params.tensor_split = self._shares

    def configure_context(self, params: Any) -> None:
        """Set what of `llama_context_params` does not depend on sizes."""
        params.n_threads = self.threads
        params.n_threads_batch = self._values.get("n_threads_batch", self.threads)
        params.type_k, params.type_v = KV_TYPES[self.type_k], KV_TYPES[self.type_v]
        params.flash_attn_type = FLASH_ATTENTION[self.flash_attention]
        # Sliding windows keep all cells: prefixes can be shared and tokens taken back.
        params.swa_full = True
        params.kv_unified = self.is_unified
        params.no_perf = True
        for name in (*FRACTIONS, "yarn_orig_ctx", "offload_kqv", "op_offload"):
            if name in self._values:
                setattr(params, name, self._values[name])
        if "rope_scaling" in self._values:
            params.rope_scaling_type = ROPE_SCALING[self._values["rope_scaling"]]
        if "n_ubatch" in self._values:
            params.n_ubatch = self._values["n_ubatch"]


def _checked(name: str, value: Any) -> Any:
    if name not in KNOWN:
        raise InvalidRequestError(
            f"llama.cpp has no option {name!r} here.", remedy=f"Known are: {', '.join(KNOWN)}."
        )
    kinds: dict[str, tuple[Callable[[Any], bool], str]] = {
        **dict.fromkeys(NUMBERS, (_is_whole, "a whole number")),
        **dict.fromkeys(FRACTIONS, (_is_number, "a number")),
        **dict.fromkeys(SWITCHES, (lambda item: isinstance(item, bool), "True or False")),
        **{known: (choices.__contains__, f"one of {', '.join(choices)}") for known, choices in NAMES.items()},
        "tensor_split": (_are_numbers, "a list of numbers"),
    }
    is_right, what = kinds.get(name, (lambda item: True, ""))
    if not is_right(value):
        raise InvalidRequestError(f"{name} is {value!r}; it must be {what}.")
    if name in ("n_threads", "n_threads_batch", "n_ubatch") and value < 1:
        raise InvalidRequestError(f"{name} is {value}; it must be at least 1.")
    return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_number, value))
