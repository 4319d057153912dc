"""An engine over unmodified transformers models: one packed forward per step, KV in slots."""

from __future__ import annotations

import inspect

import torch
from transformers import PreTrainedModel

from dcmodel.engine import Capabilities, Engine, GenerateBatch
from dcmodel.errors import EngineError
from lmql_backends.transformers.attention import ATTENTION_NAME, ProbeStep, SlotStep, Step, register_attention
from lmql_backends.transformers.kv_store import KVStore
from lmql_backends.transformers.sampler import TorchLogitRows, Workspace
from lmql_backends.transformers.step_plan import plan_step


class TransformersEngine(Engine):
    """Computes ragged batches with a causal model whose attention goes through `AttentionInterface`."""

    def __init__(self, model: PreTrainedModel, capabilities: Capabilities, store: KVStore) -> None:
        """`model` has been prepared by `use_slots`; `store` fits it."""
        self.capabilities = capabilities
        self._model = model
        self._store = store
        self._workspace = Workspace()

    def allocate(self, length: int) -> int | None:
        return self._store.allocate(length)

    def reserve(self, sequence: int, length: int) -> bool:
        return self._store.reserve(sequence, length)

    def copy(self, source: int, target: int, length: int) -> None:
        self._store.copy(source, target, length)

    def truncate(self, sequence: int, length: int) -> None:
        self._store.truncate(sequence, length)

    def free(self, sequence: int) -> None:
        self._store.free(sequence)

    def forward(self, batch: GenerateBatch) -> TorchLogitRows:
        entries = [self._store[span.sequence] for span in batch.spans]
        for span, entry in zip(batch.spans, entries, strict=True):
            if span.start != entry.length or span.start + len(span.token_ids) > entry.segment.capacity:
                raise EngineError(
                    f"a span of {len(span.token_ids)} tokens at {span.start} does not continue a sequence of "
                    f"{entry.length} tokens with room for {entry.segment.capacity}."
                )
        with torch.inference_mode():
            plan = plan_step(batch, self._store)
            step = SlotStep(plan, len(self._store.shapes))
            logits = None
            try:
                logits = run_packed(self._model, plan.input_ids, plan.position_ids, plan.logit_rows, step)
            finally:
                if logits is None or not step.is_finite:
                    for entry in entries:
                        entry.is_poisoned = True
        for span, entry in zip(batch.spans, entries, strict=True):
            entry.length += len(span.token_ids)
        return TorchLogitRows(logits, self._workspace)

    def close(self) -> None:
        self._store.clear()
        del self._model


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
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    logit_rows: torch.Tensor,
    step: Step,
) -> torch.Tensor:
    """Logits ``[len(logit_rows), vocab_size]`` in the model's dtype, of a packed batch."""
    output = model(
        input_ids=input_ids,
        position_ids=position_ids,
        use_cache=False,
        logits_to_keep=logit_rows,
        dcmodel_step=step,
    )
    logits: torch.Tensor = output.logits[0]
    return logits


def selects_rows(model: PreTrainedModel) -> bool:
    """Whether the model computes logits for chosen rows only."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters
