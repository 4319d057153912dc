"""Models that say nothing of the next token, refused by what their files say of themselves."""

from __future__ import annotations

from pathlib import Path

from dcmodel.errors import ModelLoadError
from lmql_backends.llama_cpp.header import read_header
from lmql_backends.llama_cpp.model import LlamaModel

NO_POOLING = (None, "0", "-1")
RANKING = "4"
# Of the few architectures whose files may not say that they look at the whole text.
ENCODERS = "bert"
# What predicts tokens for another model, from that model's states.
DRAFTS = ("eagle3", "dflash")


def other_file(path: Path, *, has_more_files: bool = False) -> tuple[str, str]:
    """What a GGUF file is if it is no model, and what to do; empty for models, and for unreadable files.

    `has_more_files`: the tensors may stand in others.
    """
    header = read_header(path)
    if header is None:
        return "", ""
    kind, architecture = (header.general.get(f"general.{key}", "") for key in ("type", "architecture"))
    if kind == "adapter":
        return "a LoRA adapter", "Load its model, and give the adapter as extra={'lora': path}."
    if kind == "mmproj" or architecture == "clip":
        return "the projector of a model for images or sound", "Give the file of the language model itself."
    if kind == "imatrix":
        return "an importance matrix", "Give the file of the model that was made with it."
    if not header.tensor_count and not has_more_files:
        return "a vocabulary without a model", "Its tokenizer can be had with dctokenizers.load."
    return "", ""


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
    if model.architecture in DRAFTS:
        return "a draft model"
    # Their files say that attention is not causal, too.
    if c.llama_model_is_diffusion(handle):
        return "a diffusion model"
    if c.llama_model_has_encoder(handle):
        has_decoder = c.llama_model_has_decoder(handle)
        return "an encoder-decoder model" if has_decoder else "an encoder"
    if not c.llama_model_has_decoder(handle) or ENCODERS in model.architecture:
        return "an encoder"
    if model.setting("attention.causal") == "false":
        return "an encoder"
    pooling = model.setting("pooling_type")
    if pooling == RANKING:
        return "a reranking model"
    if pooling not in NO_POOLING:
        return "an embedding model"
    return "a classifier" if c.llama_model_cls_label(handle, 0) else ""
