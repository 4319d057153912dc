"""A plain engine for models that the slot store does not fit: one sequence at a time, always exact."""

from __future__ import annotations

import copy
import inspect
import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from dcmodel.engine import Capabilities, GenerateBatch, check_span
from dcmodel.errors import EngineError
from lmql_backends.torch_rows.rows import TorchLogitRows, Workspace
from lmql_backends.transformers.lora_engine import LoraEngine
from lmql_backends.transformers.packed import selects_rows

# More tokens than this after a recurrent cache are computed from the start, in one forward.
MAX_SINGLE_STEPS = 16
# The names under which models take and return their caches.
CACHE_NAMES = ("past_key_values", "cache_params")


@dataclass(slots=True)
class PlainSequence:
    """The tokens of a sequence and, perhaps, the model's own cache of all of them."""

    room: int
    token_ids: list[int] = field(default_factory=list)
    cache: Any = None
    """None: the next forward computes all tokens anew."""


class PlainEngine(LoraEngine):
    """Runs the model as its authors wrote it. What its cache cannot do, is computed from the tokens."""

    def __init__(self, model: PreTrainedModel, capabilities: Capabilities, *, uses_cache: bool) -> None:
        super().__init__(model)
        self.capabilities = capabilities
        names = inspect.signature(model.forward).parameters
        self._cache_name = next((name for name in CACHE_NAMES if name in names), "")
        self._uses_cache = uses_cache and bool(self._cache_name)
        self._selects_rows = selects_rows(model)
        self._sequences: dict[int, PlainSequence] = {}
        self._handles = itertools.count()
        self._workspace = Workspace(model.device)

    def allocate(self, length: int) -> int | None:
        if len(self._sequences) >= self.capabilities.max_sequences or not self._fits(length):
            return None
        handle = next(self._handles)
        self._sequences[handle] = PlainSequence(length)
        return handle

    def reserve(self, sequence: int, length: int) -> bool:
        state = self._sequences[sequence]
        if not self._fits(length - state.room):
            return False
        state.room = max(state.room, length)
        return True

    def copy(self, source: int, target: int, length: int) -> None:
        origin, state = self._sequences[source], self._sequences[target]
        if length > len(origin.token_ids) or length > state.room or state.token_ids:
            raise ValueError(
                f"cannot copy {length} of {len(origin.token_ids)} tokens into a sequence that holds "
                f"{len(state.token_ids)} and has room for {state.room}."
            )
        state.token_ids = origin.token_ids[:length]
        removed = len(origin.token_ids) - length
        if origin.cache is not None and (not removed or can_crop(origin.cache)):
            state.cache = copy.deepcopy(origin.cache)
            _crop(state, removed)

    def truncate(self, sequence: int, length: int) -> None:
        state = self._sequences[sequence]
        removed = len(state.token_ids) - length
        if removed < 0:
            raise ValueError(f"cannot truncate a sequence of {len(state.token_ids)} tokens to {length}.")
        del state.token_ids[length:]
        _crop(state, removed)

    def free(self, sequence: int) -> None:
        del self._sequences[sequence]

    def forward(self, batch: GenerateBatch) -> TorchLogitRows:
        states = [self._sequences[span.sequence] for span in batch.spans]
        for span, state in zip(batch.spans, states, strict=True):
            if span.branches is not None:
                raise EngineError("this engine computes no branches (max_branch_tokens is 0).")
            check_span(span, len(state.token_ids), state.room, self.capabilities)
        rows: list[Tensor] = []
        computed = False
        try:
            with torch.inference_mode():
                for span, state in zip(batch.spans, states, strict=True):
                    with self._bank.computing(span.adapter):
                        rows.append(self._extend(state, list(span.token_ids), list(span.wanted)))
            computed = True
        finally:
            # The model's caches grow in place: after a failure they hold tokens that do not count.
            for span, state in zip(batch.spans, states, strict=True):
                if computed:
                    state.token_ids.extend(span.token_ids)
                else:
                    state.cache = None
        width = self.capabilities.vocab_size
        logits = torch.cat(rows) if rows else torch.zeros((0, width), device=self._model.device)
        return TorchLogitRows(logits, self._workspace)

    def copies_parts(self) -> bool:
        """Whether a copy of a part of a sequence saves its computation (it is right in any case)."""
        state = PlainSequence(1)
        with torch.inference_mode():
            self._call(state, [0], [0])
        return state.cache is not None and can_crop(state.cache)

    def close(self) -> None:
        self._sequences.clear()
        super().close()

    def _compute_one_token(self) -> None:
        self._call(PlainSequence(1), [0], [0])

    def _extend(self, state: PlainSequence, token_ids: list[int], wanted: list[int]) -> Tensor:
        """Logits ``[len(wanted), vocab_size]`` of the tokens that come after those of `state`."""
        if state.cache is not None and not can_crop(state.cache) and len(token_ids) > 1:
            # A recurrent cache takes further tokens one at a time only.
            if len(token_ids) <= MAX_SINGLE_STEPS:
                steps = [self._call(state, [token_id], [0]) for token_id in token_ids]
                return torch.cat(steps)[wanted]
            state.cache = None
        if state.cache is None:
            offset = len(state.token_ids)
            token_ids = state.token_ids + token_ids
            wanted = [offset + place for place in wanted]
        return self._call(state, token_ids, wanted)

    def _call(self, state: PlainSequence, token_ids: list[int], wanted: list[int]) -> Tensor:
        """One forward of tokens that follow those in the cache of `state`."""
        device = self._model.device
        rows = torch.tensor(wanted, dtype=torch.long, device=device)
        options: dict[str, Any] = {"use_cache": self._uses_cache}
        if state.cache is not None:
            options[self._cache_name] = state.cache
        if self._selects_rows:
            options["logits_to_keep"] = rows
        output = self._model(input_ids=torch.tensor([token_ids], device=device), **options)
        if self._uses_cache:
            state.cache = output[self._cache_name]
        logits: Tensor = output.logits[0]
        return logits if self._selects_rows else logits.index_select(0, rows)

    def _fits(self, more: int) -> bool:
        used = sum(state.room for state in self._sequences.values())
        return used + more <= self.capabilities.kv_tokens


def can_crop(cache: object) -> bool:
    """Whether dropping the last tokens from the cache gives what the cache was before them."""
    layers = getattr(cache, "layers", None)
    return isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in layers or ())


def _crop(state: PlainSequence, removed: int) -> None:
    if not removed or state.cache is None:
        return
    if state.token_ids and can_crop(state.cache):
        state.cache.crop(-removed)
    else:
        state.cache = None
