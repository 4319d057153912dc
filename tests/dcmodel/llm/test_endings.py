from __future__ import annotations

import itertools
import math

import pytest

from dcmodel.llm.endings import has_prefixes, log_sum_exp, split_endings, with_endings
from dcmodel.types import ScoredContinuation, ScoreRequest, ScoreResult, Usage

SEQUENCES = [word for size in (1, 2, 3) for word in itertools.product((0, 1), repeat=size)]
USAGE = Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=1, forced_tokens=0)


def test_a_prefix_is_found_wherever_it_stands():
    for chosen in itertools.combinations(SEQUENCES, 3):
        expected = any(one != two and two[: len(one)] == one for one in chosen for two in chosen)
        for order in itertools.permutations(chosen):
            assert has_prefixes(order) is expected


def test_equal_sequences_are_no_prefixes_of_one_another():
    assert not has_prefixes([(1, 2), (1, 2)])


def test_endings_are_put_behind_and_taken_away_again():
    request = with_endings(ScoreRequest(prompt_ids=(5,), continuations=((7, 8), (9,))), (1, 2))
    assert request.continuations == ((7, 8, 1), (7, 8, 2), (9, 1), (9, 2))
    scored = tuple(
        ScoredContinuation(token_ids=ids, logprobs=tuple(-float(item) for item in ids), ranks=(0,) * len(ids))
        for ids in request.continuations
    )
    first, second = split_endings(ScoreResult(continuations=scored, usage=USAGE), (1, 2))
    assert (first.continuation.token_ids, first.continuation.logprobs) == ((7, 8), (-7.0, -8.0))
    assert second.continuation.token_ids == (9,)
    assert first.end_logprob == pytest.approx(math.log(math.exp(-1) + math.exp(-2)))
    assert first.logprob == pytest.approx(-15 + first.end_logprob)


def test_without_endings_nothing_changes():
    request = ScoreRequest(prompt_ids=(5,), continuations=((7, 8),))
    assert with_endings(request, ()) is request


@pytest.mark.parametrize("values", [[-1000.0, -1001.0], [-math.inf, -2.0], [-math.inf, -math.inf], [3.0]])
def test_log_sum_exp(values):
    top = max(values)
    expected = top if math.isinf(top) else top + math.log(sum(math.exp(value - top) for value in values))
    assert log_sum_exp(values) == expected
