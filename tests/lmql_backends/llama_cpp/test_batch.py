"""Trees of tokens as tokens of several sequences."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lmql_backends.llama_cpp.batch import count_leaves, leaf_sequences


@st.composite
def forests(draw):
    """Parents of tokens, depth first."""
    parents, path = [], []
    for place in range(draw(st.integers(0, 40))):
        depth = draw(st.integers(0, len(path)))
        del path[depth:]
        parents.append(path[-1] if path else -1)
        path.append(place)
    return parents


@given(forests())
def test_a_token_is_in_the_sequences_of_the_leaves_below_it(parents):
    leaves = [place for place in range(len(parents)) if place not in parents]
    assert count_leaves(parents) == len(leaves)
    ids = range(100, 100 + len(leaves))
    found = leaf_sequences(parents, ids)
    below = {place: set() for place in range(len(parents))}
    for leaf, leaf_id in zip(leaves, ids, strict=True):
        place = leaf
        while place >= 0:
            below[place].add(leaf_id)
            place = parents[place]
    assert [set(each) for each in found] == list(below.values())
    assert all(len(set(each)) == len(each) for each in found)
