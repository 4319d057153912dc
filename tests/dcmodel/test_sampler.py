"""The numpy sampler gives what the plain one gives, row by row, and only reads the logits."""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import pytest
from fakes.plain_sampler import PlainLogitRows
from fakes.sample_plans import NO_TRIPLES, make_plan, pack, random_triples
from hypothesis import given, settings
from hypothesis import strategies as st

from dcmodel.logits import SampledRows
from dcmodel.mask import mask_words, row_allows
from dcmodel.sampler import NumpyLogitRows
from dcmodel.sampler.row_ops import relative_weights
from dcmodel.sampler.token_masks import TokenMasks

EDGE = 1e-6
"""How near the edge between two tokens a uniform number may make a difference."""
CLOSE = 2e-6
"""Nats, besides the rounding of the result."""


def masked_plan(allowed, **changes):
    size, vocab_size = allowed.shape
    given = {"bitmask": pack(allowed), "is_masked": np.ones(size, dtype=np.bool_), **changes}
    return make_plan(range(size), vocab_size, **given)


def some(rng, chance, size, values, otherwise):
    return np.where(rng.random(size) < chance, values, otherwise)


def random_plan(rng, num_rows, vocab_size):
    size = int(rng.integers(1, 9))
    density = rng.choice([0.0, 0.001, 0.02, 0.1, 0.5, 0.99, 1.0], size=size)
    allowed = rng.random((size, vocab_size)) < density[:, None]
    words = mask_words(vocab_size) + int(rng.choice([0, 0, -1, -2, 1, 40]))
    uniform = some(rng, 0.8, size, rng.random(size), rng.choice([0.0, 1 - 2**-53], size))
    return make_plan(
        rng.integers(0, num_rows, size),
        vocab_size,
        bitmask=pack(allowed, max(0, words)),
        is_masked=rng.random(size) < rng.choice([0.0, 0.5, 1.0]),
        temperature=some(
            rng, rng.choice([0.0, 0.5, 1.0]), size, rng.choice([1e-6, 0.05, 0.7, 1.0, 2.0, 1e6], size), 0
        ).astype(np.float32),
        top_k=some(rng, 0.3, size, rng.choice([1, 2, 7, 80, 3000], size), 0),
        top_p=some(rng, 0.5, size, rng.choice([1e-6, 0.1, 0.5, 0.95, 0.9999], size), 1).astype(np.float32),
        min_p=some(rng, 0.3, size, rng.choice([1e-9, 0.01, 0.3, 1.0], size), 0).astype(np.float32),
        uniform=uniform,
        repetition=random_triples(rng, size, vocab_size, 0.8, 1.5) if rng.random() < 0.3 else NO_TRIPLES,
        bias=random_triples(rng, size, vocab_size, -4, 4) if rng.random() < 0.3 else NO_TRIPLES,
        want_logprobs=bool(rng.random() < 0.5),
        top_logprobs=int(rng.choice([0, 0, 1, 5, 300])),
    )


def random_logits(rng, num_rows, vocab_size):
    """Rows on a grid, so that what is not a tie is none after rounding; some with -inf, NaN, +inf."""
    scale = rng.choice([0.3, 3.0, 12.0])
    grid = rng.choice([1 / 1024, 0.5, 4.0])
    logits = (np.round(rng.normal(0, scale, (num_rows, vocab_size)) / grid) * grid).astype(np.float32)
    logits[rng.random(logits.shape) < rng.choice([0.0, 0.0, 0.5])] = -np.inf
    for row in range(num_rows):
        kind = rng.random()
        if kind < 0.1:
            logits[row] = -np.inf
        elif kind < 0.3:
            logits[row, rng.integers(vocab_size)] = rng.choice([np.nan, -np.nan, np.inf])
        elif kind < 0.5:
            logits[row, rng.integers(vocab_size)] = 40.0
    return logits


def assert_same(logits, plan):
    before = logits.copy()
    rows = NumpyLogitRows(logits)
    found = rows.sample(plan)
    np.testing.assert_array_equal(logits, before)
    expected = PlainLogitRows(logits).sample(plan)
    np.testing.assert_array_equal(found.is_finite, expected.is_finite)
    np.testing.assert_array_equal(found.has_choice, expected.has_choice)
    different = np.flatnonzero(found.token_ids != expected.token_ids)
    for place in different:
        assert_near(logits, plan, place, found.token_ids[place])
    assert_same_logprobs(found, expected, np.setdiff1d(np.arange(len(plan.rows)), different))


def assert_same_logprobs(found: SampledRows, expected: SampledRows, same_tokens):
    for name in ("raw_logprob", "masked_logprob"):
        here, there = getattr(found, name)[same_tokens], getattr(expected, name)[same_tokens]
        np.testing.assert_allclose(here, there, rtol=1e-6, atol=2 * CLOSE, err_msg=name)
    np.testing.assert_allclose(found.log_mass, expected.log_mass, rtol=1e-6, atol=2 * CLOSE)
    for name in ("top_raw", "top_masked"):
        (ids, values), (expected_ids, expected_values) = getattr(found, name), getattr(expected, name)
        np.testing.assert_array_equal(ids, expected_ids, err_msg=name)
        np.testing.assert_allclose(values, expected_values, rtol=1e-6, atol=2 * CLOSE, err_msg=name)


def assert_near(logits, plan, place, token_id):
    """Float32 sums cannot tell how near an edge is: draws ascend with `uniform`."""
    near = []
    for shift, cut in product((-EDGE, 0.0, EDGE), repeat=2):
        top_p = plan.top_p + np.float32(cut) if plan.top_p[place] < 1 else plan.top_p
        uniform = np.clip(plan.uniform + shift, 0.0, 1.0 - 2**-53)
        moved = dataclasses.replace(plan, uniform=uniform, top_p=top_p)
        near.append(PlainLogitRows(logits).sample(moved).token_ids[place])
    # At the end are tokens that no uniform number below 1 draws.
    last = logits.shape[1] if plan.uniform[place] + EDGE >= 1.0 else max(near)
    assert min(near) <= token_id <= last
    assert logits[plan.rows[place], token_id] > -np.inf
    if plan.is_masked[place]:
        assert row_allows(plan.bitmask[place], int(token_id))


# -- against the plain form ----------------------------------------------------------------------------


@pytest.mark.parametrize("vocab_size", [1, 3, 31, 70, 700, 4099, 9000])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_draws_and_log_probabilities_agree_with_the_plain_form(vocab_size, seed):
    rng = np.random.default_rng(seed)
    logits = random_logits(rng, 5, vocab_size)
    for _ in range(3):
        assert_same(logits, random_plan(rng, 5, vocab_size))


@pytest.mark.parametrize("vocab_size", [1, 3, 70, 700, 4099])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_scores_agree_with_the_plain_form(vocab_size, seed):
    rng = np.random.default_rng(seed)
    logits = random_logits(rng, 6, vocab_size)
    before = logits.copy()
    # A token tree: many targets in one row, few in the others.
    rows = np.concatenate([rng.integers(0, 6, int(rng.integers(0, 20))), np.full(rng.integers(0, 40), 3)])
    rng.shuffle(rows)
    targets = rng.integers(0, vocab_size, len(rows))
    count = int(rng.choice([0, 1, 5, 100]))
    found = NumpyLogitRows(logits).score(rows, targets, count)
    expected = PlainLogitRows(logits).score(rows, targets, count)
    np.testing.assert_array_equal(logits, before)
    np.testing.assert_array_equal(found.is_finite, expected.is_finite)
    np.testing.assert_array_equal(found.rank, expected.rank)
    np.testing.assert_array_equal(found.top[0], expected.top[0])
    np.testing.assert_allclose(found.logprob, expected.logprob, rtol=1e-6, atol=2 * CLOSE)
    np.testing.assert_allclose(found.top[1], expected.top[1], rtol=1e-6, atol=2 * CLOSE)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [2, 0, 2], [1], []])
def test_whole_distributions_agree_with_the_plain_form(rows):
    rng = np.random.default_rng(6)
    logits = rng.normal(0, 3, (4, 5000)).astype(np.float32)
    logits[1, 7] = -np.inf
    before = logits.copy()
    found = NumpyLogitRows(logits).log_softmax(np.array(rows, dtype=np.int64))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, PlainLogitRows(logits).log_softmax(rows), rtol=1e-6, atol=CLOSE)
    found[:] = 0.0  # the caller's own
    np.testing.assert_array_equal(logits, before)


def test_a_distribution_that_is_none_is_nan_throughout():
    logits = np.zeros((4, 50), dtype=np.float32)
    logits[0, 3], logits[2, 4], logits[3] = np.nan, np.inf, -np.inf
    found = NumpyLogitRows(logits).log_softmax(np.arange(4))
    assert np.isnan(found[[0, 2, 3]]).all()
    np.testing.assert_allclose(found[1], -np.log(50), rtol=1e-6)


# -- how exact ------------------------------------------------------------------------------------------


def exact_log_sum(logits):
    largest = logits.max()
    return largest + np.log(np.exp(logits.astype(np.float64) - largest).sum())


@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("vocab_size", [1000, 32_000, 200_064])
def test_log_probabilities_are_within_2e_6_nats_of_double_precision(vocab_size, scale):
    rng = np.random.default_rng(vocab_size)
    logits = rng.normal(15, scale, (1, vocab_size)).astype(np.float32)
    allowed = rng.random(logits.shape) < 0.5
    plan = masked_plan(allowed, top_logprobs=5)
    rows = NumpyLogitRows(logits)
    found = rows.sample(plan)
    exact = logits[0].astype(np.float64) - exact_log_sum(logits[0])
    log_mass = exact_log_sum(exact[allowed[0]])
    token = found.token_ids[0]
    for value, wanted in (
        (found.raw_logprob[0], exact[token]),
        (found.log_mass[0], log_mass),
        (found.masked_logprob[0], exact[token] - log_mass),
        (found.top_raw[1][0], exact[found.top_raw[0][0]]),
        (found.top_masked[1][0], exact[found.top_masked[0][0]] - log_mass),
        (rows.score(np.zeros(1, int), np.array([7]), 0).logprob[0], exact[7]),
    ):
        np.testing.assert_allclose(value, wanted, atol=CLOSE, rtol=6e-8)
    whole = rows.log_softmax(np.arange(1))[0]
    np.testing.assert_allclose(whole, exact, atol=CLOSE, rtol=6e-8)


@pytest.mark.parametrize("settings_of", [{}, {"top_p": 0.95}, {"min_p": 0.001}, {"top_k": 500}])
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_draws_follow_the_distribution(scale, settings_of):
    rng = np.random.default_rng(3)
    logits = rng.normal(0, scale, (1, 3000)).astype(np.float32)
    size = 4000
    columns = {name: np.full(size, value, dtype=np.float32) for name, value in settings_of.items()}
    plan = make_plan(
        np.zeros(size),
        3000,
        temperature=np.full(size, 0.8, dtype=np.float32),
        uniform=(np.arange(size) + 0.5) / size,
        want_logprobs=False,
        **columns,
    )
    found = NumpyLogitRows(logits).sample(plan).token_ids
    weights = np.exp(logits[0].astype(np.float64) / np.float32(0.8))
    order = np.argsort(-weights)
    before = np.cumsum(weights[order]) - weights[order]
    is_cut = before >= settings_of.get("top_p", 1.0) * weights.sum()
    is_cut |= np.arange(3000) >= settings_of.get("top_k", 3000)
    weights[order[is_cut]] = 0
    weights[weights < settings_of.get("min_p", 0.0) * weights.max()] = 0
    # Stratified uniform numbers: each count is within one of its expectation.
    expected = size * weights / weights.sum()
    np.testing.assert_allclose(np.bincount(found, minlength=3000), expected, atol=1.1)
    assert (np.diff(found) >= 0).all()


# -- the corners ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [3, 7])
def test_a_bad_logit_counts_even_where_the_mask_forbids_it(bad, place):
    logits = np.zeros((1, 300), dtype=np.float32)
    logits[0, 7] = bad
    allowed = np.zeros((1, 300), dtype=np.bool_)
    allowed[0, place] = True
    found = NumpyLogitRows(logits).sample(masked_plan(allowed, top_logprobs=2))
    assert (found.is_finite[0], found.has_choice[0], found.token_ids[0]) == (False, False, -1)
    assert (found.top_raw[0] == -1).all()


def test_a_bad_row_leaves_its_neighbours_alone():
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 3, (5, 1000)).astype(np.float32)
    plan = make_plan(
        range(5),
        1000,
        temperature=np.asarray([0, 0, 1, 1, 0.7], dtype=np.float32),
        top_p=np.asarray([1, 1, 1, 0.9, 0.9], dtype=np.float32),
        uniform=rng.random(5),
        top_logprobs=3,
    )
    clean = NumpyLogitRows(logits).sample(plan)
    for row, bad in product(range(5), (np.nan, np.inf)):
        spoilt = logits.copy()
        spoilt[row, 998] = bad
        found = NumpyLogitRows(spoilt).sample(plan)
        others = np.arange(5) != row
        assert found.is_finite.tolist() == others.tolist()
        assert found.token_ids[row] == -1
        np.testing.assert_array_equal(found.token_ids[others], clean.token_ids[others])
        np.testing.assert_array_equal(found.raw_logprob[others], clean.raw_logprob[others])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("allowed_share", [0.0, 0.01, 0.5])
def test_a_mask_that_leaves_nothing_possible_is_no_choice(temperature, allowed_share):
    logits = np.zeros((1, 3000), dtype=np.float32)
    allowed = np.zeros((1, 3000), dtype=np.bool_)
    count = int(3000 * allowed_share)
    logits[0, :count], allowed[0, :count] = -np.inf, True
    plan = masked_plan(allowed, temperature=np.full(1, temperature, dtype=np.float32), top_logprobs=2)
    found = NumpyLogitRows(logits).sample(plan)
    assert (found.is_finite[0], found.has_choice[0], found.token_ids[0]) == (True, False, -1)
    assert (found.top_masked[0] == -1).all()
    assert found.top_raw[0].tolist() == [[count, count + 1]]


def test_a_row_without_any_possible_token_is_no_choice_and_has_no_score():
    logits = np.full((1, 500), -np.inf, dtype=np.float32)
    rows = NumpyLogitRows(logits)
    found = rows.sample(make_plan([0], 500, top_logprobs=2))
    assert (found.is_finite[0], found.has_choice[0], found.token_ids[0]) == (True, False, -1)
    scored = rows.score(np.zeros(1, int), np.zeros(1, int), 2)
    assert (scored.is_finite[0], scored.logprob[0]) == (False, 0.0)


@pytest.mark.parametrize("vocab_size", [300, 5000])
@pytest.mark.parametrize(("words", "best"), [(2, 63), (5, 159), (1000, None), (0, -1)])
def test_mask_words_may_be_fewer_or_more_than_the_logits_need(vocab_size, words, best):
    logits = np.arange(vocab_size, dtype=np.float32)[None, :]
    mask = np.full((1, words), -1, dtype=np.int32)
    found = NumpyLogitRows(logits).sample(
        make_plan([0], vocab_size, bitmask=mask, is_masked=np.asarray([True]), top_logprobs=3)
    )
    expected = vocab_size - 1 if best is None else best
    assert found.token_ids[0] == found.top_masked[0][0, 0] == expected


@pytest.mark.parametrize("allowed_share", [0.02, 0.9])
def test_the_same_rows_may_be_drawn_from_again_with_another_mask(allowed_share):
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 3, (3, 4000)).astype(np.float32)
    logits.flags.writeable = False
    rows = NumpyLogitRows(logits)
    assert np.shares_memory(rows.to_numpy(), logits)
    for _ in range(4):
        plan = masked_plan(
            rng.random(logits.shape) < allowed_share,
            temperature=np.asarray([0, 0, 1], dtype=np.float32),
            uniform=rng.random(3),
            bias=random_triples(rng, 3, 4000, -4, 4),
            top_logprobs=4,
        )
        expected = PlainLogitRows(logits).sample(plan)
        found = rows.sample(plan)
        np.testing.assert_array_equal(found.token_ids, expected.token_ids)
        assert_same_logprobs(found, expected, np.arange(3))


def test_ties_go_to_the_lowest_id():
    logits = np.zeros((1, 20_000), dtype=np.float32)
    logits[0, [300, 301, 900]] = 1.0
    found = NumpyLogitRows(logits).sample(make_plan([0], 20_000, top_logprobs=6))
    assert found.token_ids[0] == 300
    assert found.top_raw[0].tolist() == [[300, 301, 900, 0, 1, 2]]


@pytest.mark.parametrize("top_k", [1, 3, 100, 15_000])
def test_top_k_keeps_the_lower_ids_of_a_tie(top_k):
    logits = np.zeros((1, 20_000), dtype=np.float32)
    plan = make_plan(
        [0],
        20_000,
        temperature=np.ones(1, np.float32),
        top_k=np.array([top_k]),
        uniform=np.array([0.9999999]),
    )
    assert NumpyLogitRows(logits).sample(plan).token_ids[0] == top_k - 1


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-53])
@pytest.mark.parametrize("vocab_size", [200, 20_000])
@pytest.mark.parametrize("top_p", [1.0, 0.9999999])
def test_the_ends_of_the_unit_interval_draw_tokens_that_can_occur(uniform, vocab_size, top_p):
    logits = np.full((1, vocab_size), -np.inf, dtype=np.float32)
    logits[0, 100 : vocab_size - 77] = 0.3
    plan = make_plan(
        [0],
        vocab_size,
        temperature=np.full(1, 0.7, dtype=np.float32),
        uniform=np.asarray([uniform]),
        top_p=np.full(1, top_p, dtype=np.float32),
    )
    assert NumpyLogitRows(logits).sample(plan).token_ids[0] == (100 if uniform == 0 else vocab_size - 78)


@pytest.mark.parametrize("temperature", [1e-45, 1e-30, 1e30, 3e38])
@pytest.mark.parametrize("changes", [{}, {"min_p": 1e-30}, {"top_p": 0.5}, {"top_k": 7}])
def test_temperatures_may_be_as_small_or_large_as_float32_allows(temperature, changes):
    logits = np.random.default_rng(3).normal(0, 3, (1, 2000)).astype(np.float32)
    logits[0, ::2] = -np.inf
    columns = {name: np.array([value], np.float32) for name, value in changes.items()}
    assert_same(
        logits,
        make_plan(
            [0],
            2000,
            temperature=np.array([temperature], np.float32),
            uniform=np.array([0.3]),
            **columns,
        ),
    )


@pytest.mark.parametrize("gap", [20.0, 80.0, 300.0])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_wide_mask_may_keep_hardly_any_probability(gap, temperature):
    rng = np.random.default_rng(9)
    logits = rng.normal(0, 1, (3, 9000)).astype(np.float32)
    logits[:, ::2] += gap
    allowed = np.zeros(logits.shape, dtype=np.bool_)
    allowed[:, 1::2] = True
    plan = masked_plan(
        allowed,
        is_masked=np.array([True, True, False]),
        temperature=np.full(3, temperature, np.float32),
        uniform=rng.random(3),
        top_logprobs=3,
    )
    found, expected = NumpyLogitRows(logits).sample(plan), PlainLogitRows(logits).sample(plan)
    np.testing.assert_array_equal(found.token_ids, expected.token_ids)
    np.testing.assert_allclose(found.log_mass, expected.log_mass, rtol=1e-6)
    # The plain form rounds what is kept before it subtracts it.
    np.testing.assert_allclose(found.masked_logprob, expected.masked_logprob, atol=1e-4)
    np.testing.assert_allclose(found.top_masked[1], expected.top_masked[1], atol=1e-4)
    assert (found.log_mass <= 0).all()


def test_nothing_planned_gives_nothing():
    rows = NumpyLogitRows(np.zeros((2, 50), dtype=np.float32))
    found = rows.sample(make_plan([], 50, top_logprobs=2))
    assert found.token_ids.shape == (0,)
    assert found.top_raw[0].shape == (0, 2)
    none = np.zeros(0, dtype=np.int64)
    scored = rows.score(none, none, 2)
    assert scored.logprob.shape == scored.rank.shape == (0,)
    assert scored.top[0].shape == (0, 2)


# -- what makes it fast ---------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_masks_know_how_many_tokens_they_allow_and_forbid(share):
    rng = np.random.default_rng(1)
    allowed = rng.random((4, 1003)) < share
    masks = TokenMasks(pack(allowed), 1003)
    assert masks.counts() == allowed.sum(axis=1).tolist()
    for place in range(4):
        np.testing.assert_array_equal(masks.ids(place, masks.counts()[place]), np.flatnonzero(allowed[place]))
        np.testing.assert_array_equal(masks.forbidden(place), np.flatnonzero(~allowed[place]))
    assert TokenMasks(pack(allowed, 5), 1003).forbidden(0) is None


def test_a_row_that_was_looked_at_is_not_computed_again(monkeypatch):
    logits = np.random.default_rng(2).normal(0, 3, (3, 1000)).astype(np.float32)
    computed = []

    def spy(values, largest, temperature, out):
        computed.append(largest)
        return relative_weights(values, largest, temperature, out)

    monkeypatch.setattr("dcmodel.sampler.facts.relative_weights", spy)
    rows = NumpyLogitRows(logits)
    rows.score(np.array([1, 2, 1, 1, 2]), np.arange(5), 2)
    for _ in range(2):
        rows.sample(make_plan([2, 1, 1], 1000, top_logprobs=3))
    assert len(computed) == 2
