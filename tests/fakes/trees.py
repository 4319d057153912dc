"""Random trees of tokens behind a sequence, and the ways through them."""

from __future__ import annotations


def random_parents(rng, count, *, bushy=0.5):
    """Depth first: a token grows on the last one, on one of its ancestors, or behind the sequence."""
    parents, path = [], []
    for place in range(count):
        if rng.random() < bushy:
            del path[int(rng.integers(0, len(path) + 1)) :]
        parents.append(path[-1] if path else -1)
        path.append(place)
    return parents


def paths(branches):
    """The tokens from the end of the sequence to each token, itself included."""
    found = []
    for token_id, parent in zip(branches.token_ids, branches.parents, strict=True):
        found.append([*(found[parent] if parent >= 0 else []), token_id])
    return found
