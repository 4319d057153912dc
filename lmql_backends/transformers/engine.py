"""An engine over unmodified transformers models: one packed forward per step, KV in slots."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from dcmodel.engine import Capabilities, GenerateBatch, check_span
from lmql_backends.torch_rows.rows import TorchLogitRows, Workspace
from lmql_backends.transformers.attention import SlotStep
from lmql_backends.transformers.kv_store import KVStore
from lmql_backends.transformers.lora_engine import LoraEngine
from lmql_backends.transformers.packed import probe, run_packed
from lmql_backends.transformers.step_plan import plan_step


class TransformersEngine(LoraEngine):
    """Computes ragged batches with a causal model whose attention goes through `AttentionInterface`."""

    def __init__(self, model: PreTrainedModel, capabilities: Capabilities, store: KVStore) -> None:
        """`model` has been prepared by `use_slots`; `store` fits it."""
        super().__init__(model)
        self.capabilities = capabilities
        self._store = store
        self._workspace = Workspace(store.device)

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
            check_span(span, entry.length, entry.segment.capacity, self.capabilities)
        with torch.inference_mode():
            self._store.close_gaps([span.sequence for span in batch.spans if len(span.token_ids) == 1])
            plan = plan_step(batch, self._store)
            step = SlotStep(plan, len(self._store.shapes))
            logits = None
            try:
                with self._bank.computing(plan.adapters, plan.wanted):
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
        super().close()

    def _compute_one_token(self) -> None:
        probe(self._model)
