"""TokenSet, MaskFunction and Stop: what brute force and the contract do not say."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from dcmodel.constraints import (
    ConstraintCache,
    FixedMask,
    MaskFunction,
    Stop,
    TokenSet,
    mask_function,
    watch_stops,
)
from dcmodel.constraints.mask_function import caller_loop
from dcmodel.errors import ConstraintRuntimeError, DeadEndError, InvalidConstraintError, TokenRangeError
from dcmodel.local.matching import MatcherMaker
from dcmodel.loop import background_loop
from dcmodel.mask import TokenMask
from dcmodel.types import GenerateRequest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_ids": []}, "empty"),
        ({"token_ids": [-1]}, "no token id"),
        ({"token_ids": [True]}, "no token id"),
        ({"token_ids": ["a"]}, "no token id"),
        ({"token_ids": [1], "min_count": -1}, "at least -1"),
        ({"token_ids": [1], "min_count": 3, "max_count": 2}, "at most 2"),
        ({"token_ids": [1], "min_count": 0, "max_count": 0}, "at most 0"),
        ({"token_ids": [1], "min_count": 1.5}, "a count is 1.5"),
    ],
)
def test_a_wrong_token_set_is_an_error(options, message):
    with pytest.raises(InvalidConstraintError, match=message):
        TokenSet(**options)


@pytest.mark.parametrize("token_id", [288, 10**6, 10**30])
def test_an_id_outside_the_vocabulary_is_found_when_it_is_compiled(small, token_id):
    with pytest.raises(TokenRangeError, match="outside the vocabulary of 288"):
        TokenSet([1, token_id]).compile(small)


def test_an_end_token_cannot_be_in_a_set(small):
    with pytest.raises(InvalidConstraintError, match="token 285 ends the text"):
        TokenSet([1, 285]).compile(small)


def test_a_set_of_one_forces_what_is_needed(small):
    matcher = TokenSet([97], min_count=100, max_count=101).compile(small).matcher()
    assert matcher.forced() == [97] * 64
    assert matcher.advance(matcher.forced()) == 64
    assert matcher.advance(matcher.forced()) == 36
    assert matcher.forced() == []
    assert matcher.is_accepting
    assert matcher.advance([97, 97]) == 1
    assert matcher.is_finished


def fixed(small, *token_ids):
    return FixedMask(TokenMask.from_ids(token_ids, 288)).compile(small).matcher()


def test_a_fixed_mask_without_an_end_never_ends(small, masks):
    matcher = fixed(small, 97, 98)
    assert matcher.advance([97, 98, 285]) == 2
    assert masks(matcher, small) == {97, 98}
    assert not matcher.is_accepting
    assert not matcher.is_finished


def test_a_fixed_mask_of_one_token_forces_it(small):
    assert fixed(small, 97).forced() == [97]
    assert fixed(small, 285).forced() == []
    assert fixed(small, 285).is_finished


def test_a_fixed_mask_tells_ends_apart(small, masks):
    matcher = fixed(small, 97, 286)
    assert matcher.advance([285]) == 0
    assert masks(matcher, small) == {97, 286}
    assert matcher.advance([97, 286, 285]) == 2
    assert masks(matcher, small) == {286}


def test_a_fixed_mask_of_another_vocabulary_or_of_nothing_is_an_error(small):
    with pytest.raises(InvalidConstraintError, match="over 7 tokens, and the vocabulary has 288"):
        FixedMask(TokenMask.all(7)).compile(small)
    with pytest.raises(InvalidConstraintError, match="allows no token"):
        FixedMask(TokenMask.none(7))


def failing(token_ids):
    if token_ids:
        raise KeyError("no such state")
    return [97]


def test_a_function_that_raises_ends_the_request_with_its_error(small):
    row = np.zeros(9, dtype=np.int32)
    matcher = MaskFunction(failing).compile(small).matcher()
    assert matcher.advance([97]) == 1
    for _ in range(2):
        with pytest.raises(
            ConstraintRuntimeError, match=r"raised KeyError\('no such state'\) after 1"
        ) as caught:
            matcher.fill_mask(row)
    assert isinstance(caught.value.__cause__, KeyError)
    matcher.rollback(1)
    matcher.fill_mask(row)
    assert row[3] == 1 << 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([288], "outside the vocabulary of 288"),
        ([-1], "outside"),
        ([10**30], "outside"),
        ("abc", "it is 'abc'"),
        ({1: 5.0}, "a bias of 5.0; in a mask"),
        ({1: float("nan")}, "a bias of nan"),
        ({1: "100"}, "a bias of '100'"),
        ({"1": 100}, "holds '1'"),
        ({288: -100}, "outside"),
        (5, "it is 5"),
        ([1, "a"], "holds 'a'"),
        ([True, False], "holds 2 booleans, not 288"),
        ([1, True], "holds True"),
        ([1.0], "holds 1.0"),
        (np.zeros(5, dtype=bool), r"shape \(5,\)"),
        (np.zeros(288), "no token id"),
        (np.zeros((1, 288), dtype=bool), "shape"),
        (TokenMask.all(10), "has 10 tokens"),
        (b"ab", "2 bytes of packed bits, not 36"),
        (np.array([1, 2], dtype=np.int32), r"shape \(2,\), not \(9,\): integers of 32 bits are packed bits"),
        (np.zeros((2, 3), dtype=np.int64), r"shape \(2, 3\)"),
        (np.array([2**63], dtype=np.uint64), "outside"),
        (np.array([-1]), "token id -1 is outside"),
        (np.array(["a"]), "no token id"),
    ],
    ids=repr,
)
def test_a_function_that_returns_nonsense_is_told_so(small, answer, message):
    matcher = MaskFunction(lambda token_ids: answer).compile(small).matcher()
    for method in (
        lambda: matcher.fill_mask(np.zeros(9, dtype=np.int32)),
        lambda: matcher.advance([1]),
        lambda: matcher.forced(),
        lambda: matcher.is_accepting,
        lambda: matcher.is_finished,
        lambda: matcher.explain(1),
    ):
        with pytest.raises(ConstraintRuntimeError, match=message):
            method()


@pytest.mark.parametrize(
    "answer",
    [[], np.zeros(288, dtype=bool), TokenMask.none(288), iter(())],
    ids=["list", "array", "mask", "iterator"],
)
def test_a_function_that_allows_nothing_is_a_dead_end(small, answer):
    matcher = MaskFunction(lambda token_ids: answer).compile(small).matcher()
    with pytest.raises(DeadEndError, match="allows no token after 0"):
        matcher.fill_mask(np.zeros(9, dtype=np.int32))
    assert not matcher.is_accepting
    assert not matcher.is_finished
    assert matcher.forced() == []
    assert matcher.advance([1]) == 0
    assert not matcher.explain(1).allowed


@pytest.mark.parametrize(
    "answer",
    [
        [3, 31, 63],
        {3, 31, 63},
        iter([3, 31, 63]),
        np.array([3, 31, 63]),
        (np.int64(i) for i in (3, 31, 63)),
        TokenMask.from_ids([3, 31, 63], 288),
        np.isin(np.arange(288), [3, 31, 63]),
        np.isin(np.arange(288), [3, 31, 63]).tolist(),
        np.array([3, 31, 63], dtype=np.uint16),
        {3: 100, 31: 100.0, 63: np.float32(100), 5: -100},
        dict.fromkeys(sorted(set(range(288)) - {3, 31, 63}), -100),
        TokenMask.from_ids([3, 31, 63], 288).bits,
        TokenMask.from_ids([3, 31, 63], 288).bits.view(np.uint32),
        TokenMask.from_ids([3, 31, 63], 288).bits.tobytes(),
        bytearray(TokenMask.from_ids([3, 31, 63], 288).bits.tobytes()),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_a_function_may_answer_in_many_forms(small, masks, answer):
    matcher = MaskFunction(lambda token_ids: answer).compile(small).matcher()
    assert masks(matcher, small) == {3, 31, 63}


@pytest.mark.parametrize("answer", [None, {}, np.full(9, -1, dtype=np.int32), b"\xff" * 36], ids=repr)
def test_an_answer_may_allow_everything(small, masks, answer):
    matcher = MaskFunction(lambda token_ids: answer).compile(small).matcher()
    assert masks(matcher, small) == set(range(288))


@pytest.fixture
def other_loop():
    """An event loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def matcher_on(loop, function, tokenizer):
    """A matcher made as for a caller whose loop this is."""
    token = caller_loop.set(loop)
    try:
        return MaskFunction(function).compile(tokenizer).matcher()
    finally:
        caller_loop.reset(token)


def test_an_async_function_runs_on_the_loop_of_the_caller(small, masks, other_loop):
    seen = []

    async def function(token_ids):
        await asyncio.sleep(0)
        seen.append(asyncio.get_running_loop())
        return [97 + len(token_ids)]

    matcher = matcher_on(other_loop, function, small)
    assert masks(matcher, small) == {97}
    assert matcher.advance([97]) == 1
    assert masks(matcher.fork(), small) == {98}
    assert seen == [other_loop] * 2


def test_without_a_loop_of_the_caller_an_async_function_runs_on_our_own(small, masks):
    class Answers:
        async def __call__(self, token_ids):
            return {97, asyncio.get_running_loop() is background_loop().loop}

    matcher = MaskFunction(Answers()).compile(small).matcher()
    with pytest.raises(ConstraintRuntimeError, match="holds True"):
        masks(matcher, small)


def test_what_an_async_function_raises_is_the_error_of_the_request(small, other_loop):
    async def function(token_ids):
        raise TimeoutError("too slow")

    matcher = matcher_on(other_loop, function, small)
    with pytest.raises(ConstraintRuntimeError, match="too slow") as caught:
        matcher.fill_mask(np.zeros(9, dtype=np.int32))
    assert isinstance(caught.value.__cause__, TimeoutError)


async def test_an_async_function_is_never_waited_for_in_its_own_loop(small):
    async def function(token_ids):
        return [97]

    matcher = matcher_on(asyncio.get_running_loop(), function, small)
    with pytest.raises(ConstraintRuntimeError, match=r"from the thread of the event loop.*asyncio.to_thread"):
        matcher.fill_mask(np.zeros(9, dtype=np.int32))
    matcher = matcher_on(asyncio.get_running_loop(), function, small)
    row = np.zeros(9, dtype=np.int32)
    await asyncio.to_thread(matcher.fill_mask, row)
    assert row[3] == 1 << 1


def test_a_loop_that_is_closed_is_an_error(small):
    loop = asyncio.new_event_loop()
    loop.close()

    async def function(token_ids):
        return [97]

    matcher = matcher_on(loop, function, small)
    with pytest.raises(ConstraintRuntimeError, match=r"has stopped.*Keep the loop"):
        matcher.fill_mask(np.zeros(9, dtype=np.int32))


def test_a_loop_that_stops_is_an_error_and_no_wait_for_ever(small, monkeypatch):
    monkeypatch.setattr(mask_function, "LOOP_CHECK_SECONDS", 0.01)
    loop = asyncio.new_event_loop()

    async def function(token_ids):
        return [97]

    matcher = matcher_on(loop, function, small)
    with pytest.raises(ConstraintRuntimeError, match="has stopped"):
        matcher.fill_mask(np.zeros(9, dtype=np.int32))
    # What was handed to it would be warned of.
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@pytest.mark.parametrize("token_id", [0, 31, 32, 63, 287])
def test_a_single_token_is_forced(small, token_id):
    matcher = MaskFunction(lambda token_ids: [token_id]).compile(small).matcher()
    assert matcher.forced() == [token_id]
    ends = MaskFunction(lambda token_ids: [285]).compile(small).matcher()
    assert ends.forced() == []
    assert ends.is_finished


def test_a_function_is_asked_once_for_a_state_and_sees_what_was_generated(small, masks):
    asked = []

    def function(token_ids):
        asked.append(token_ids)
        return None

    matcher = MaskFunction(function).compile(small).matcher()
    for _ in range(2):
        masks(matcher, small)
        matcher.forced()
        assert matcher.is_accepting
        assert not matcher.is_finished
        masks(matcher.fork(), small)
    assert asked == [()]
    assert matcher.advance([97, 98]) == 2
    masks(matcher, small)
    assert asked == [(), (97,), (97, 98)]
    matcher.advance([285])
    masks(matcher, small)
    assert len(asked) == 3


def test_functions_are_compared_by_identity():
    def one(token_ids):
        return None

    class Unhashable:
        __hash__ = None

        def __call__(self, token_ids):
            return None

    odd = Unhashable()
    assert MaskFunction(one) == MaskFunction(one)
    assert MaskFunction(one) != MaskFunction(lambda token_ids: None)
    assert MaskFunction(odd) == MaskFunction(odd)
    assert MaskFunction(odd) != MaskFunction(Unhashable())
    with pytest.raises(InvalidConstraintError, match="no function"):
        MaskFunction("abc")


@pytest.mark.parametrize("strings", [[], [""], ["a", ""], [1], ["\ud800"], ""])
def test_wrong_stop_strings_are_an_error(strings):
    with pytest.raises(InvalidConstraintError):
        Stop(strings)


@pytest.mark.parametrize(
    ("strings", "pieces", "include", "cut", "matched"),
    [
        (["STOP"], ["xS", "TO", "Py"], False, 1, "STOP"),
        (["STOP"], ["xS", "TO", "Py"], True, 5, "STOP"),
        (["\n\n"], ["a\n", "\nb"], False, 1, "\n\n"),
        (["b", "abc"], ["a", "b"], False, 1, "b"),
        (["ab", "b"], ["a", "b"], False, 0, "ab"),
        (["c", "abcd"], ["abcd"], False, 2, "c"),
        (["é"], ["x", "é"], True, 3, "é"),
        (["aab"], ["aa", "ab"], False, 1, "aab"),
        (["x"], ["a", "b"], False, None, None),
    ],
)
def test_a_stop_string_is_found_across_tokens(small, strings, pieces, include, cut, matched):
    matcher = Stop(strings, include=include).compile(small).matcher()
    token_ids = [token_id for piece in pieces for token_id in piece.encode()]
    taken = matcher.advance(token_ids)
    assert (matcher.cut, matcher.matched) == (cut, matched)
    assert matcher.end == (matcher.length if cut is None else cut)
    assert matcher.is_finished == (matched is not None)
    if matched is not None:
        matcher.rollback(1)
        assert (matcher.matched, matcher.cut) == (None, None)
        assert matcher.length == taken - 1
        assert matcher.advance(token_ids[taken - 1 : taken]) == 1
        assert matcher.cut == cut


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("", 0),
        ("x", 0),
        ("ST", 2),
        ("STO", 3),
        ("xSTxS", 1),
        ("STOPP"[:3] + "x", 0),
        ("a", 1),
        ("aa", 2),
        ("aaa", 2),
    ],
)
def test_how_much_a_stream_keeps_back(small, text, held):
    matcher = Stop(["STOP", "aab"]).compile(small).matcher()
    matcher.advance(list(text.encode()))
    assert matcher.held == held


def test_a_watch_takes_any_token(small):
    matcher = watch_stops(["ab"], small)
    assert matcher.advance([97, 287, 285]) == 3
    assert matcher.length == 1
    assert matcher.advance([98, 99]) == 1
    assert (matcher.matched, matcher.cut) == ("ab", 0)
    matcher.rollback(3)
    assert matcher.matched is None
    assert matcher.fork().advance([98]) == 1


def test_many_stop_strings(small):
    matcher = watch_stops([f"stop number {n}" for n in range(200)], small)
    assert matcher.advance(list(b"x stop number 17")) == 15
    assert matcher.matched == "stop number 1"
    assert matcher.cut == 2


def test_fixed_masks_drive_nothing_out_of_the_cache(small):
    cache = ConstraintCache()
    makers = MatcherMaker(small, cache)
    for token_id in range(200):
        request = GenerateRequest(
            prompt_ids=(5,), constraint=FixedMask(TokenMask.from_ids([token_id, 97], 288))
        )
        assert makers.is_ready(request)
        assert makers.matcher(request) is not None
    assert len(cache) == 0
