from __future__ import annotations

import pytest

from dcmodel.llm.windows import rolling_windows

PREFIX = -1
CASES = [
    (count, window, overlap)
    for count in range(27)
    for window in range(1, 10)
    for overlap in range(1, window + 1)
]


def windows(count, window, overlap):
    return list(rolling_windows(range(count), PREFIX, window=window, overlap=overlap))


def test_each_token_is_predicted_once_and_in_order():
    for case in CASES:
        predicted = [token for part in windows(*case) for token in part.predicted]
        assert predicted == list(range(case[0])), case


def test_the_context_is_what_stands_before_the_predicted_tokens():
    for case in CASES:
        text = [PREFIX, *range(case[0])]
        for part in windows(*case):
            end = text.index(part.predicted[0])
            assert list(part.context) == text[end - len(part.context) : end], case


def test_no_window_is_beyond_the_limit_and_none_is_without_context():
    for count, window, overlap in CASES:
        for part in windows(count, window, overlap):
            assert part.context
            assert part.predicted
            assert len(part.context) + len(part.predicted) - 1 <= window


def test_later_windows_have_the_overlap_as_context_and_the_last_as_much_as_there_is_room():
    for count, window, overlap in CASES:
        first, *later = windows(count, window, overlap) or [None]
        if first is None:
            continue
        assert first.context == (PREFIX,)
        assert len(first.predicted) == min(window, count)
        for part in later[:-1]:
            assert len(part.context) == overlap
        for part in later:
            assert len(part.context) + len(part.predicted) - 1 == window


def test_a_text_that_fits_is_one_window():
    (only,) = windows(8, 8, 3)
    assert only.predicted == tuple(range(8))


def test_they_are_those_of_lm_evaluation_harness():
    utils = pytest.importorskip("lm_eval.utils")
    for count, window, overlap in CASES:
        theirs = utils.get_rolling_token_windows(list(range(count)), PREFIX, window, overlap)
        disjoint = [utils.make_disjoint_window(pair) for pair in theirs]
        ours = [(list(part.context), list(part.predicted)) for part in windows(count, window, overlap)]
        assert ours == disjoint, (count, window, overlap)
