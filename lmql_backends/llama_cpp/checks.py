"""Models that say nothing of the next token, refused by what their files say of themselves."""

from __future__ import annotations

from dcmodel.errors import ModelLoadError
from lmql_backends.llama_cpp.model import LlamaModel

NO_POOLING = (None, "0", "-1")
RANKING = "4"


def refuse_unfit(model: LlamaModel) -> None:
    """Raise `ModelLoadError` unless the file holds a causal language model."""
    kind = _unfit(model)
    if kind:
        raise ModelLoadError(
            f"{model.path.name} is {kind} (architecture {model.architecture}): it does not say which token "
            "comes next.",
            remedy="Use a causal language model; embeddings and reranking are other programs' task.",
        )


def _unfit(model: LlamaModel) -> str:
    """What else it is; empty for a causal language model."""
    c, handle = model.lib.c, model.handle
    # Their files say that attention is not causal, too.
    if c.llama_model_is_diffusion(handle):
        return "a diffusion model"
    if c.llama_model_has_encoder(handle):
        has_decoder = c.llama_model_has_decoder(handle)
        return "an encoder-decoder model" if has_decoder else "an encoder"
    if not c.llama_model_has_decoder(handle) or model.setting("attention.causal") == "false":
        return "an encoder"
    pooling = model.setting("pooling_type")
    if pooling == RANKING:
        return "a reranking model"
    if pooling not in NO_POOLING:
        return "an embedding model"
    return ""
