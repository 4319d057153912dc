"""The radix tree against a plain scan over all entries."""

from __future__ import annotations

import random

from dcmodel.scheduling.prefix_cache import PrefixCache


def common(left, right) -> int:
    different = (place for place, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
    return next(different, min(len(left), len(right)))


def test_match_finds_the_longest_prefix_among_random_entries():
    rng = random.Random(0)
    for _ in range(200):
        cache, held = PrefixCache(), {}
        for handle in range(rng.randint(1, 25)):
            tokens = [rng.randint(0, 2) for _ in range(rng.randint(1, 12))]
            held[handle] = cache.insert(handle, tokens, len(tokens))
            if held and rng.random() < 0.3:
                gone = rng.choice(list(held))
                cache.remove(held.pop(gone))
        for _ in range(10):
            prompt = [rng.randint(0, 2) for _ in range(rng.randint(1, 12))]
            best = max((common(entry.token_ids, prompt) for entry in held.values()), default=0)
            match = cache.match(prompt)
            assert (match.shared if match else 0) == best
            if match:
                assert common(match.entry.token_ids, prompt) == best
                assert match.entry.handle in held


def test_of_equal_prefixes_the_one_with_most_computed_wins():
    cache = PrefixCache()
    cache.insert(0, [1, 2, 3, 4], 1)
    cache.insert(1, [1, 2, 3, 5], 3)
    match = cache.match([1, 2, 3, 9])
    assert match is not None
    assert (match.entry.handle, match.shared, match.available) == (1, 3, 3)


def test_idle_entries_are_evicted_least_recently_used_first():
    cache = PrefixCache()
    entries = [cache.insert(handle, [handle, 7], 2) for handle in range(4)]
    for entry in entries[:3]:
        cache.retire(entry, entry.token_ids)
    cache.touch(entries[0])
    assert len(cache) == 3
    assert cache.pop_oldest(keep=entries[1]) is entries[2]
    assert cache.pop_oldest() is entries[1]
    assert cache.pop_oldest() is entries[0]
    assert cache.pop_oldest() is None, "a running entry is never evicted"
    assert cache.match([3, 7]) is not None
    assert cache.match([0, 7]) is None


def test_an_idle_entry_ages_while_tokens_are_computed_and_none_looks_at_it():
    cache = PrefixCache()
    entries = [cache.insert(handle, [handle, 7], 2) for handle in range(3)]
    for entry in entries[:2]:
        cache.retire(entry, entry.token_ids)
    cache.clock = 100
    assert cache.pop_older(100) is None
    cache.touch(entries[0])
    cache.clock = 150
    assert cache.pop_older(100) is entries[1]
    assert cache.pop_older(100) is None
    cache.clock = 201
    assert cache.pop_older(100) is entries[0]
    assert cache.pop_older(100) is None, "a running entry has no age"


def test_a_retired_entry_is_found_by_all_that_it_computed():
    cache = PrefixCache()
    entry = cache.insert(0, [1, 2], 0)
    cache.retire(entry, [1, 2, 3, 4, 5])
    match = cache.match([1, 2, 3, 4, 9])
    assert match is not None
    assert match.available == 4


def test_removing_everything_leaves_an_empty_tree():
    rng = random.Random(1)
    cache = PrefixCache()
    entries = [cache.insert(h, [rng.randint(0, 1) for _ in range(rng.randint(1, 9))], 0) for h in range(60)]
    rng.shuffle(entries)
    for entry in entries:
        cache.remove(entry)
    assert cache.match([0]) is None
    assert cache.match([1]) is None
    assert not cache._roots[0].children


def test_each_adapter_has_entries_of_its_own_and_they_go_together():
    cache = PrefixCache()
    entries = [cache.insert(handle, [1, 2, 3], 3, adapter=handle // 2) for handle in range(4)]
    for entry in entries:
        cache.retire(entry, entry.token_ids)
    assert [cache.match([1, 2, 3], adapter).entry.handle // 2 for adapter in (0, 1)] == [0, 1]
    assert cache.match([1, 2, 3], adapter=2) is None
    assert cache.forget(1) == entries[2:]
    assert cache.match([1, 2, 3], adapter=1) is None
    assert cache.match([1, 2, 3]).entry in entries[:2]
    assert len(cache) == 2
    assert cache.forget(5) == []
