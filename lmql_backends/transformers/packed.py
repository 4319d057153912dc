"""Calling an unmodified transformers model on a packed batch: the seams that are used, in one place."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lmql_backends.transformers.attention import ATTENTION_NAME, ProbeStep, Step, register_attention


def accepts_attention(model: PreTrainedModel) -> bool:
    """Whether the model calls an attention function of ours, with what we hand to its forward."""
    return bool(type(model)._supports_attention_backend)


def use_slots(model: PreTrainedModel) -> None:
    """Let the model's attention go through the slot store."""
    register_attention()
    model.set_attn_implementation(ATTENTION_NAME)


def probe(model: PreTrainedModel) -> ProbeStep:
    """What the attention layers of a prepared model keep, from a forward of one token."""
    step = ProbeStep()
    zero = torch.zeros((1, 1), dtype=torch.long, device=model.device)
    with torch.inference_mode():
        run_packed(model, zero, zero, zero[0], step)
    return step


def run_packed(
    model: PreTrainedModel,
    input_ids: Tensor,
    position_ids: Tensor,
    logit_rows: Tensor,
    step: Step,
) -> Tensor:
    """Logits ``[len(logit_rows), vocab_size]`` in the model's dtype, of a packed batch."""
    output = model(
        input_ids=input_ids,
        position_ids=position_ids,
        use_cache=False,
        logits_to_keep=logit_rows,
        dcmodel_step=step,
    )
    logits: Tensor = output.logits[0]
    return logits


def selects_rows(model: PreTrainedModel) -> bool:
    """Whether the model computes logits for chosen rows only."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters
