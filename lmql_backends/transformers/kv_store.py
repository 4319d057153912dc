"""The KV of all sequences: handles, capacity classes, growth by relocation, the token budget."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from lmql_backends.transformers.kv_segment import LayerShape, Segment

SMALLEST_CAPACITY = 128
# Slots are made in blocks of about this many tokens: long enough runs of neighbours, little left over.
SEGMENT_TOKENS = 4096


@dataclass(slots=True)
class Entry:
    """Where one sequence lies."""

    segment: Segment
    slot: int
    length: int = 0
    """How many tokens it holds."""
    is_poisoned: bool = False
    """Its slot may hold NaN or inf, which a neighbour's padding must never meet: wipe before reuse."""


class KVStore:
    """Slots in capacity classes (powers of two); a sequence that outgrows its slot moves to a larger one.

    The budget counts the capacity of the slots in use. Segments without a live slot are kept for reuse
    while they fit the budget, then released; sparse ones are merged before the store grows past it.
    """

    def __init__(
        self,
        shapes: list[LayerShape],
        *,
        kv_tokens: int,
        max_sequences: int,
        max_length: int,
        device: torch.device,
        smallest_capacity: int = SMALLEST_CAPACITY,
    ) -> None:
        self.shapes = shapes
        self.device = device
        self._kv_tokens = kv_tokens
        self._max_sequences = max_sequences
        self._largest = min(max_length, kv_tokens)
        self._smallest = min(smallest_capacity, self._largest)
        self._segments: dict[int, list[Segment]] = {}
        self._entries: dict[int, Entry] = {}
        self._handles = itertools.count()
        self._used = 0

    def __getitem__(self, handle: int) -> Entry:
        return self._entries[handle]

    @property
    def used_tokens(self) -> int:
        """Capacity of all slots in use."""
        return self._used

    @property
    def held_tokens(self) -> int:
        """Capacity of all slots there are, in use or not."""
        return sum(
            len(segment.owners) * capacity
            for capacity, segments in self._segments.items()
            for segment in segments
        )

    def allocate(self, length: int) -> int | None:
        """A new handle with room for `length` tokens; None if the budget is spent."""
        if len(self._entries) >= self._max_sequences or not self._fits(length, freed=0):
            return None
        handle = next(self._handles)
        segment, slot = self._take(self._capacity(length), handle)
        self._entries[handle] = Entry(segment, slot)
        return handle

    def reserve(self, handle: int, length: int) -> bool:
        """Room for `length` tokens, if need be in a larger slot; False, and no change, if there is none."""
        entry = self._entries[handle]
        if length <= entry.segment.capacity:
            return True
        if not self._fits(length, freed=entry.segment.capacity):
            return False
        self._move(handle, entry, self._capacity(length))
        return True

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` tokens of `source` become the content of `target`, which has room."""
        origin, entry = self._entries[source], self._entries[target]
        if length > origin.length or length > entry.segment.capacity or entry.length:
            raise ValueError(
                f"cannot copy {length} of {origin.length} tokens into a sequence that holds {entry.length} "
                f"and has room for {entry.segment.capacity}."
            )
        origin.segment.copy_slot(origin.slot, entry.segment, entry.slot, length)
        entry.length = length
        entry.is_poisoned |= origin.is_poisoned

    def truncate(self, handle: int, length: int) -> None:
        entry = self._entries[handle]
        if length > entry.length:
            raise ValueError(f"cannot truncate a sequence of {entry.length} tokens to {length}.")
        entry.length = length
        if entry.is_poisoned:
            entry.segment.wipe(entry.slot, length)

    def free(self, handle: int) -> None:
        entry = self._entries.pop(handle)
        self._release(entry)

    def close_gaps(self, handles: list[int]) -> None:
        """Bring sequences that are computed together closer: in each segment, at most one changes place.

        The last of them takes the first slot between them that is none of theirs. That costs as much as
        reading the gap in about five steps.
        """
        places: dict[int, list[Entry]] = {}
        for handle in handles:
            entry = self._entries[handle]
            places.setdefault(id(entry.segment), []).append(entry)
        for entries in places.values():
            taken = {entry.slot for entry in entries}
            last = max(entries, key=lambda entry: entry.slot)
            gap = next((slot for slot in range(min(taken), last.slot) if slot not in taken), None)
            if gap is not None:
                self._exchange(last, gap)

    def _exchange(self, entry: Entry, slot: int) -> None:
        """Let a sequence and whatever is in another slot of its segment change places."""
        segment, old = entry.segment, entry.slot
        neighbour = segment.owners[slot]
        other = None if neighbour is None else self._entries[neighbour]
        if entry.is_poisoned or (other is not None and other.is_poisoned):
            return
        if other is None:
            segment.copy_slot(old, segment, slot, entry.length)
        else:
            segment.exchange(old, slot, max(entry.length, other.length))
            other.slot = old
        entry.slot = slot
        segment.owners[old], segment.owners[slot] = neighbour, segment.owners[old]

    def clear(self) -> None:
        """Forget everything and release the memory."""
        self._entries.clear()
        self._segments.clear()
        self._used = 0

    def _capacity(self, length: int) -> int:
        """The smallest class with room for `length` tokens."""
        capacity = self._smallest
        while capacity < length:
            capacity *= 2
        return min(capacity, self._largest)

    def _fits(self, length: int, *, freed: int) -> bool:
        if length > self._largest:
            return False
        return self._used - freed + self._capacity(length) <= self._kv_tokens

    def _take(self, capacity: int, handle: int) -> tuple[Segment, int]:
        """The lowest free slot of a class, so that live slots are neighbours."""
        segments = self._segments.setdefault(capacity, [])
        segment = next((segment for segment in segments if None in segment.owners), None)
        if segment is None:
            segment = self._grow(capacity)
        slot = segment.owners.index(None)
        segment.owners[slot] = handle
        self._used += capacity
        return segment, slot

    def _release(self, entry: Entry) -> None:
        if entry.is_poisoned:
            entry.segment.wipe(entry.slot, 0)
        entry.segment.owners[entry.slot] = None
        self._used -= entry.segment.capacity

    def _move(self, handle: int, entry: Entry, capacity: int) -> None:
        segment, slot = self._take(capacity, handle)
        entry.segment.copy_slot(entry.slot, segment, slot, entry.length)
        self._release(entry)
        entry.segment, entry.slot = segment, slot

    def _grow(self, capacity: int) -> Segment:
        """A new segment, after making what room there is for it."""
        wanted = max(1, SEGMENT_TOKENS // capacity)
        if self.held_tokens + wanted * capacity > self._kv_tokens:
            self._drop_empty()
            self._merge_sparse()
        slots = min(wanted, max(1, (self._kv_tokens - self.held_tokens) // capacity))
        segment = Segment(self.shapes, capacity=capacity, slots=slots, device=self.device)
        self._segments[capacity].append(segment)
        return segment

    def _drop_empty(self) -> None:
        for capacity, segments in self._segments.items():
            self._segments[capacity] = [segment for segment in segments if segment.live]

    def _merge_sparse(self) -> None:
        """Move the sequences of a class's emptiest segments into free slots of its other segments."""
        for capacity, segments in self._segments.items():
            free = sum(len(segment.owners) - segment.live for segment in segments)
            for segment in sorted(segments, key=lambda segment: segment.live):
                free_elsewhere = free - (len(segment.owners) - segment.live)
                if not segment.live or segment.live > free_elsewhere:
                    continue
                handles = [handle for handle in segment.owners if handle is not None]
                free = free_elsewhere - segment.live
                # Its own free slots must not be taken while it is being emptied.
                segments.remove(segment)
                for handle in handles:
                    self._move(handle, self._entries[handle], capacity)
