"""Trees of candidates: every edge once, in parts of any size, with the same results."""

from __future__ import annotations

import numpy as np
import pytest

from dcmodel.scheduling.candidate_tree import CandidateTree


def random_candidates(rng: np.random.Generator, count: int, *, letters: int = 3, longest: int = 7):
    return [tuple(rng.integers(0, letters, rng.integers(1, longest + 1)).tolist()) for _ in range(count)]


def logprob(path: tuple[int, ...]) -> float:
    """A closed form of a token after a path; the path's own tokens decide it."""
    return -float(hash((17, *path)) % 1009) / 100


def run(tree: CandidateTree, limits) -> list[int]:
    """Compute the tree in parts of these sizes; how many tokens each forward took."""
    sizes = []
    with_top = True
    while not tree.is_done:
        part = tree.part(*limits())
        if part is None and not with_top:
            continue
        branches = part.branches if part is not None else None
        paths: list[tuple[int, ...]] = []
        if branches is not None:
            for place, (token_id, parent) in enumerate(
                zip(branches.token_ids, branches.parents, strict=True)
            ):
                assert -1 <= parent < place
                paths.append((*(paths[parent] if parent >= 0 else ()), token_id))
        rows = [()] * with_top + ([paths[offset] for offset in branches.wanted] if branches else [])
        edges, tokens, places = tree.targets(part, with_top=with_top)
        assert (np.diff(places) >= 0).all()
        assert set(places.tolist()) == set(range(len(rows))), "no row is computed in vain"
        values = [logprob((*rows[place], int(token))) for place, token in zip(places, tokens, strict=True)]
        tree.take(part, edges, np.array(values, dtype=np.float32), tokens + 100 * places, with_top=with_top)
        with_top = False
        sizes.append(len(paths))
    return sizes


@pytest.mark.parametrize("seed", range(20))
def test_parts_of_any_size_give_the_same_results(seed):
    rng = np.random.default_rng(seed)
    candidates = random_candidates(rng, int(rng.integers(1, 60)))
    inner = {item[:end] for item in candidates for end in range(1, len(item))}
    for low, high in ((7, 9), (7, 30), (1000, 1001)):
        tree = CandidateTree(candidates)
        assert tree.num_inner == len(inner)
        sizes = run(tree, lambda low=low, high=high: (int(rng.integers(low, high)), int(rng.integers(1, 40))))
        assert max(sizes) < high
        for candidate, (logprobs, _, tops) in zip(candidates, tree.results(), strict=True):
            expected = [logprob(candidate[: end + 1]) for end in range(len(candidate))]
            np.testing.assert_allclose(logprobs, expected, rtol=1e-6)
            assert tops == []


def test_one_forward_where_everything_fits():
    candidates = random_candidates(np.random.default_rng(0), 100)
    tree = CandidateTree(candidates)
    assert run(tree, lambda: (10_000, 10_000)) == [tree.num_inner]


def test_single_tokens_cost_no_branches():
    tree = CandidateTree([(1,), (5,), (1,)])
    assert tree.num_inner == 0
    assert run(tree, lambda: (64, 64)) == [0]
    assert [item[0] for item in tree.results()] == [
        pytest.approx([logprob((token,))], rel=1e-6) for token in (1, 5, 1)
    ]


def test_too_little_room_gives_no_part():
    tree = CandidateTree([(1, 2, 3, 4, 5), (1, 2, 3, 4, 6)])
    part = tree.part(2, 64)
    assert part.branches.token_ids == [1, 2]
    tree.take(part, *_zeros(tree.targets(part, with_top=True)), with_top=True)
    assert tree.part(2, 64) is None  # two ancestors leave no room for another token
    assert tree.part(3, 64).branches.token_ids == [1, 2, 3]
    assert tree.part(64, 0) is None


def _zeros(targets):
    edges, tokens, _ = targets
    return edges, np.zeros(len(edges), dtype=np.float32), tokens
