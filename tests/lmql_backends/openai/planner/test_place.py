"""What a refused token tells of its place."""

from __future__ import annotations

import pytest

from dcmodel.mask import allocate_rows, row_from_ids
from dcmodel.types import TopLogprob
from lmql_backends.openai.planner.place import Place
from lmql_backends.openai.planner.reading import Rejection

SIZE = 384
DRAWN = (TopLogprob(5, -0.1),)
TOPS = (TopLogprob(5, -0.1), TopLogprob(6, -2.0), TopLogprob(7, -3.0))


def allowing(*ids: int):
    row = allocate_rows(1, SIZE)[0]
    row_from_ids(ids, SIZE, row)
    return row


@pytest.mark.parametrize("is_free", [True, False])
def test_the_likeliest_tokens_were_not_drawn_and_are_no_dead_ends(is_free) -> None:
    place = Place(0)
    place.note(Rejection(DRAWN, TOPS, are_raw=None), is_free=is_free)
    assert place.drawn_ids == {5}
    assert place.forbidden(allowing(6), SIZE) == [5, 7]
    assert (place.tops is None) == (not is_free), "those of a biased answer are not the model's"


def test_raw_ones_are_the_models_own_even_in_a_biased_answer() -> None:
    place = Place(0)
    place.note(Rejection(DRAWN, TOPS, are_raw=True), is_free=False)
    assert (place.tops, place.refused) == (TOPS, list(DRAWN))


def test_ids_past_the_vocabulary_are_forbidden() -> None:
    place = Place(0)
    place.note(Rejection((TopLogprob(SIZE + 3, -0.1),), (), are_raw=True), is_free=True)
    assert place.forbidden(allowing(6), SIZE) == [SIZE + 3]
