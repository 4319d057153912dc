"""The slot store: budget, classes, neighbours, relocation, lazily committed memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmql_backends.transformers.kv_segment import LayerShape, zeros
from lmql_backends.transformers.kv_store import KVStore

SHAPES = [
    LayerShape(2, 4, 6, torch.float32),
    LayerShape(1, 8, 8, torch.float32),
    LayerShape(2, 4, 6, torch.float32),
]


def make_store(*, kv_tokens=256, max_sequences=32, max_length=100, smallest_capacity=8):
    return KVStore(
        SHAPES,
        kv_tokens=kv_tokens,
        max_sequences=max_sequences,
        max_length=max_length,
        device=torch.device("cpu"),
        smallest_capacity=smallest_capacity,
    )


def fill(store, handle, length, mark):
    entry = store[handle]
    for layer in range(len(SHAPES)):
        entry.segment.keys[layer][entry.slot, :, :, :length] = mark
        entry.segment.values[layer][entry.slot, :, :length] = -mark
    entry.length = length


def holds(store, handle, length, mark):
    entry = store[handle]
    return all(
        bool((entry.segment.keys[layer][entry.slot, :, :, :length] == mark).all())
        and bool((entry.segment.values[layer][entry.slot, :, :length] == -mark).all())
        for layer in range(len(SHAPES))
    )


def test_a_full_store_refuses_and_a_freed_place_is_used_again():
    store = make_store(kv_tokens=32)
    handles = [store.allocate(8) for _ in range(4)]
    assert None not in handles
    assert store.allocate(1) is None
    store.free(handles[2])
    assert store.allocate(8) is not None
    assert store.allocate(8) is None


def test_the_number_of_sequences_is_limited():
    store = make_store(max_sequences=2)
    assert [store.allocate(1) is None for _ in range(3)] == [False, False, True]


def test_reserve_refuses_without_a_change_when_full():
    store = make_store(kv_tokens=32)
    first, second = store.allocate(8), store.allocate(16)
    fill(store, first, 8, 1.0)
    before = (store[first].segment, store[first].slot, store.used_tokens)
    assert not store.reserve(first, 20)
    assert (store[first].segment, store[first].slot, store.used_tokens) == before
    assert holds(store, first, 8, 1.0)
    store.free(second)
    assert store.reserve(first, 20)
    assert holds(store, first, 8, 1.0)


def test_a_lone_sequence_may_grow_to_the_whole_budget():
    store = make_store(kv_tokens=100, max_length=100)
    handle = store.allocate(1)
    for length in (9, 30, 60, 100):
        held = store[handle].segment.capacity
        fill(store, handle, held, float(length))
        assert store.reserve(handle, length)
        assert holds(store, handle, held, float(length))
    assert not store.reserve(handle, 101)


def test_what_is_longer_than_the_model_allows_is_refused():
    assert make_store(max_length=50).allocate(51) is None


def test_new_sequences_take_the_lowest_free_slots():
    store = make_store()
    handles = [store.allocate(8) for _ in range(5)]
    assert [store[handle].slot for handle in handles] == [0, 1, 2, 3, 4]
    store.free(handles[1])
    store.free(handles[3])
    assert [store[store.allocate(8)].slot for _ in range(3)] == [1, 3, 5]


def test_copies_hold_the_same_and_are_independent():
    store = make_store()
    source, target = store.allocate(30), store.allocate(10)
    fill(store, source, 20, 3.0)
    store.copy(source, target, 10)
    fill(store, source, 20, 4.0)
    assert store[target].length == 10
    assert holds(store, target, 10, 3.0)


@pytest.mark.parametrize("length", [9, 30])
def test_a_copy_that_does_not_fit_is_an_error(length):
    store = make_store()
    source, target = store.allocate(20), store.allocate(8)
    fill(store, source, 20, 3.0)
    with pytest.raises(ValueError, match="cannot copy"):
        store.copy(source, target, length)


def test_room_in_one_class_becomes_room_in_another():
    store = make_store(kv_tokens=256, max_length=256)
    small = [store.allocate(8) for _ in range(32)]
    assert store.allocate(100) is None
    for handle in small:
        store.free(handle)
    assert store.allocate(256) is not None
    assert store.held_tokens == 256


def test_sparse_segments_are_merged_before_the_store_grows(monkeypatch):
    monkeypatch.setattr("lmql_backends.transformers.kv_store.SEGMENT_TOKENS", 32)
    store = make_store(kv_tokens=128)
    handles = [store.allocate(8) for _ in range(16)]
    for handle in handles:
        if handle % 4:
            store.free(handle)
    kept = handles[::4]
    for mark, handle in enumerate(kept):
        fill(store, handle, 8, float(mark))
    assert store.held_tokens == 128
    assert store.allocate(64) is not None
    assert store.held_tokens == 32 + 64
    assert all(holds(store, handle, 8, float(mark)) for mark, handle in enumerate(kept))
    assert len({(id(store[handle].segment), store[handle].slot) for handle in kept}) == 4


def test_poisoned_slots_are_wiped_when_they_are_given_back():
    store = make_store()
    handle = store.allocate(8)
    fill(store, handle, 8, float("nan"))
    segment, slot = store[handle].segment, store[handle].slot
    store[handle].is_poisoned = True
    store.truncate(handle, 3)
    assert bool(segment.keys[0][slot, :, :, 3:].isfinite().all())
    assert bool(segment.keys[0][slot, :, :, :3].isnan().all())
    store.free(handle)
    assert all(bool((tensor[slot] == 0).all()) for tensor in (*segment.keys, *segment.values))


def test_gaps_between_sequences_of_a_batch_are_closed_one_by_one():
    store = make_store()
    handles = [store.allocate(8) for _ in range(8)]
    for mark, handle in enumerate(handles):
        fill(store, handle, 3 + mark % 5, float(mark))
    store.free(handles[3])
    together = [handles[1], handles[2], handles[5], handles[7]]
    for _ in range(4):
        store.close_gaps(together)
    assert sorted(store[handle].slot for handle in together) == [1, 2, 3, 4]
    kept = [mark for mark in range(8) if mark != 3]
    assert all(holds(store, handles[mark], 3 + mark % 5, float(mark)) for mark in kept)
    assert len({store[handles[mark]].slot for mark in kept}) == 7
    assert store.allocate(8) is not None


def test_random_use_keeps_the_books():
    store = make_store(kv_tokens=400, max_length=128, max_sequences=20)
    rng = np.random.default_rng(0)
    marks: dict[int, tuple[int, float]] = {}
    for round_ in range(600):
        handles = list(marks)
        action = rng.choice(["allocate", "reserve", "free", "close"]) if handles else "allocate"
        if action == "allocate":
            handle = store.allocate(int(rng.integers(1, 60)))
            if handle is not None:
                fill(store, handle, length := min(5, store[handle].segment.capacity), float(round_))
                marks[handle] = (length, float(round_))
        elif action == "reserve":
            handle = int(rng.choice(handles))
            store.reserve(handle, int(rng.integers(1, 140)))
        elif action == "close":
            store.close_gaps([handle for handle in handles if rng.random() < 0.5])
        else:
            handle = int(rng.choice(handles))
            store.free(handle)
            del marks[handle]
        assert store.used_tokens == sum(store[handle].segment.capacity for handle in marks)
        assert store.used_tokens <= 400
        assert all(holds(store, handle, *kept) for handle, kept in marks.items())


def test_memory_is_committed_as_it_is_written():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    before = resident()
    memory = zeros((1 << 28,), torch.bfloat16, torch.device("cpu"))
    assert memory[12345] == 0
    assert resident() - before < 1 << 26
