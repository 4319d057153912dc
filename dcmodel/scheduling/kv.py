"""Who holds KV in the engine: admission, growth, prefix reuse, eviction."""

from __future__ import annotations

from dcmodel.engine import Engine
from dcmodel.scheduling.prefix_cache import Entry, PrefixCache
from dcmodel.scheduling.sequence import Sequence

# Copying or waiting for fewer shared tokens than this costs more than computing them.
MIN_SHARED = 8
# An idle entry is taken over, not copied, where no more than so many tokens of it are lost by that: the last
# one of a prompt that is asked about again, the token that a session took back.
MAX_LOST = 1
# Room that a sequence gets beyond its present length, if it may grow that far.
HEADROOM = 128


class KVManager:
    """Gives sequences handles in the engine and takes them back; the scheduler's thread owns it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cache = PrefixCache()
        self._idle_tokens = engine.capabilities.idle_tokens

    def must_wait_for_prefix(self, sequence: Sequence) -> bool:
        """Whether another sequence is just computing what this one begins with."""
        if sequence.deferred_on is not None:
            entry, length = sequence.deferred_on
            if entry.node is not None and not entry.idle and entry.computed < length:
                return True
            sequence.deferred_on = None
        usable = _usable(sequence)
        match = self._cache.match(sequence.token_ids[:usable], sequence.adapter)
        if match is None or match.entry.idle or match.shared - match.available < MIN_SHARED:
            return False
        sequence.deferred_on = (match.entry, match.shared)
        return True

    def admit(self, sequence: Sequence) -> bool:
        """Give the sequence a handle, with as much of its prefix as is there; False if nothing is free."""
        usable = _usable(sequence)
        match = self._cache.match(sequence.token_ids[:usable], sequence.adapter)
        reuse = match.available if match is not None else 0
        donor = match.entry if match is not None and reuse else None
        if donor is not None and donor.idle and len(donor.token_ids) - reuse <= MAX_LOST:
            return self._take_over(sequence, donor, reuse)
        if reuse < MIN_SHARED:
            donor, reuse = None, 0
        length = min(sequence.end + HEADROOM, max(sequence.limit, sequence.end))
        handle = self._allocate(length, keep=donor)
        if handle is None and donor is not None and donor.idle:
            return self._take_over(sequence, donor, reuse)
        if handle is None:
            return False
        if donor is not None:
            self._cache.touch(donor)
            self._engine.copy(donor.handle, handle, reuse)
        self._begin(sequence, handle, reuse)
        sequence.is_copy = donor is not None
        return True

    def grow(self, sequence: Sequence) -> bool:
        """Room for everything that the sequence's next step adds; evicts idle prefixes as needed."""
        while not self._engine.reserve(sequence.handle, sequence.end):
            if not self._evict(None):
                return False
        return True

    def release(self, sequence: Sequence) -> None:
        """Free the sequence's handle; nothing of it is kept."""
        assert sequence.entry is not None
        self._cache.remove(sequence.entry)
        self._engine.free(sequence.entry.handle)

    def retire(self, sequence: Sequence) -> None:
        """The sequence has ended: keep what it computed for others, or free it."""
        entry = sequence.entry
        if entry is None:
            return
        if sequence.error is not None or sequence.leaves_nothing_new or not sequence.computed:
            self.release(sequence)
        else:
            self._cache.retire(entry, sequence.token_ids[: sequence.computed])
        sequence.entry = None

    def forget_adapter(self, adapter: int) -> None:
        """No sequence has this adapter any more: free what they left."""
        for entry in self._cache.forget(adapter):
            self._engine.free(entry.handle)

    def count_computed(self, num_tokens: int) -> None:
        """So many tokens are computed in the next forward: let go of idle KV that slows it down.

        Where idle KV costs time (`Capabilities.idle_tokens`), an entry is kept until it has cost what
        computing it anew would cost: never more than twice the best that one who knows the future could do
        (the ski rental problem; Karlin et al. 1988, "Competitive snoopy caching").
        """
        self._cache.clock += num_tokens
        if self._idle_tokens is None:
            return
        while (entry := self._cache.pop_older(self._idle_tokens)) is not None:
            self._engine.free(entry.handle)

    def _take_over(self, sequence: Sequence, donor: Entry, reuse: int) -> bool:
        """An idle entry becomes the sequence's own, without a copy."""
        self._cache.remove(donor)
        if len(donor.token_ids) > reuse:
            self._engine.truncate(donor.handle, reuse)
        self._begin(sequence, donor.handle, reuse)
        if self.grow(sequence):
            return True
        self.release(sequence)
        sequence.preempted()
        return False

    def _begin(self, sequence: Sequence, handle: int, computed: int) -> None:
        sequence.entry = self._cache.insert(handle, sequence.token_ids, computed, sequence.adapter)
        sequence.computed = computed
        sequence.cached_tokens = max(sequence.cached_tokens, min(computed, sequence.prompt_length))

    def _allocate(self, length: int, keep: Entry | None) -> int | None:
        while (handle := self._engine.allocate(length)) is None:
            if not self._evict(keep):
                return None
        return handle

    def _evict(self, keep: Entry | None) -> bool:
        entry = self._cache.pop_oldest(keep)
        if entry is None:
            return False
        self._engine.free(entry.handle)
        return True


def _usable(sequence: Sequence) -> int:
    """How many leading tokens may come from the cache: the row before `ready` must be computed anew."""
    return min(sequence.ready, len(sequence.token_ids)) - 1
