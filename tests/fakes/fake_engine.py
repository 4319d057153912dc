"""An engine whose distribution is a closed form of the whole context, with bounds and faults on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dcmodel.adapters import BASE, LoadedAdapter
from dcmodel.backend import LoadedEngine
from dcmodel.engine import Branches, Capabilities, Engine, GenerateBatch
from dcmodel.errors import AdapterLoadError
from dcmodel.sampler import NumpyLogitRows
from dcmodel.types import ModelInfo

TABLES = 16


class FakeModel:
    """Logits = table[last token] + table[hash of the whole context]."""

    def __init__(self, vocab_size: int, *, seed: int = 0, scale: float = 2.0) -> None:
        rng = np.random.default_rng(seed)
        self.vocab_size = vocab_size
        self._by_last = (rng.standard_normal((vocab_size, vocab_size)) * scale).astype(np.float32)
        self._by_context = (rng.standard_normal((TABLES, vocab_size)) * scale).astype(np.float32)

    def logits(self, token_ids: Sequence[int]) -> np.ndarray:
        """Of the token after `token_ids`, float32 [vocab_size]."""
        digest = 0
        for token_id in token_ids:
            digest = (digest * 31 + token_id + 1) % 1_000_003
        return self._by_last[token_ids[-1]] + self._by_context[digest % TABLES]


@dataclass(eq=False)
class FakeEngine(Engine):
    """Keeps each sequence's tokens as its KV and checks every call against the contract."""

    model: FakeModel
    max_positions: int = 512
    max_sequences: int = 16
    kv_tokens: int = 4096
    max_batch_tokens: int = 256
    max_branch_tokens: int = 64
    max_batch_rows: int = 1024
    idle_tokens: int | None = None
    nan_token: int = -1
    """A context that holds this token gives NaN."""
    crash_token: int = -1
    """A batch that holds this token raises."""
    sequences: dict[int, list[int]] = field(default_factory=dict)
    computed_by: dict[int, set[int]] = field(default_factory=dict)
    """The adapters that computed what a sequence holds: never more than one."""
    adapters: dict[int, FakeModel] = field(default_factory=dict)
    """What is added to the logits, by handle."""
    handles: list[int] = field(default_factory=list)
    """Of all adapters that ever were mounted."""
    capacity: dict[int, int] = field(default_factory=dict)
    batches: list[GenerateBatch] = field(default_factory=list)
    copies: int = 0
    closed: bool = False
    _next: int = 0

    def __post_init__(self) -> None:
        self.capabilities = Capabilities(
            vocab_size=self.model.vocab_size,
            max_positions=self.max_positions,
            max_sequences=self.max_sequences,
            kv_tokens=self.kv_tokens,
            max_batch_tokens=self.max_batch_tokens,
            max_branch_tokens=self.max_branch_tokens,
            max_batch_rows=self.max_batch_rows,
            idle_tokens=self.idle_tokens,
        )

    def allocate(self, length: int) -> int | None:
        if len(self.sequences) >= self.max_sequences or self._free_tokens() < length:
            return None
        handle = self._next
        self._next += 1
        self.sequences[handle] = []
        self.computed_by[handle] = set()
        self.capacity[handle] = length
        return handle

    def reserve(self, sequence: int, length: int) -> bool:
        more = length - self.capacity[sequence]
        if more > 0:
            if self._free_tokens() < more:
                return False
            self.capacity[sequence] = length
        return True

    def copy(self, source: int, target: int, length: int) -> None:
        assert not self.sequences[target]
        assert length <= len(self.sequences[source])
        assert length <= self.capacity[target]
        self.sequences[target] = self.sequences[source][:length]
        self.computed_by[target] = self.computed_by[source].copy() if length else set()
        self.copies += 1

    def truncate(self, sequence: int, length: int) -> None:
        assert length <= len(self.sequences[sequence])
        del self.sequences[sequence][length:]
        if not length:
            self.computed_by[sequence].clear()

    def free(self, sequence: int) -> None:
        del self.sequences[sequence], self.capacity[sequence], self.computed_by[sequence]

    def forward(self, batch: GenerateBatch) -> NumpyLogitRows:
        assert 0 < batch.num_tokens <= self.max_batch_tokens
        assert batch.num_rows <= self.max_batch_rows
        assert len({span.sequence for span in batch.spans}) == len(batch.spans)
        for span in batch.spans:
            held = self.sequences[span.sequence]
            assert span.start == len(held), "positions must follow"
            assert span.start + len(span.token_ids) <= self.capacity[span.sequence], "no room was reserved"
            assert list(span.wanted) == sorted(set(span.wanted))
            assert span.adapter == BASE or span.adapter in self.adapters, "the adapter is not mounted"
            self.computed_by[span.sequence].add(span.adapter)
            assert len(self.computed_by[span.sequence]) == 1, "another adapter computed a part of it"
            grown = span.branches.token_ids if span.branches is not None else []
            assert len(grown) <= self.max_branch_tokens
            if self.crash_token in [*span.token_ids, *grown]:
                raise RuntimeError("the engine crashed")
        rows = []
        for span in batch.spans:
            held = self.sequences[span.sequence]
            wanted = set(span.wanted)
            for offset, token_id in enumerate(span.token_ids):
                held.append(token_id)
                if offset in wanted:
                    rows.append(self._row(held, span.adapter))
            if span.branches is not None:
                rows.extend(self._branch_rows(held, span.branches, span.adapter))
        self.batches.append(batch)
        return NumpyLogitRows(np.array(rows, dtype=np.float32).reshape(-1, self.model.vocab_size))

    def read_adapter(self, source: str) -> LoadedAdapter:
        """``seed:N`` adds the logits of a model of that seed."""
        kind, _, seed = source.partition(":")
        if kind != "seed" or not seed.isdigit():
            raise AdapterLoadError(f"{source!r} is no adapter.", remedy="Use seed:N.")
        return LoadedAdapter(rank=1, weights=FakeModel(self.model.vocab_size, seed=int(seed)))

    def mount_adapter(self, adapter: int, loaded: LoadedAdapter) -> None:
        assert adapter not in self.handles, "handles are never used again"
        assert adapter > BASE
        self.handles.append(adapter)
        self.adapters[adapter] = loaded.weights

    def unmount_adapter(self, adapter: int) -> None:
        assert all(adapter not in by for by in self.computed_by.values()), "something of it is left"
        del self.adapters[adapter]

    def _row(self, context: list[int], adapter: int) -> np.ndarray:
        row = self.model.logits(context)
        if adapter != BASE:
            row = row + self.adapters[adapter].logits(context)
        return np.full_like(row, np.nan) if self.nan_token in context else row

    def _branch_rows(self, held: list[int], branches: Branches, adapter: int) -> list[np.ndarray]:
        paths: list[list[int]] = []
        for place, (token_id, parent) in enumerate(zip(branches.token_ids, branches.parents, strict=True)):
            assert -1 <= parent < place, "a token comes after its parent"
            paths.append([*(paths[parent] if parent >= 0 else held), token_id])
        assert list(branches.wanted) == sorted(set(branches.wanted))
        return [self._row(paths[offset], adapter) for offset in branches.wanted]

    def close(self) -> None:
        self.closed = True

    def _free_tokens(self) -> int:
        return self.kv_tokens - sum(self.capacity.values())


def loaded_fake(tokenizer, *, seed: int = 0, scale: float = 2.0, **options) -> LoadedEngine:
    """A fake engine with this tokenizer's vocabulary."""
    model = FakeModel(tokenizer.vocab_size, seed=seed, scale=scale)
    engine = FakeEngine(model, **options)
    info = ModelInfo(
        name="fake", backend="fake", vocab_size=model.vocab_size, max_positions=engine.max_positions
    )
    return LoadedEngine(engine=engine, tokenizer=tokenizer, info=info)
