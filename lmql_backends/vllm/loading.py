"""From a model's name to a model on vLLM: options, engine, tokenizer."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vllm.engine.arg_utils import EngineArgs
from vllm.platforms import current_platform

from dcmodel.backend import LoadOptions
from dcmodel.engine import Capabilities
from dcmodel.errors import CapabilityError, DcModelError, InvalidRequestError, ModelLoadError
from dcmodel.types import ModelInfo
from dctokenizers import Tokenizer, TokenizerError
from dctokenizers import load as load_tokenizer
from lmql_backends.vllm.adapters import AdapterReader
from lmql_backends.vllm.chat_template import chat_template
from lmql_backends.vllm.core import Core
from lmql_backends.vllm.engine import StepEngine
from lmql_backends.vllm.insides import processor_class
from lmql_backends.vllm.model import VLLMDcModel
from lmql_backends.vllm.runner import VLLMRunner
from lmql_backends.vllm.scheduler import StepScheduler

ENVIRONMENT = {
    # The engine in this process: masks, matchers and draws share its memory.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
# The runner on which our draws were run; a user may ask for the other one.
RUNNER = {"VLLM_USE_V2_MODEL_RUNNER": "0"}
CPU_KV_BYTES = 1 << 30
# The smallest that vLLM's kernels for CPUs are made for: a session's step computes up to a block again.
CPU_BLOCK = 32
PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
# What our code relies on.
FIXED = (
    "scheduler_cls",
    "logits_processors",
    "async_scheduling",
    "enable_prefix_caching",
    "speculative_config",
)


def load(name: str, options: LoadOptions) -> VLLMDcModel:
    """Load a causal language model; blocks. Raises `ModelLoadError`; `CapabilityError` for several GPUs."""
    arguments = engine_arguments(name, options)
    tokenizer = _tokenizer(name)
    configs: list[Any] = []

    def make() -> StepEngine:
        with _environment():
            config = EngineArgs(**arguments).create_engine_config()
            config.model_config.logits_processors = [processor_class(config)]
            configs.append(config)
            core = Core(config)
        lora = config.lora_config
        reader = AdapterReader(config.model_config, lora) if lora is not None else None
        return StepEngine(core, _capabilities(config), reader)

    try:
        runner = VLLMRunner(make, tokens=tokenizer.vocab_size)
    except DcModelError:
        raise
    except Exception as error:  # anything may go wrong in there
        raise ModelLoadError(
            f"vLLM cannot load {name}: {type(error).__name__}: {_first_line(error)}",
            remedy="The whole report of vLLM is this error's cause.",
        ) from error
    info = _info(name, configs[0], runner.engine.capabilities, options.extra)
    return VLLMDcModel(info, _with_ends(tokenizer, configs[0]), runner)


def engine_arguments(name: str, options: LoadOptions) -> dict[str, Any]:
    """What vLLM is asked for."""
    extra = dict(options.extra)
    _check_extra(extra)
    arguments: dict[str, Any] = {
        "model": name,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "disable_log_stats": True,
        "enable_prefix_caching": True,
        "async_scheduling": False,
        "scheduler_cls": StepScheduler,
        "dtype": options.dtype or ("float32" if current_platform.is_cpu() else "auto"),
    }
    if current_platform.is_cpu():
        arguments |= {"enforce_eager": True, "block_size": CPU_BLOCK}
        if not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
            arguments["kv_cache_memory_bytes"] = CPU_KV_BYTES
    arguments |= extra
    return arguments | _sizes(options, int(arguments.get("block_size") or CPU_BLOCK))


def _sizes(options: LoadOptions, block: int) -> dict[str, Any]:
    sizes: dict[str, Any] = {}
    context = options.max_context
    if options.kv_tokens is not None:
        # One token more than our code asks for, and a block that is vLLM's own.
        sizes["num_gpu_blocks_override"] = -(-(options.kv_tokens + 1) // block) + 1
        context = min(context or options.kv_tokens, options.kv_tokens)
    if context is not None:
        # It needs a place for the token after the last one that it computes.
        sizes["max_model_len"] = context + 1
    if options.max_sequences is not None:
        sizes["max_num_seqs"] = options.max_sequences
    if options.max_batch_tokens is not None:
        sizes["max_num_batched_tokens"] = options.max_batch_tokens
        sizes["max_num_seqs"] = min(options.max_batch_tokens, options.max_sequences or 256)
    return sizes


def _check_extra(extra: dict[str, Any]) -> None:
    if extra.pop("trust_remote_code", False):
        raise ModelLoadError(
            "trust_remote_code is not supported: it runs code from the model's repository.",
            remedy="Use a model that vLLM itself implements.",
        )
    for key in PARALLEL:
        if int(extra.get(key) or 1) > 1:
            raise CapabilityError(
                f"{key}={extra[key]} needs processes that share no memory with the masks of this one.",
                remedy="Run vLLM's own server with it, and load openai:NAME (docs/vllm.md).",
            )
    for key in FIXED:
        if key in extra:
            raise InvalidRequestError(
                f"{key} cannot be set: masks and draws rely on it.", remedy="Leave it out."
            )


def _capabilities(config: Any) -> Capabilities:
    cache, scheduler = config.cache_config, config.scheduler_config
    return Capabilities(
        vocab_size=config.model_config.get_vocab_size(),
        max_positions=config.model_config.max_model_len - 1,
        max_sequences=scheduler.max_num_seqs,
        kv_tokens=(cache.num_gpu_blocks or 1) * cache.block_size,
        max_batch_tokens=scheduler.max_num_batched_tokens,
        can_copy=False,
    )


def _info(name: str, config: Any, limits: Capabilities, extra: Mapping[str, Any]) -> ModelInfo:
    from vllm import __version__ as version

    model = config.model_config
    return ModelInfo(
        name=name,
        backend="vllm",
        vocab_size=limits.vocab_size,
        max_positions=limits.max_positions,
        device=str(config.device_config.device_type),
        dtype=str(model.dtype).removeprefix("torch."),
        details={
            "vllm": str(version),
            "architecture": ", ".join(model.architectures or ()),
            "block": f"{config.cache_config.block_size} tokens",
        },
        chat_template=chat_template(name, extra),
    )


def _tokenizer(name: str) -> Tokenizer:
    try:
        return load_tokenizer(name)
    except TokenizerError as error:
        raise ModelLoadError(
            f"the tokenizer of {name} cannot be loaded: {error}",
            remedy="The folder needs its tokenizer files, tokenizer.json at best.",
        ) from error


def _with_ends(tokenizer: Tokenizer, config: Any) -> Tokenizer:
    """With the ids that end this model's texts, as its configurations say."""
    generation = config.model_config.try_get_generation_config()
    found = generation.get("eos_token_id")
    if found is None:
        found = getattr(config.model_config.hf_text_config, "eos_token_id", None)
    ends = [found] if isinstance(found, int) else list(found or ())
    ends = [token_id for token_id in ends if 0 <= token_id < tokenizer.vocab_size]
    # The tokenizer's own end first: it is the one that chat templates write.
    ends.sort(key=lambda token_id: token_id not in tokenizer.eos_token_ids)
    return tokenizer.with_eos(ends) if ends else tokenizer


@contextmanager
def _environment() -> Iterator[None]:
    """vLLM is told by variables how to run."""
    wanted = {**RUNNER, **{key: os.environ[key] for key in RUNNER if key in os.environ}, **ENVIRONMENT}
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"\s+", " ", lines[0]) if lines else type(error).__name__
