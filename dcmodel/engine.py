"""The contract of a local model: logits for a ragged batch, and the KV behind it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from dcmodel.adapters import BASE, LoadedAdapter
from dcmodel.errors import CapabilityError, EngineError
from dcmodel.logits import LogitRows


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do; constant over its life."""

    vocab_size: int
    """Width of a logit row; may exceed the tokenizer's vocabulary (padding) ."""
    max_positions: int
    """Longest sequence, prompt and completion together."""
    max_sequences: int
    """How many sequences may hold KV at a time."""
    kv_tokens: int
    """How many tokens of KV there is room for, over all sequences."""
    max_batch_tokens: int
    """Most tokens in one forward."""
    can_copy: bool = True
    """Whether `copy` works for a part of a sequence (False for recurrent state)."""
    max_branch_tokens: int = 0
    """Most tokens of `Branches` behind one sequence in one forward; 0: it computes none."""
    max_batch_rows: int = 1 << 20
    """Most rows of logits in one forward: they take memory."""
    idle_tokens: int | None = None
    """Where KV that lies idle costs time in each forward: after how many computed tokens it has cost as much
    as computing it anew. None: it costs nothing."""


@dataclass(slots=True)
class Branches:
    """Trees of tokens that grow behind the end of a sequence, and are forgotten after the forward.

    Each token sees the whole sequence (the tokens of its own span included), its ancestors and itself, and
    has the position after its parent's.
    """

    token_ids: Sequence[int]
    """Depth first: a token comes after its parent."""
    parents: Sequence[int]
    """Offset of each token's parent in `token_ids`; -1: the end of the sequence."""
    wanted: Sequence[int]
    """Offsets, ascending, whose logits (for the next token) are wanted."""

    def depths(self) -> list[int]:
        """Of each token: 0 behind the end of the sequence. Raises `EngineError` where these are no trees."""
        count = len(self.token_ids)
        if len(self.parents) != count:
            raise EngineError(f"branches that are no trees: {count} tokens have {len(self.parents)} parents.")
        depths: list[int] = []
        for place, parent in enumerate(self.parents):
            if not -1 <= parent < place:
                raise EngineError(
                    f"branches that are no trees: the parent of token {place} is {parent}, "
                    "which does not come before it."
                )
            depths.append(depths[parent] + 1 if parent >= 0 else 0)
        return depths


@dataclass(slots=True)
class Span:
    """Consecutive tokens of one sequence in one forward, and perhaps branches behind them."""

    sequence: int
    """The engine's handle, from `Engine.allocate`."""
    start: int
    """Position of the first token: how many tokens of this sequence the engine holds."""
    token_ids: Sequence[int]
    wanted: Sequence[int]
    """Offsets into `token_ids`, ascending, whose logits (for the *next* token) are wanted."""
    branches: Branches | None = None
    """Behind the last of `token_ids` (which may be empty here), where the engine computes branches."""
    adapter: int = BASE
    """The handle of the adapter that computes it; the same over a sequence's life, and over its copies'."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) + (len(self.branches.token_ids) if self.branches is not None else 0)

    @property
    def num_rows(self) -> int:
        return len(self.wanted) + (len(self.branches.wanted) if self.branches is not None else 0)


@dataclass(slots=True)
class GenerateBatch:
    """What one forward computes. A sequence occurs in at most one span.

    Logit rows come in the order of the spans and, within a span, of its `wanted`, then of its branches'.
    """

    spans: list[Span] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return sum(span.num_tokens for span in self.spans)

    @property
    def num_rows(self) -> int:
        return sum(span.num_rows for span in self.spans)


def check_span(span: Span, length: int, room: int, limits: Capabilities) -> None:
    """Raise `EngineError` unless `span` continues a sequence of `length` tokens with `room`."""
    end = span.start + len(span.token_ids)
    if span.start != length or end > room:
        raise EngineError(
            f"a span of {len(span.token_ids)} tokens at {span.start} does not continue a sequence of "
            f"{length} tokens with room for {room}."
        )
    if span.branches is None:
        return
    count = len(span.branches.token_ids)
    if count > limits.max_branch_tokens:
        raise EngineError(f"branches of {count} tokens are more than {limits.max_branch_tokens}.")
    depth = max(span.branches.depths(), default=-1) + 1
    if end + depth > limits.max_positions:
        raise EngineError(
            f"branches of depth {depth} behind {end} tokens go past the {limits.max_positions} positions."
        )


class Engine(ABC):
    """A model that computes logits and keeps KV; it knows nothing of requests.

    All methods are called from one thread, the scheduler's. `forward` should release the GIL while
    it computes: masks are filled meanwhile.
    """

    capabilities: Capabilities

    @abstractmethod
    def allocate(self, length: int) -> int | None:
        """A handle with room for `length` tokens, holding none yet; None where nothing is free."""

    @abstractmethod
    def reserve(self, sequence: int, length: int) -> bool:
        """Make room so that `sequence` can hold `length` tokens; False, and nothing changed, if full.

        Branches need none: an engine that keeps them while it computes has room for a batch of them apart.
        """

    @abstractmethod
    def copy(self, source: int, target: int, length: int) -> None:
        """Give `target` (which holds nothing and has room) the first `length` tokens of `source`."""

    @abstractmethod
    def truncate(self, sequence: int, length: int) -> None:
        """Forget all but the first `length` tokens."""

    @abstractmethod
    def free(self, sequence: int) -> None:
        """Give the handle back."""

    @abstractmethod
    def forward(self, batch: GenerateBatch) -> LogitRows:
        """Compute all spans; afterwards each sequence holds ``start + len(token_ids)`` tokens (no branches).

        Room was reserved before. Raises `EngineError` (or whatever the library raises) if it cannot;
        the sequences of the batch then hold what they held before.
        """

    # -- adapters, where the engine has them ----------------------------------------------------------

    def read_adapter(self, source: str) -> LoadedAdapter:
        """Read an adapter and check it against the model; blocks. The one method for any thread: a running
        batch goes on meanwhile. Raises `AdapterLoadError` for what is missing, broken or does not fit, and
        `CapabilityError` for kinds of adapters that the engine cannot compute."""
        raise CapabilityError(f"{type(self).__name__} has no adapters.")

    def mount_adapter(self, adapter: int, loaded: LoadedAdapter) -> None:
        """Spans may name `adapter` (a handle above 0 that was never used before) from now on."""
        raise CapabilityError(f"{type(self).__name__} has no adapters.")

    def unmount_adapter(self, adapter: int) -> None:
        """Forget an adapter; no sequence that was computed with it is left."""
        raise CapabilityError(f"{type(self).__name__} has no adapters.")

    @abstractmethod
    def close(self) -> None:
        """Release memory; no other call follows."""
