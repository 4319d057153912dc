"""From a GGUF file to an engine."""

from __future__ import annotations

from typing import Any

from dcmodel.backend import LoadedEngine, LoadOptions
from dcmodel.engine import Capabilities
from dcmodel.errors import ModelLoadError
from dcmodel.types import ModelInfo
from lmql_backends.llama_cpp.adapters import AdapterFiles, open_adapters
from lmql_backends.llama_cpp.checks import refuse_unfit
from lmql_backends.llama_cpp.context import LlamaContext
from lmql_backends.llama_cpp.engine import LlamaCppEngine
from lmql_backends.llama_cpp.hub import local_file
from lmql_backends.llama_cpp.library import library
from lmql_backends.llama_cpp.limits import check_memory, choose_capabilities, trained_positions
from lmql_backends.llama_cpp.model import LlamaModel, open_model
from lmql_backends.llama_cpp.mounted_adapters import MountedAdapters
from lmql_backends.llama_cpp.options import LlamaOptions
from lmql_backends.llama_cpp.tokenizer import chat_template, load_tokenizer

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
CELL_PADDING = 256


def load(name: str, options: LoadOptions) -> LoadedEngine:
    """Load a GGUF model. Raises `ModelNotFoundError`, `ModelLoadError`, `InvalidRequestError`."""
    chosen = LlamaOptions(options, library().c)
    path = local_file(name, options.extra)
    tokenizer = load_tokenizer(path, name=name)
    model = open_model(path, configure=chosen.configure_model)
    try:
        refuse_unfit(model)
        capabilities = choose_capabilities(model, options, chosen)
        check_memory(model, capabilities, chosen)
        context = _open_context(model, capabilities, chosen)
    except BaseException:
        model.close()
        raise
    files = AdapterFiles(model)
    try:
        adapters = MountedAdapters(context, files, open_adapters(files, options.extra.get("lora")))
    except BaseException:
        context.close()
        raise
    return LoadedEngine(
        engine=LlamaCppEngine(
            context,
            capabilities,
            adapters,
            stream_tokens=None if chosen.is_unified else capabilities.max_positions,
        ),
        tokenizer=tokenizer,
        info=ModelInfo(
            name=name,
            backend="llama_cpp",
            vocab_size=capabilities.vocab_size,
            max_positions=capabilities.max_positions,
            device=chosen.device,
            dtype=DTYPES.get(chosen.type_k, chosen.type_k),
            details=_details(model, capabilities, chosen),
            chat_template=chat_template(model),
        ),
    )


def _details(model: LlamaModel, capabilities: Capabilities, chosen: LlamaOptions) -> dict[str, str]:
    c = model.lib.c
    kv = chosen.type_k if chosen.type_k == chosen.type_v else f"{chosen.type_k} and {chosen.type_v}"
    weights = c.llama_ftype_name(c.llama_model_ftype(model.handle))
    positions, trained = capabilities.max_positions, trained_positions(model)
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


def _open_context(model: LlamaModel, capabilities: Capabilities, chosen: LlamaOptions) -> LlamaContext:
    lib = model.lib
    params = lib.c.llama_context_default_params()
    chosen.configure_context(params)
    if chosen.is_unified:
        # Branches have cells of their own, as many as one batch can hold.
        params.n_ctx = _padded(capabilities.kv_tokens + capabilities.max_batch_tokens)
    else:
        params.n_ctx = capabilities.max_sequences * _padded(capabilities.max_positions)
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


def _padded(cells: int) -> int:
    return -(-cells // CELL_PADDING) * CELL_PADDING
