"""Random models of many architectures, small enough to compare with plain forwards again and again."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

VOCAB_SIZE = 199

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

# Weights are larger than at a usual start: attention must matter for a wrong one to show.
_INIT = {"initializer_range": 0.15}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama-heads-of-other-size": ("LlamaConfig", {"head_dim": 20, "attention_bias": True}),
    "qwen2": ("Qwen2Config", {}),
    "qwen2-sliding": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3Config", {"head_dim": 16}),
    "mistral": ("MistralConfig", {"sliding_window": 11, "head_dim": 12}),
    "mixtral": ("MixtralConfig", {**_EXPERTS, "sliding_window": None}),
    "gemma2": (
        "Gemma2Config",
        {"head_dim": 16, "sliding_window": 7, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 16},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "head_dim": 16,
            "sliding_window": 10,
            "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "phi": ("PhiConfig", {}),
    "phi3": ("Phi3Config", {"sliding_window": 13}),
    "gpt2": (
        "GPT2Config",
        {
            "n_embd": 48,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 256,
            "scale_attn_by_inverse_layer_idx": True,
        },
    ),
    "gpt_neox": ("GPTNeoXConfig", {}),
    "opt": ("OPTConfig", {"ffn_dim": 64, "word_embed_proj_dim": 48}),
    "starcoder2": ("Starcoder2Config", {"sliding_window": 12}),
    "olmo2": ("Olmo2Config", {}),
    "cohere": ("CohereConfig", {"logit_scale": 1.0}),
    "cohere2": ("Cohere2Config", {"sliding_window": 8, "head_dim": 12, "logit_scale": 1.0}),
    "granite": ("GraniteConfig", {"attention_multiplier": 0.4}),
    "gpt_oss": ("GptOssConfig", {**_EXPERTS, "head_dim": 16, "sliding_window": 9}),
    "smollm3": ("SmolLM3Config", {}),
    "glm": ("GlmConfig", {"head_dim": 16}),
}

# Attention that cannot be replaced, or no attention at all.
PLAIN_ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": ("BloomConfig", {"n_layer": 2, "n_head": 4, "hidden_size": 48}),
    "falcon": ("FalconConfig", {"num_hidden_layers": 2, "new_decoder_architecture": False}),
    "gptj": ("GPTJConfig", {"n_embd": 48, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": 256}),
    "mamba": ("MambaConfig", {"num_hidden_layers": 2, "state_size": 8}),
    "mpt": ("MptConfig", {"d_model": 48, "n_heads": 4, "n_layers": 2, "max_seq_len": 256}),
}


def make_config(name: str, *, vocab_size: int = VOCAB_SIZE) -> Any:
    kind, changes = (ARCHITECTURES | PLAIN_ARCHITECTURES)[name]
    sizes = _SIZES | _INIT | changes
    if name in ("gpt2", "gptj", "bloom", "mpt"):
        sizes = {**_INIT, **changes, "vocab_size": VOCAB_SIZE, "bos_token_id": 1, "eos_token_id": 2}
    return getattr(transformers, kind)(**{**sizes, "vocab_size": vocab_size})


def make_model(
    name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, vocab_size: int = VOCAB_SIZE
) -> PreTrainedModel:
    """A model in evaluation mode; the same weights for the same name and seed."""
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        make_config(name, vocab_size=vocab_size), dtype=torch.float32
    )
    # Sinks, norms and biases start at 0 or 1 and would hide mistakes.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.to(dtype).eval()
