"""A radix tree over token ids: which sequence holds KV for which prefix.

Every sequence that has a handle in the engine is an entry, running or idle. Idle entries belong to
nobody: they are kept because a later prompt may begin like them, and evicted least recently used.
The structure is that of SGLang's RadixAttention (Zheng et al. 2024), over whole sequences. Each adapter has
a tree of its own: what one computed is of no use to another.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dcmodel.adapters import BASE


@dataclass(slots=True, eq=False)
class Entry:
    """One sequence's KV: `token_ids[:computed]` is there, the rest is being computed."""

    handle: int
    token_ids: tuple[int, ...]
    computed: int
    idle: bool = False
    last_used: int = 0
    """When it became idle, or was last copied from: a reading of the cache's clock."""
    node: _Node | None = None
    adapter: int = BASE
    """The handle of the adapter that computed it."""


@dataclass(slots=True, eq=False)
class _Node:
    edge: tuple[int, ...]
    parent: _Node | None
    children: dict[int, _Node] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Match:
    """The best donor for a prompt."""

    entry: Entry
    shared: int
    """How many leading tokens the entry and the prompt have in common."""

    @property
    def available(self) -> int:
        """How many of them are computed already."""
        return min(self.shared, self.entry.computed)


# How many entries below the matched node are looked at to find the one with most KV computed.
CANDIDATES = 8


class PrefixCache:
    """Entries by prefix. Not thread-safe: the scheduler's thread owns it."""

    def __init__(self) -> None:
        self._roots: dict[int, _Node] = {}
        self._idle: OrderedDict[int, Entry] = OrderedDict()
        self.clock = 0
        """How many tokens were computed so far; the owner sets it."""

    def __len__(self) -> int:
        """Number of idle entries."""
        return len(self._idle)

    def insert(self, handle: int, token_ids: Sequence[int], computed: int, adapter: int = BASE) -> Entry:
        """Add a running sequence; update its `computed` as it goes."""
        entry = Entry(handle, tuple(token_ids), computed, adapter=adapter)
        self._link(entry)
        return entry

    def retire(self, entry: Entry, token_ids: Sequence[int]) -> None:
        """The sequence has ended and leaves `token_ids`, all computed, to whoever can use them."""
        self._unlink(entry)
        entry.token_ids = tuple(token_ids)
        entry.computed = len(entry.token_ids)
        entry.idle = True
        entry.last_used = self.clock
        self._link(entry)
        self._idle[entry.handle] = entry

    def remove(self, entry: Entry) -> None:
        """Forget an entry; its handle is the caller's again."""
        self._unlink(entry)
        self._idle.pop(entry.handle, None)
        entry.idle = False

    def touch(self, entry: Entry) -> None:
        """Mark an idle entry as just used."""
        if entry.idle:
            entry.last_used = self.clock
            self._idle.move_to_end(entry.handle)

    def pop_older(self, age: int) -> Entry | None:
        """Remove and return an idle entry that was unused while more than `age` tokens were computed."""
        oldest = next(iter(self._idle.values()), None)
        if oldest is None or self.clock - oldest.last_used <= age:
            return None
        self.remove(oldest)
        return oldest

    def pop_oldest(self, keep: Entry | None = None) -> Entry | None:
        """Remove and return the idle entry that was unused for longest, except `keep`."""
        for entry in self._idle.values():
            if entry is not keep:
                self.remove(entry)
                return entry
        return None

    def forget(self, adapter: int) -> list[Entry]:
        """Remove and return all that an adapter left; none of its sequences runs."""
        found = [entry for entry in self._idle.values() if entry.adapter == adapter]
        for entry in found:
            self.remove(entry)
        self._roots.pop(adapter, None)
        return found

    def match(self, token_ids: Sequence[int], adapter: int = BASE) -> Match | None:
        """The entry that shares the longest prefix, among equals the one with most of it computed."""
        tokens = tuple(token_ids)
        root = self._roots.get(adapter)
        if root is None:
            return None
        node, shared = root, 0
        while shared < len(tokens):
            child = node.children.get(tokens[shared])
            if child is None:
                break
            node = child
            common = _common_prefix(child.edge, tokens[shared : shared + len(child.edge)])
            shared += common
            if common < len(child.edge):
                break
        if not shared:
            return None
        best: Entry | None = None
        for entry in self._below(node):
            if best is None or _preference(entry, shared) > _preference(best, shared):
                best = entry
        return None if best is None else Match(best, shared)

    def _below(self, node: _Node) -> Iterator[Entry]:
        """At most `CANDIDATES` entries at or below `node`, nearest first."""
        queue, found = [node], 0
        for current in queue:
            for entry in current.entries:
                yield entry
                found += 1
                if found == CANDIDATES:
                    return
            queue.extend(current.children.values())

    def _link(self, entry: Entry) -> None:
        node, rest = self._roots.setdefault(entry.adapter, _Node((), None)), entry.token_ids
        while rest:
            child = node.children.get(rest[0])
            if child is None:
                child = _Node(rest, node)
                node.children[rest[0]] = child
                node, rest = child, ()
                break
            common = _common_prefix(child.edge, rest)
            if common < len(child.edge):
                child = _split(child, common)
            node, rest = child, rest[common:]
        node.entries.append(entry)
        entry.node = node

    def _unlink(self, entry: Entry) -> None:
        node, entry.node = entry.node, None
        if node is None:
            return
        node.entries.remove(entry)
        while node.parent is not None and not node.entries and not node.children:
            parent = node.parent
            del parent.children[node.edge[0]]
            node = parent
        if node.parent is not None and not node.entries and len(node.children) == 1:
            _merge_with_child(node)


def _preference(entry: Entry, shared: int) -> tuple[int, bool, int]:
    """Most computed first; then idle ones that hold exactly this prefix, to be taken over in place."""
    available = min(shared, entry.computed)
    return (available, entry.idle, -len(entry.token_ids))


def _common_prefix(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    size = min(len(left), len(right))
    if left[:size] == right[:size]:
        return size
    low, high = 0, size  # left[:low] is equal, left[:high] is not
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _split(node: _Node, at: int) -> _Node:
    """Insert a node after the first `at` tokens of `node`'s edge; return it."""
    parent = node.parent
    assert parent is not None
    upper = _Node(node.edge[:at], parent, {node.edge[at]: node})
    parent.children[upper.edge[0]] = upper
    node.edge = node.edge[at:]
    node.parent = upper
    return upper


def _merge_with_child(node: _Node) -> None:
    (child,) = node.children.values()
    parent = node.parent
    assert parent is not None
    child.edge = node.edge + child.edge
    child.parent = parent
    parent.children[child.edge[0]] = child
