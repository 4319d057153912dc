"""The torch sampler gives what the plain one gives, row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes.plain_sampler import PlainLogitRows
from fakes.sample_plans import NO_TRIPLES, make_plan, pack, random_triples

from dcmodel.logits import SampledRows
from dcmodel.mask import mask_words
from lmql_backends.torch_rows.rows import TorchLogitRows, Workspace
from lmql_backends.torch_rows.scoring import _score_device, _score_host


def torch_rows(logits, dtype=torch.float32):
    return TorchLogitRows(torch.from_numpy(logits).to(dtype), Workspace(torch.device("cpu")))


def random_plan(rng, num_rows, vocab_size, *, in_order=False):
    size = num_rows if in_order else int(rng.integers(1, 9))
    density = rng.choice([0.001, 0.02, 0.5, 0.99], size=size)
    allowed = rng.random((size, vocab_size)) < density[:, None]
    allowed[np.arange(size), rng.integers(0, vocab_size, size)] = True
    is_masked = rng.random(size) < rng.choice([0.0, 0.5, 1.0])
    chance = rng.choice([0.0, 0.5, 1.0])
    return make_plan(
        np.arange(size) if in_order else rng.integers(0, num_rows, size),
        vocab_size,
        bitmask=pack(allowed),
        is_masked=is_masked,
        temperature=np.where(rng.random(size) < chance, rng.uniform(0.2, 2.0, size), 0).astype(np.float32),
        top_k=np.where(rng.random(size) < 0.4, rng.integers(1, 80, size), 0),
        top_p=np.where(rng.random(size) < 0.4, rng.uniform(0.1, 0.999, size), 1).astype(np.float32),
        min_p=np.where(rng.random(size) < 0.3, rng.uniform(0.0, 0.3, size), 0).astype(np.float32),
        uniform=rng.random(size),
        repetition=random_triples(rng, size, vocab_size, 0.8, 1.5) if rng.random() < 0.4 else NO_TRIPLES,
        bias=random_triples(rng, size, vocab_size, -4, 4) if rng.random() < 0.4 else NO_TRIPLES,
        want_logprobs=bool(rng.random() < 0.7),
        top_logprobs=int(rng.choice([0, 1, 5, 40])),
    )


def assert_same(found: SampledRows, expected: SampledRows):
    np.testing.assert_array_equal(found.is_finite, expected.is_finite)
    np.testing.assert_array_equal(found.has_choice, expected.has_choice)
    np.testing.assert_array_equal(found.token_ids, expected.token_ids)
    for name in ("raw_logprob", "masked_logprob", "log_mass"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=2e-5, err_msg=name)
    ok = expected.is_finite
    for name in ("top_raw", "top_masked"):
        ids, values = getattr(found, name)
        expected_ids, expected_values = getattr(expected, name)
        np.testing.assert_array_equal(ids[ok], expected_ids[ok], err_msg=name)
        np.testing.assert_allclose(values[ok], expected_values[ok], atol=2e-5, err_msg=name)


@pytest.mark.parametrize("vocab_size", [70, 1000, 4099])
@pytest.mark.parametrize("coarse", [False, True], ids=["distinct", "many-ties"])
def test_agrees_with_the_plain_form(vocab_size, coarse):
    rng = np.random.default_rng(vocab_size + coarse)
    for _ in range(60):
        logits = rng.normal(0, 3, (6, vocab_size)).astype(np.float32)
        if coarse:
            logits = np.round(logits * 2) / 2
        plan = random_plan(rng, 6, vocab_size)
        assert_same(torch_rows(logits).sample(plan), PlainLogitRows(logits).sample(plan))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_sampled_as_float32(dtype):
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.normal(0, 3, (6, 777)).astype(np.float32)).to(dtype).float().numpy()
    for _ in range(20):
        plan = random_plan(rng, 6, 777)
        assert_same(torch_rows(logits, dtype).sample(plan), PlainLogitRows(logits).sample(plan))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_row_says_so_and_leaves_its_neighbours_alone(bad):
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
    clean = torch_rows(logits).sample(plan)
    for row in range(5):
        spoilt = logits.copy()
        spoilt[row, 998] = bad
        found = torch_rows(spoilt).sample(plan)
        others = np.arange(5) != row
        assert found.is_finite.tolist() == others.tolist()
        assert found.token_ids[row] == -1
        np.testing.assert_array_equal(found.token_ids[others], clean.token_ids[others])
        np.testing.assert_array_equal(found.raw_logprob[others], clean.raw_logprob[others])


def test_a_bad_logit_counts_even_where_the_mask_forbids_it():
    logits = np.zeros((1, 300), dtype=np.float32)
    logits[0, 7] = np.nan
    allowed = np.zeros((1, 300), dtype=np.bool_)
    allowed[0, 3] = True
    plan = make_plan([0], 300, bitmask=pack(allowed), is_masked=np.asarray([True]))
    found = torch_rows(logits).sample(plan)
    assert (found.is_finite[0], found.token_ids[0]) == (False, -1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_mask_that_leaves_nothing_is_no_choice(temperature):
    logits = np.zeros((2, 3000), dtype=np.float32)
    logits[1, :2000] = -np.inf
    allowed = np.zeros((2, 3000), dtype=np.bool_)
    allowed[1, :2000] = True
    plan = make_plan(
        [0, 1],
        3000,
        bitmask=pack(allowed),
        is_masked=np.asarray([True, True]),
        temperature=np.full(2, temperature, dtype=np.float32),
        top_logprobs=2,
    )
    found = torch_rows(logits).sample(plan)
    assert found.is_finite.all()
    assert not found.has_choice.any()
    assert found.token_ids.tolist() == [-1, -1]
    assert (found.top_masked[0] == -1).all()


def test_mask_words_may_be_fewer_or_more_than_the_logits_need():
    logits = np.arange(300, dtype=np.float32)[None, :]
    few = np.full((1, 2), -1, dtype=np.int32)
    many = np.full((1, 40), -1, dtype=np.int32)
    masked = np.asarray([True])
    assert torch_rows(logits).sample(make_plan([0], 300, bitmask=few, is_masked=masked)).token_ids[0] == 63
    assert torch_rows(logits).sample(make_plan([0], 300, bitmask=many, is_masked=masked)).token_ids[0] == 299


def test_a_dense_mask_with_fewer_words_forbids_the_rest():
    logits = np.arange(5000, dtype=np.float32)[None, :]
    words = np.full((1, 100), -1, dtype=np.int32)
    plan = make_plan([0], 5000, bitmask=words, is_masked=np.asarray([True]))
    assert torch_rows(logits).sample(plan).token_ids[0] == 3199


def test_greedy_ties_go_to_the_lowest_id():
    logits = np.zeros((1, 1000), dtype=np.float32)
    logits[0, [300, 301, 900]] = 1.0
    assert torch_rows(logits).sample(make_plan([0], 1000)).token_ids[0] == 300


@pytest.mark.parametrize("top_p", [1.0, 0.95])
def test_draws_follow_the_distribution(top_p):
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, (1, 500)).astype(np.float32)
    size = 20000
    plan = make_plan(
        np.zeros(size),
        500,
        temperature=np.ones(size, dtype=np.float32),
        top_p=np.full(size, top_p, dtype=np.float32),
        uniform=(np.arange(size) + 0.5) / size,
        want_logprobs=False,
    )
    counts = np.bincount(torch_rows(logits).sample(plan).token_ids, minlength=500)
    weights = np.exp(logits[0].astype(np.float64))
    if top_p < 1:
        order = np.argsort(-weights)
        before = np.cumsum(weights[order]) - weights[order]
        weights[order[before >= top_p * weights.sum()]] = 0
    # Stratified uniform numbers: each count is within one of its expectation.
    np.testing.assert_allclose(counts, size * weights / weights.sum(), atol=1.1)


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-53])
def test_the_ends_of_the_unit_interval_draw_tokens_that_can_occur(uniform):
    logits = np.full((1, 2000), -np.inf, dtype=np.float32)
    logits[0, 100:1900] = 0.0
    plan = make_plan([0], 2000, temperature=np.ones(1, dtype=np.float32), uniform=np.asarray([uniform]))
    assert torch_rows(logits).sample(plan).token_ids[0] == (100 if uniform == 0 else 1899)


def test_nothing_planned_gives_nothing():
    found = torch_rows(np.zeros((2, 50), dtype=np.float32)).sample(make_plan([], 50, top_logprobs=2))
    assert found.token_ids.shape == (0,)
    assert found.top_raw[0].shape == (0, 2)


@pytest.mark.parametrize("top_logprobs", [0, 4])
def test_scores_agree_with_the_plain_form(top_logprobs):
    rng = np.random.default_rng(4)
    logits = np.round(rng.normal(0, 3, (150, 900)) * 8).astype(np.float32) / 8
    logits[17, 5] = np.nan
    for rows in (np.arange(150), rng.integers(0, 150, 400), np.repeat([3, 99], 100)):
        targets = rng.integers(0, 900, len(rows))
        found = torch_rows(logits).score(rows, targets, top_logprobs)
        expected = PlainLogitRows(logits).score(rows, targets, top_logprobs)
        ok = expected.is_finite
        np.testing.assert_array_equal(found.is_finite, ok)
        np.testing.assert_allclose(found.logprob[ok], expected.logprob[ok], atol=2e-5)
        np.testing.assert_array_equal(found.rank[ok], expected.rank[ok])
        np.testing.assert_array_equal(found.top[0][ok], expected.top[0][ok])


# On other devices than the CPU, rows are always padded to whole blocks.
@pytest.mark.parametrize(
    ("way", "vocab_size"), [(_score_host, 900), (_score_host, 1280), (_score_device, 1280)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_targets_of_trees_are_scored_in_every_way(way, vocab_size, dtype, monkeypatch):
    # Many in a few rows, few in many rows, in rows with gaps between them, in blocks of three rows.
    monkeypatch.setattr("lmql_backends.torch_rows.scoring._score_host", way)
    monkeypatch.setattr("lmql_backends.torch_rows.scoring.HOST_BYTES", 3 * 4 * vocab_size)
    rng = np.random.default_rng(6)
    logits = (np.round(rng.normal(0, 3, (40, vocab_size)) * 8) / 8).astype(np.float32)
    logits[7, 5], logits[12, 6] = np.nan, np.inf
    logits[3, :800] = -np.inf
    logits = torch.from_numpy(logits).to(dtype).float().numpy()
    rows = np.concatenate([np.full(30, 3), [20] * 15, [21] * 16, np.arange(5, 30), [39, 5, 39, 0]])
    targets = rng.integers(0, vocab_size, len(rows))
    for top_logprobs in (0, 3):
        tensor = torch.from_numpy(logits).to(dtype)
        found = TorchLogitRows(tensor, Workspace(torch.device("cpu"))).score(rows, targets, top_logprobs)
        expected = PlainLogitRows(logits).score(rows, targets, top_logprobs)
        ok = expected.is_finite
        np.testing.assert_array_equal(found.is_finite, ok)
        np.testing.assert_allclose(found.logprob[ok], expected.logprob[ok], atol=2e-5)
        np.testing.assert_array_equal(found.rank[ok], expected.rank[ok])
        np.testing.assert_array_equal(found.top[0][ok], expected.top[0][ok])
        np.testing.assert_array_equal(tensor.float().numpy(), logits)


def test_scoring_nothing_gives_nothing():
    none = np.zeros(0, dtype=np.int64)
    found = torch_rows(np.zeros((2, 50), dtype=np.float32)).score(none, none, 2)
    assert found.logprob.shape == found.rank.shape == found.is_finite.shape == (0,)
    assert found.top[0].shape == (0, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [2, 0, 2], [1], []])
def test_whole_distributions_agree_with_the_plain_form(rows, dtype):
    rng = np.random.default_rng(6)
    logits = torch.from_numpy(rng.normal(0, 3, (4, 40_001)).astype(np.float32)).to(dtype)
    logits[1, 7] = -torch.inf
    before = logits.float().numpy().copy()
    found = TorchLogitRows(logits, Workspace(torch.device("cpu"))).log_softmax(np.array(rows, dtype=np.int64))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, PlainLogitRows(before).log_softmax(rows), atol=2e-5)
    found[:] = 0.0  # the caller's own
    np.testing.assert_array_equal(logits.float().numpy(), before)


def test_a_distribution_that_is_none_is_nan_throughout():
    logits = np.zeros((3, 50), dtype=np.float32)
    logits[0, 3], logits[2, 4] = np.nan, np.inf
    found = torch_rows(logits).log_softmax(np.arange(3))
    assert np.isnan(found[[0, 2]]).all()
    np.testing.assert_allclose(found[1], -np.log(50), rtol=1e-6)


def test_rows_come_back_as_they_are():
    logits = np.random.default_rng(5).normal(size=(3, 77)).astype(np.float32)
    rows = torch_rows(logits)
    rows.sample(make_plan([2, 0], 77, bias=(np.asarray([0]), np.asarray([5]), np.ones(1, dtype=np.float32))))
    np.testing.assert_array_equal(rows.to_numpy(), logits)


def greedy_plan(rng, num_rows, vocab_size, words, is_masked):
    """A greedy plan for all rows, in order or not, that asks for tokens only."""
    rows = np.arange(num_rows) if rng.random() < 0.5 else rng.integers(0, num_rows, num_rows)
    return make_plan(rows, vocab_size, bitmask=words, is_masked=is_masked, want_logprobs=False)


def masks_of_all_kinds(rng, size, vocab_size):
    """Masks that allow nothing, one token, few, or much of the vocabulary."""
    density = rng.choice([0.0, 0.001, 0.02, 0.05, 0.5, 0.99, 1.0], size=size)
    allowed = rng.random((size, vocab_size)) < density[:, None]
    single = rng.random(size) < 0.2
    allowed[single] = False
    allowed[single, rng.integers(0, vocab_size, single.sum())] = True
    return allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab_size", [70, 1024, 9000, 12800])
@pytest.mark.parametrize("step", [0.0, 0.5, 4.0], ids=["distinct", "ties", "many-ties"])
def test_greedy_tokens_agree_with_the_plain_form(vocab_size, step, dtype):
    rng = np.random.default_rng(6)
    for _ in range(15):
        logits = rng.normal(0, 3, (6, vocab_size)).astype(np.float32)
        if step:
            logits = np.round(logits / step).astype(np.float32) * np.float32(step)
        logits[:, rng.random(vocab_size) < rng.choice([0.0, 0.3])] = -np.inf
        spoilt = rng.random(6) < 0.2
        logits[spoilt, rng.integers(0, vocab_size, spoilt.sum())] = rng.choice(
            [np.nan, -np.nan, np.inf, -np.inf]
        )
        logits = torch.from_numpy(logits).to(dtype).float().numpy()
        words = pack(masks_of_all_kinds(rng, 6, vocab_size))
        plan = greedy_plan(rng, 6, vocab_size, words, rng.random(6) < rng.choice([0.0, 0.5, 1.0]))
        assert_same(torch_rows(logits, dtype).sample(plan), PlainLogitRows(logits).sample(plan))


@pytest.mark.parametrize("vocab_size", [9000, 12800])
@pytest.mark.parametrize("change", [-200, -1, 1, 8])
def test_greedy_masks_may_have_fewer_or_more_words(vocab_size, change):
    rng = np.random.default_rng(7)
    size = mask_words(vocab_size) + change
    for _ in range(10):
        logits = np.round(rng.normal(0, 3, (5, vocab_size))).astype(np.float32)
        words = rng.integers(-(2**31), 2**31, (5, size)).astype(np.int32)
        plan = greedy_plan(rng, 5, vocab_size, words, np.ones(5, dtype=np.bool_))
        assert_same(torch_rows(logits).sample(plan), PlainLogitRows(logits).sample(plan))


def test_a_greedy_token_outside_the_likeliest_blocks_is_found():
    logits = np.tile(np.arange(100, 0, -1, dtype=np.float32).repeat(128), (3, 1))
    allowed = np.zeros(logits.shape, dtype=np.bool_)
    allowed[0, 128 * 64 :] = True
    allowed[1, 128 * 63 + 5 :] = True
    # An equal logit in a block that is not among the likeliest has the lower id.
    logits[2] = 5.0
    allowed[2, 300:] = True
    plan = make_plan([0, 1, 2], 12800, bitmask=pack(allowed), is_masked=np.ones(3, bool), want_logprobs=False)
    assert torch_rows(logits).sample(plan).token_ids.tolist() == [128 * 64, 128 * 63 + 5, 300]


def test_a_greedy_token_is_found_where_the_first_allowed_ones_are_impossible():
    logits = np.full((2, 25600), -np.inf, dtype=np.float32)
    logits[0, 25598] = -7.0
    allowed = np.ones(logits.shape, dtype=np.bool_)
    plan = make_plan([0, 1], 25600, bitmask=pack(allowed), is_masked=np.ones(2, bool), want_logprobs=False)
    # What is likeliest of all is not allowed, so that the row has to be searched.
    logits[0, 5] = 1.0
    plan.bitmask[0, 0] = ~np.int32(1 << 5)
    found = torch_rows(logits).sample(plan)
    assert found.token_ids.tolist() == [25598, -1]
    assert found.has_choice.tolist() == [True, False]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("gap", [20.0, 80.0, 300.0])
def test_a_wide_mask_may_keep_hardly_any_probability(gap, temperature):
    rng = np.random.default_rng(9)
    logits = rng.normal(0, 1, (3, 9000)).astype(np.float32)
    logits[:, ::2] += gap
    allowed = np.zeros(logits.shape, dtype=np.bool_)
    allowed[:, 1::2] = True
    plan = make_plan(
        [0, 1, 2],
        9000,
        bitmask=pack(allowed),
        is_masked=np.array([True, True, False]),
        temperature=np.full(3, temperature, np.float32),
        uniform=rng.random(3),
        top_logprobs=3,
    )
    found, expected = torch_rows(logits).sample(plan), PlainLogitRows(logits).sample(plan)
    np.testing.assert_array_equal(found.token_ids, expected.token_ids)
    np.testing.assert_allclose(found.log_mass, expected.log_mass, rtol=1e-5)
    np.testing.assert_allclose(found.masked_logprob, expected.masked_logprob, atol=2e-4)
    np.testing.assert_allclose(found.top_masked[1], expected.top_masked[1], atol=2e-4)
    assert (found.log_mass <= 0).all()


def test_sampling_leaves_logits_that_need_no_padding_as_they_are():
    rng = np.random.default_rng(8)
    logits = rng.normal(0, 3, (6, 1280)).astype(np.float32)
    tensor = torch.from_numpy(logits.copy())
    rows = TorchLogitRows(tensor, Workspace(torch.device("cpu")))
    for _ in range(40):
        plan = random_plan(rng, 6, 1280, in_order=True)
        assert_same(rows.sample(plan), PlainLogitRows(logits).sample(plan))
        rows.score(np.arange(6), np.arange(6), 3)
        np.testing.assert_array_equal(tensor.numpy(), logits)
