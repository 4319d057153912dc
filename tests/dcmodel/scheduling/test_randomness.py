"""Counter-based numbers are uniform, and depend on their own seed and position only."""

from __future__ import annotations

import numpy as np

from dcmodel.scheduling.randomness import uniforms


def numbers(seeds, positions):
    return uniforms(np.array(seeds, dtype=np.uint64), np.array(positions, dtype=np.uint64))


def test_a_number_does_not_depend_on_its_neighbours():
    alone = numbers([7], [3])
    assert numbers([1, 7, 2**64 - 1], [9, 3, 0])[1] == alone[0]


def test_numbers_are_uniform_along_positions_and_along_seeds():
    count = 20_000
    along = range(count)
    for values in (numbers([5] * count, along), numbers(along, [5] * count), numbers(along, along)):
        assert values.min() >= 0
        assert values.max() < 1
        histogram = np.histogram(values, bins=50, range=(0, 1))[0]
        chi_squared = ((histogram - count / 50) ** 2 / (count / 50)).sum()
        assert chi_squared < 100  # 49 degrees of freedom: p < 2e-5
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03
