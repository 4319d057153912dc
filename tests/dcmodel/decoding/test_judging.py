"""Rejection without replacement: the law of the draws, and the expectation of the weight."""

from __future__ import annotations

import numpy as np
import pytest

from dcmodel.decoding.exact import judging
from dcmodel.decoding.exact.judging import Judgements
from dcmodel.decoding.exact.population import effective_size, log_mean, shares, systematic

IDS = np.arange(100, 112)
RUNS = 800


def judge_of(accepted: set[int]):
    return lambda index: int(IDS[index]) in accepted


def some_probs(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(len(IDS), 0.7)) * 0.8  # a mask took the rest


ACCEPTED = {
    "most": set(IDS[[0, 1, 2, 3, 5, 6, 7, 9, 11]].tolist()),
    "few": set(IDS[[4, 8]].tolist()),
    "one": {103},
    "all": set(IDS.tolist()),
}


@pytest.mark.parametrize("max_checks", [1, 8])
@pytest.mark.parametrize("name", ACCEPTED)
def test_weights_are_proper(monkeypatch, name, max_checks):
    """The expectation of weight times [x drawn] is the probability of x, whatever is shared."""
    monkeypatch.setattr(judging, "MAX_CHECKS", max_checks)
    probs, accepted = some_probs(1), ACCEPTED[name]
    rng = np.random.default_rng(max_checks)
    sums = np.zeros((RUNS, len(IDS)))
    masses = np.zeros(RUNS)
    for run in range(RUNS):
        known = Judgements(IDS, probs, judge_of(accepted))
        drawn = known.draw(3 if run % 2 else 1, rng)
        masses[run] = known.mass(rng)
        assert 0.0 < masses[run] <= probs.sum() + 1e-12
        np.add.at(sums[run], drawn, masses[run] / len(drawn))
    expected = np.where(np.isin(IDS, list(accepted)), probs, 0.0)
    # The weight is at most what the mask allows, so the variance is at most that times the expectation.
    errors = np.sqrt(probs.sum() * expected / RUNS)
    assert (np.abs(sums.mean(axis=0) - expected) <= 4.5 * errors).all()
    assert abs(masses.mean() - expected.sum()) <= 4.5 * masses.std(ddof=1) / np.sqrt(RUNS) + 1e-12


def test_an_estimate_that_forgot_the_draw_would_be_seen():
    """Counting what was rejected on the way to x, as if x had not ended it, is biased: the test has power."""
    probs, accepted = some_probs(1), ACCEPTED["most"]
    rng = np.random.default_rng(0)
    naive = []
    for _ in range(RUNS):
        known = Judgements(IDS, probs, judge_of(accepted))
        known.draw(1, rng)
        naive.append(probs[known._status != judging.REFUSED].sum())
    expected = probs[np.isin(IDS, list(accepted))].sum()
    assert abs(np.mean(naive) - expected) > 10 * np.std(naive) / np.sqrt(RUNS)


def test_draws_are_independent_and_from_the_accepted():
    probs, accepted = some_probs(2), ACCEPTED["most"]
    known = Judgements(IDS, probs, judge_of(accepted))
    drawn = known.draw(40_000, np.random.default_rng(0))
    law = np.where(np.isin(IDS, list(accepted)), probs, 0.0)
    law /= law.sum()
    counts = np.bincount(drawn, minlength=len(IDS))
    errors = np.sqrt(law * (1 - law) / len(drawn))
    assert (np.abs(counts / len(drawn) - law) <= 4.5 * errors).all()


def test_each_token_is_judged_once():
    asked = []

    def judge(index: int) -> bool:
        asked.append(index)
        return index % 2 == 0

    known = Judgements(IDS, some_probs(3), judge)
    known.draw(10_000, np.random.default_rng(0))
    mass = known.mass(np.random.default_rng(1))
    assert len(asked) == len(set(asked))
    assert known.is_exact
    assert mass == pytest.approx(some_probs(3)[::2].sum())


def test_a_place_where_all_is_refused_has_no_draw():
    known = Judgements(IDS, some_probs(3), lambda _: False)
    assert len(known.draw(5, np.random.default_rng(0))) == 0
    assert known.known_mass == 0.0


def test_exact_masks_are_not_judged():
    known = Judgements(IDS, some_probs(3), None)
    assert known.is_exact
    assert known.known_mass == pytest.approx(0.8)
    assert len(known.draw(7, np.random.default_rng(0))) == 7


# -- weights ---------------------------------------------------------------------------------------


def test_systematic_resampling_rounds_each_share():
    rng = np.random.default_rng(0)
    for _ in range(50):
        log_weights = rng.normal(size=30) * 3
        log_weights[rng.integers(30)] = -np.inf
        chosen = systematic(log_weights, rng)
        counts = np.bincount(chosen, minlength=30)
        expected = shares(log_weights) * 30
        assert (np.abs(counts - expected) < 1 + 1e-9).all()
        assert (np.diff(chosen) >= 0).all()
        assert counts[log_weights == -np.inf].sum() == 0


def test_systematic_resampling_is_unbiased():
    rng = np.random.default_rng(1)
    log_weights = np.log([0.05, 0.15, 0.35, 0.45])
    counts = np.array([np.bincount(systematic(log_weights, rng), minlength=4) for _ in range(20_000)])
    assert counts.mean(axis=0) == pytest.approx(4 * np.exp(log_weights), abs=0.02)


def test_effective_size():
    assert effective_size(np.zeros(7)) == pytest.approx(7)
    assert effective_size(np.array([0.0, -np.inf, -np.inf])) == pytest.approx(1)
    assert effective_size(np.full(3, -np.inf)) == 0.0
    assert log_mean(np.full(3, -np.inf)) == -np.inf
    assert log_mean(np.log([1.0, 3.0])) == pytest.approx(np.log(2.0))
