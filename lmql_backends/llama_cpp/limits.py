"""How much of everything there is room for."""

from __future__ import annotations

from dcmodel.backend import LoadOptions
from dcmodel.engine import Capabilities
from dcmodel.errors import InvalidRequestError, ModelLoadError
from dcmodel.memory import free_memory
from lmql_backends.llama_cpp.model import LlamaModel
from lmql_backends.llama_cpp.options import LlamaOptions

# Sequences and the leaves of candidate trees share the library's numbers for sequences.
MAX_SEQUENCES = 128
# A recurrent model has a state for each of them from the beginning; so have separate streams their cells.
MAX_STATES, MAX_STREAMS = 16, 8
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 512, 2048
# Every cell in use costs time in every step, also those of prefixes that lie idle: a little where flash
# attention passes over them, a lot where they are multiplied with zero.
KV_TOKENS, EXACT_KV_TOKENS = 8192, 4096
KV_SHARE = 0.5
LOGIT_BYTES = 64 << 20
LEAST_ROWS = 16
# Looking at one cell is slower per FLOP than multiplying a batch with weights, so idle cells pay back less.
LOOK_EFFICIENCY, LEAST_IDLE_TOKENS = 0.2, 512
FLOAT_BYTES = 4
# A recurrent model has no limit of its own.
UNLIMITED_POSITIONS = 32768
BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32}
LEAST_BYTES = 20 / 32
MOST_BYTES = 1 << 60
MOST_TOKENS = 1 << 30


def choose_capabilities(model: LlamaModel, options: LoadOptions, chosen: LlamaOptions) -> Capabilities:
    """How much the engine will hold and compute at a time. Raises `InvalidRequestError`."""
    max_sequences = _max_sequences(model, options, chosen)
    kv_tokens = options.kv_tokens or _kv_tokens(model, options, chosen, max_sequences)
    batch_tokens = options.max_batch_tokens or (CPU_BATCH_TOKENS if chosen.on_cpu else GPU_BATCH_TOKENS)
    batch_tokens = max(batch_tokens, max_sequences)
    longest = kv_tokens if chosen.is_unified else kv_tokens // max_sequences
    has_branches = chosen.is_unified and not _is_recurrent(model)
    num_leaves = _most_sequences(model) - max_sequences if has_branches else 0
    return Capabilities(
        vocab_size=model.vocab_size,
        max_positions=min(_positions(model, options, chosen), longest),
        max_sequences=max_sequences,
        kv_tokens=kv_tokens,
        max_batch_tokens=batch_tokens,
        can_copy=not _is_recurrent(model),
        max_branch_tokens=min(num_leaves, batch_tokens),
        # Each decoding sequence needs its row in any case.
        max_batch_rows=max(LEAST_ROWS, max_sequences, LOGIT_BYTES // (model.vocab_size * FLOAT_BYTES)),
        idle_tokens=_idle_tokens(model) if chosen.is_unified else None,
    )


def _idle_tokens(model: LlamaModel) -> int:
    """Every token passes over all cells of the one cache, also those that lie idle. How many do so until that
    has cost as much as computing what lies there: FLOPs of a token over FLOPs of a look at a cell."""
    c, handle = model.lib.c, model.handle
    token = 2 * int(c.llama_model_n_params(handle))
    cell = 4 * int(c.llama_model_n_embd(handle)) * int(c.llama_model_n_layer(handle))
    return max(LEAST_IDLE_TOKENS, int(LOOK_EFFICIENCY * token / max(1, cell)))


def _is_recurrent(model: LlamaModel) -> bool:
    """Whether a part of what a sequence left cannot be copied or taken back."""
    c, handle = model.lib.c, model.handle
    return bool(c.llama_model_is_recurrent(handle) or c.llama_model_is_hybrid(handle))


def _most_sequences(model: LlamaModel) -> int:
    return int(model.lib.c.llama_max_parallel_sequences())


def _max_sequences(model: LlamaModel, options: LoadOptions, chosen: LlamaOptions) -> int:
    most = _most_sequences(model)
    usual = MAX_STREAMS if not chosen.is_unified else MAX_STATES if _is_recurrent(model) else MAX_SEQUENCES
    wished = options.max_sequences or usual
    if wished > most:
        raise InvalidRequestError(
            f"max_sequences is {wished}; llama.cpp has at most {most}.",
            remedy="Requests beyond it wait for their turn.",
        )
    return wished


def trained_positions(model: LlamaModel) -> int:
    """The longest sequence that the model was made for."""
    return int(model.lib.c.llama_model_n_ctx_train(model.handle)) or UNLIMITED_POSITIONS


def _positions(model: LlamaModel, options: LoadOptions, chosen: LlamaOptions) -> int:
    trained = trained_positions(model)
    if options.max_context is None:
        return trained
    return options.max_context if chosen.extends_context else min(trained, options.max_context)


def _kv_tokens(model: LlamaModel, options: LoadOptions, chosen: LlamaOptions, max_sequences: int) -> int:
    """Room for the longest sequence that was asked for (for each, where each has a part of its own), and at
    least a default; less than that if the free memory is small."""
    least = EXACT_KV_TOKENS if chosen.is_exact else KV_TOKENS
    parts = 1 if chosen.is_unified else max_sequences
    if options.max_context is not None:
        return max(least, parts * _positions(model, options, chosen))
    if not chosen.on_cpu:
        return least  # the library says what does not fit
    return max(1, min(least, int(KV_SHARE * free_memory() / _bytes_per_token(model, chosen))))


def check_memory(model: LlamaModel, capabilities: Capabilities, chosen: LlamaOptions) -> None:
    """Raise `ModelLoadError` where KV does not fit.

    The library may get memory that is not there, and be ended by the system when it uses it.
    """
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
