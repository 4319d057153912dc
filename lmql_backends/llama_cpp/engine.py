"""An engine over llama.cpp: many sequences in one context, prefixes shared without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dcmodel.adapters import BASE, LoadedAdapter
from dcmodel.engine import Capabilities, Engine, GenerateBatch, Span, check_span
from dcmodel.logits import Floats
from dcmodel.sampler import NumpyLogitRows
from lmql_backends.llama_cpp.batch import DecodeBatch, count_leaves, leaf_sequences
from lmql_backends.llama_cpp.cells import CellCount, Run
from lmql_backends.llama_cpp.context import EVERYTHING, LlamaContext
from lmql_backends.llama_cpp.mounted_adapters import MountedAdapters


@dataclass(slots=True, eq=False)
class Held:
    """A sequence of the engine."""

    room: int
    """How many tokens it was promised."""
    token_ids: list[int] = field(default_factory=list)
    run: Run | None = None
    in_context: int = 0
    """How many of its tokens the context holds; the others are computed again when they are needed."""
    adapter: int = BASE
    """What computes it."""


class LlamaCppEngine(Engine):
    """Computes ragged batches with one `llama_decode` each (one for each adapter in it).

    A sequence keeps its token ids: what the context lost, or never could keep, is computed again from them.
    """

    def __init__(
        self,
        context: LlamaContext,
        capabilities: Capabilities,
        adapters: MountedAdapters,
        *,
        stream_tokens: int | None = None,
    ) -> None:
        """`stream_tokens`: how many cells each sequence has for itself; None where all share one cache.

        Branches need a sequence of the context for each of their leaves, at most one per token.
        """
        self.capabilities = capabilities
        self._stream_tokens = stream_tokens
        # A copy of a part shares its cells; elsewhere the whole is copied, and cut where that is possible.
        self._shares_parts = capabilities.can_copy and stream_tokens is None
        self._context = context
        self._adapters = adapters
        first = capabilities.max_sequences
        self._leaves = range(first, first + capabilities.max_branch_tokens)
        self._free = list(range(first - 1, -1, -1))
        self._held: dict[int, Held] = {}
        self._cells = CellCount()
        self._promised = 0
        """Cells that sequences may still take, all together."""

    def allocate(self, length: int) -> int | None:
        if not self._free or not self._fits(length, length):
            return None
        sequence = self._free.pop()
        self._held[sequence] = Held(length)
        self._promised += length
        return sequence

    def reserve(self, sequence: int, length: int) -> bool:
        held = self._held[sequence]
        more = max(0, length - held.room)
        if not self._fits(length, more):
            return False
        held.room += more
        self._promised += more
        return True

    def copy(self, source: int, target: int, length: int) -> None:
        origin, held = self._held[source], self._held[target]
        if length > len(origin.token_ids) or length > held.room or held.token_ids:
            raise ValueError(
                f"cannot copy {length} of {len(origin.token_ids)} tokens into a sequence that holds "
                f"{len(held.token_ids)} and has room for {held.room}."
            )
        held.token_ids = origin.token_ids[:length]
        held.adapter = origin.adapter
        self._promised -= length
        if length <= origin.in_context:
            self._context.share(source, target, length if self._shares_parts else EVERYTHING)
            held.in_context = origin.in_context
            if not self._shares_parts:
                self._forget_from(target, length)
            held.in_context = min(held.in_context, length)
        if held.in_context == length:
            held.run = self._cells.share(origin.run, length)
        else:
            held.run = self._cells.append(None, length)

    def truncate(self, sequence: int, length: int) -> None:
        held = self._held[sequence]
        removed = len(held.token_ids) - length
        if removed < 0:
            raise ValueError(f"cannot truncate a sequence of {len(held.token_ids)} tokens to {length}.")
        del held.token_ids[length:]
        held.run = self._cells.truncate(held.run, length)
        self._promised += removed
        if held.in_context > length:
            self._forget_from(sequence, length)

    def free(self, sequence: int) -> None:
        held = self._held.pop(sequence)
        self._context.remove(sequence)
        self._cells.release(held.run)
        self._promised -= held.room - len(held.token_ids)
        self._free.append(sequence)

    def forward(self, batch: GenerateBatch) -> NumpyLogitRows:
        for span in batch.spans:
            held = self._held[span.sequence]
            check_span(span, len(held.token_ids), held.room, self.capabilities)
            held.adapter = span.adapter
        rows = self._compute(batch.spans)
        if rows.size and np.isnan(rows[:, 0]).any():
            rows = self._compute_apart(batch.spans)
        for span in batch.spans:
            self._extend(self._held[span.sequence], span.token_ids)
        return NumpyLogitRows(rows)

    def read_adapter(self, source: str) -> LoadedAdapter:
        return self._adapters.read(source)

    def mount_adapter(self, adapter: int, loaded: LoadedAdapter) -> None:
        self._adapters.mount(adapter, loaded)

    def unmount_adapter(self, adapter: int) -> None:
        self._adapters.unmount(adapter)

    def close(self) -> None:
        self._held.clear()
        self._context.close()

    def _fits(self, length: int, more: int) -> bool:
        """Whether there is room for `more` cells, for a sequence of `length` tokens then."""
        if self._stream_tokens is not None:
            return length <= self._stream_tokens
        return self._cells.used + self._promised + more <= self.capabilities.kv_tokens

    def _extend(self, held: Held, token_ids: Sequence[int]) -> None:
        held.token_ids += token_ids
        held.run = self._cells.append(held.run, len(token_ids))
        self._promised -= len(token_ids)

    # -- computing ---------------------------------------------------------------------------------

    def _compute(self, spans: list[Span]) -> Floats:
        """The rows of the spans; on a failure the context holds of them what it held before."""
        try:
            groups = self._adapters.groups(spans)
            if len(groups) == 1:
                return self._compute_group(next(iter(groups)), spans)
            found: list[Floats] = [np.zeros((0, 0), dtype=np.float32)] * len(spans)
            for adapter, places in groups.items():
                group = [spans[place] for place in places]
                rows = self._compute_group(adapter, group).copy()
                ends = np.cumsum([span.num_rows for span in group])
                for place, part in zip(places, np.split(rows, ends[:-1]), strict=True):
                    found[place] = part
            return np.concatenate(found)
        except BaseException:
            for span in spans:
                self._forget_from(span.sequence, span.start)
            raise

    def _compute_group(self, adapter: int, spans: list[Span]) -> Floats:
        """The rows of spans that share an adapter."""
        self._adapters.use(adapter)
        for span in spans:
            self._catch_up(span.sequence)
        parts = self._parts(spans)
        if len(parts) == 1:
            return self._decode(parts[0])
        return np.concatenate([self._decode(part).copy() for part in parts])

    def _parts(self, spans: list[Span]) -> list[list[Span]]:
        """Cut the batch where its branches have more leaves than there are sequences for them."""
        parts: list[list[Span]] = [[]]
        free = len(self._leaves)
        for span in spans:
            leaves = count_leaves(span.branches.parents) if span.branches is not None else 0
            if leaves > free:
                parts.append([])
                free = len(self._leaves)
            free -= leaves
            parts[-1].append(span)
        return parts

    def _decode(self, spans: list[Span]) -> Floats:
        batch = DecodeBatch()
        leaves = self._leaves
        used = 0
        try:
            for span in spans:
                if span.branches is None:
                    batch.add_run(span.token_ids, span.start, [span.sequence], span.wanted)
                    continue
                count = count_leaves(span.branches.parents)
                own = leaves[used : used + count]
                used += count
                if span.start:
                    for leaf in own:
                        self._context.share(span.sequence, leaf)
                batch.add_run(span.token_ids, span.start, [span.sequence, *own], span.wanted)
                end = span.start + len(span.token_ids)
                batch.add_tree(span.branches, end, leaf_sequences(span.branches.parents, own))
            rows = self._context.decode(batch)
        finally:
            for leaf in leaves[:used]:
                self._context.remove(leaf)
        for span in spans:
            self._held[span.sequence].in_context = span.start + len(span.token_ids)
        return rows

    def _catch_up(self, sequence: int) -> None:
        """Compute again what the context does not hold of a sequence's tokens."""
        held = self._held[sequence]
        while held.in_context < len(held.token_ids):
            start = held.in_context
            token_ids = held.token_ids[start : start + self.capabilities.max_batch_tokens]
            batch = DecodeBatch()
            batch.add_run(token_ids, start, [sequence], ())
            self._context.decode(batch)
            held.in_context = start + len(token_ids)

    def _forget_from(self, sequence: int, length: int) -> None:
        """Take whatever the context holds of a sequence beyond `length` tokens out of it."""
        held = self._held[sequence]
        if self._context.remove(sequence, length):
            held.in_context = min(held.in_context, length)
        else:  # a recurrent state
            self._context.remove(sequence)
            held.in_context = 0

    def _compute_apart(self, spans: list[Span]) -> Floats:
        """Each span with nothing else in the context, so that none sees what another one spoilt.

        Attention in one cache adds all cells, those of other sequences times zero: a NaN in one of them,
        even in one that nobody holds any more, is a NaN for all.
        """
        rows = []
        for span in spans:
            self._wipe()
            rows.append(self._compute([span]).copy())
        self._wipe()
        return np.concatenate(rows)

    def _wipe(self) -> None:
        self._context.wipe()
        self._cells = CellCount()
        for held in self._held.values():
            held.in_context = 0
            # What is computed again is shared no more.
            held.run = self._cells.append(None, len(held.token_ids))
