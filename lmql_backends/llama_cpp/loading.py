"""From a GGUF file to an engine."""

from __future__ import annotations

from typing import Any

from dcmodel.backend import LoadedEngine, LoadOptions
from dcmodel.engine import Capabilities
from dcmodel.errors import InvalidRequestError, ModelLoadError
from dcmodel.memory import free_memory
from dcmodel.types import ModelInfo
from lmql_backends.llama_cpp.adapters import load_adapters
from lmql_backends.llama_cpp.checks import refuse_unfit
from lmql_backends.llama_cpp.context import LlamaContext
from lmql_backends.llama_cpp.engine import LlamaCppEngine
from lmql_backends.llama_cpp.hub import local_file
from lmql_backends.llama_cpp.library import library
from lmql_backends.llama_cpp.model import LlamaModel, open_model
from lmql_backends.llama_cpp.options import LlamaOptions
from lmql_backends.llama_cpp.tokenizer import chat_template, load_tokenizer

# Sequences and the leaves of candidate trees share the library's numbers for sequences.
MAX_SEQUENCES = 128
# A recurrent model has a state for each of them from the beginning.
MAX_STATES = 16
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 512, 2048
# Every cell in use costs time in every step, also those of prefixes that lie idle: a little where flash
# attention passes over them, a lot where they are multiplied with zero.
KV_TOKENS, EXACT_KV_TOKENS = 16384, 4096
KV_SHARE = 0.5
CELL_PADDING = 256
LOGIT_BYTES = 64 << 20
LEAST_ROWS = 16
FLOAT_BYTES = 4
# A recurrent model has no limit of its own.
UNLIMITED_POSITIONS = 32768
BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32}
LEAST_BYTES = 20 / 32
MOST_BYTES = 1 << 60
MOST_TOKENS = 1 << 30


def load(name: str, options: LoadOptions) -> LoadedEngine:
    """Load a GGUF model. Raises `ModelNotFoundError`, `ModelLoadError`, `InvalidRequestError`."""
    chosen = LlamaOptions(options, library().c)
    path = local_file(name, options.extra)
    tokenizer = load_tokenizer(path, name=name)
    model = open_model(path, configure=chosen.configure_model)
    try:
        refuse_unfit(model)
        capabilities = _capabilities(model, options, chosen)
        _check_memory(model, capabilities, chosen)
        context = _open_context(model, capabilities, chosen)
    except BaseException:
        model.close()
        raise
    try:
        load_adapters(model, context.handle, options.extra.get("lora"))
    except BaseException:
        context.close()
        raise
    return LoadedEngine(
        engine=LlamaCppEngine(context, capabilities),
        tokenizer=tokenizer,
        info=ModelInfo(
            name=name,
            backend="llama_cpp",
            vocab_size=capabilities.vocab_size,
            max_positions=capabilities.max_positions,
            device=chosen.device,
            dtype={"f32": "float32", "f16": "float16", "bf16": "bfloat16"}.get(chosen.type_k, chosen.type_k),
            details=_details(model, capabilities, chosen),
            chat_template=chat_template(model),
        ),
    )


def _details(model: LlamaModel, capabilities: Capabilities, chosen: LlamaOptions) -> dict[str, str]:
    c = model.lib.c
    kv = chosen.type_k if chosen.type_k == chosen.type_v else f"{chosen.type_k} and {chosen.type_v}"
    weights = c.llama_ftype_name(c.llama_model_ftype(model.handle))
    positions, trained = capabilities.max_positions, _trained_positions(model)
    limit = {"limit": f"{positions} of {trained} positions; give max_context for more"}
    return {
        **(limit if positions < trained else {}),
        "architecture": model.architecture,
        "weights": weights.decode() if weights else "unknown",
        "kv": kv,
        "flash_attention": chosen.flash_attention,
        "threads": str(chosen.threads),
        "rounding": "float32" if chosen.is_exact else "that of a half-precision KV cache (1e-2 in logits)",
    }


def _capabilities(model: LlamaModel, options: LoadOptions, chosen: LlamaOptions) -> Capabilities:
    kv_tokens = options.kv_tokens or _kv_tokens(model, options, chosen)
    max_sequences = _max_sequences(model, options)
    batch_tokens = options.max_batch_tokens or (CPU_BATCH_TOKENS if chosen.on_cpu else GPU_BATCH_TOKENS)
    batch_tokens = max(batch_tokens, max_sequences)
    num_leaves = 0 if _is_recurrent(model) else _most_sequences(model) - max_sequences
    return Capabilities(
        vocab_size=model.vocab_size,
        max_positions=min(_positions(model, options, chosen), kv_tokens),
        max_sequences=max_sequences,
        kv_tokens=kv_tokens,
        max_batch_tokens=batch_tokens,
        can_copy=not _is_recurrent(model),
        max_branch_tokens=min(num_leaves, batch_tokens),
        # Each decoding sequence needs its row in any case.
        max_batch_rows=max(LEAST_ROWS, max_sequences, LOGIT_BYTES // (model.vocab_size * FLOAT_BYTES)),
    )


def _is_recurrent(model: LlamaModel) -> bool:
    """Whether a part of what a sequence left cannot be copied or taken back."""
    c, handle = model.lib.c, model.handle
    return bool(c.llama_model_is_recurrent(handle) or c.llama_model_is_hybrid(handle))


def _most_sequences(model: LlamaModel) -> int:
    return int(model.lib.c.llama_max_parallel_sequences())


def _max_sequences(model: LlamaModel, options: LoadOptions) -> int:
    most = _most_sequences(model)
    wished = options.max_sequences or (MAX_STATES if _is_recurrent(model) else MAX_SEQUENCES)
    if wished > most:
        raise InvalidRequestError(
            f"max_sequences is {wished}; llama.cpp has at most {most}.",
            remedy="Requests beyond it wait for their turn.",
        )
    return wished


def _trained_positions(model: LlamaModel) -> int:
    return int(model.lib.c.llama_model_n_ctx_train(model.handle)) or UNLIMITED_POSITIONS


def _positions(model: LlamaModel, options: LoadOptions, chosen: LlamaOptions) -> int:
    trained = _trained_positions(model)
    if options.max_context is None:
        return trained
    return options.max_context if chosen.extends_context else min(trained, options.max_context)


def _kv_tokens(model: LlamaModel, options: LoadOptions, chosen: LlamaOptions) -> int:
    """The longest sequence that was asked for, and at least a default; less if the free memory is small."""
    least = EXACT_KV_TOKENS if chosen.is_exact else KV_TOKENS
    if options.max_context is not None:
        return max(least, _positions(model, options, chosen))
    if not chosen.on_cpu:
        return least  # the library says what does not fit
    return max(1, min(least, int(KV_SHARE * free_memory() / _bytes_per_token(model, chosen))))


def _check_memory(model: LlamaModel, capabilities: Capabilities, chosen: LlamaOptions) -> None:
    """The library may get memory that is not there, and be ended by the system when it uses it."""
    needed = capabilities.kv_tokens * _bytes_per_token(model, chosen)
    free = free_memory() if chosen.on_cpu else MOST_BYTES
    if needed > free or capabilities.kv_tokens > MOST_TOKENS:
        raise ModelLoadError(
            f"{capabilities.kv_tokens} tokens of KV take {needed / (1 << 30):.1f} GB, and "
            f"{free / (1 << 30):.1f} GB are free.",
            remedy="Load it with a smaller kv_tokens or max_context, or a smaller type_k and type_v.",
        )


def _bytes_per_token(model: LlamaModel, chosen: LlamaOptions) -> float:
    """Of keys and values in all layers; more than it is where a layer has fewer heads than the first."""
    c, handle = model.lib.c, model.handle
    width = int(model.setting("attention.key_length") or 0)
    width = width or c.llama_model_n_embd(handle) // max(1, c.llama_model_n_head(handle))
    each = BYTES.get(chosen.type_k, LEAST_BYTES) + BYTES.get(chosen.type_v, LEAST_BYTES)
    heads = int(c.llama_model_n_head_kv(handle) * c.llama_model_n_layer(handle))
    return max(1.0, each * width * heads)


def _open_context(model: LlamaModel, capabilities: Capabilities, chosen: LlamaOptions) -> LlamaContext:
    lib = model.lib
    params = lib.c.llama_context_default_params()
    chosen.configure_context(params)
    # Branches have cells of their own, as many as one batch can hold.
    cells = capabilities.kv_tokens + capabilities.max_batch_tokens
    params.n_ctx = -(-cells // CELL_PADDING) * CELL_PADDING
    params.n_batch = capabilities.max_batch_tokens
    params.n_ubatch = min(params.n_ubatch, params.n_batch)
    params.n_seq_max = capabilities.max_sequences + capabilities.max_branch_tokens
    params.n_outputs_max = max(capabilities.max_batch_rows, params.n_seq_max)
    lib.clear_errors()
    handle: Any = lib.c.llama_init_from_model(model.handle, params)
    if not handle:
        raise ModelLoadError(
            f"llama.cpp cannot make a context of {capabilities.kv_tokens} tokens for {model.path.name}: "
            f"{lib.reason() or 'it does not say why'}.",
            remedy="Load it with a smaller kv_tokens or max_context, or a smaller type_k and type_v.",
        )
    return LlamaContext(
        model, handle, max_tokens=capabilities.max_batch_tokens, max_rows=capabilities.max_batch_rows
    )
