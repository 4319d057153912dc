"""`LLM.score` and `LLM.score_prompt` against the plain form of a fake engine's distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fakes.scripted_model import ScriptedModel

from dcmodel import LLM, Scored
from dcmodel.errors import CapabilityError, ContextLengthError, InvalidRequestError, TokenRangeError

TEXTS = [" no", " no maybe", " answer", " no"]


def close(value):
    return pytest.approx(value, abs=1e-4)


# -- Texts and token ids -------------------------------------------------------------------------------


def test_each_score_goes_by_its_name(llm, plain):
    prompt = llm.tokenizer.encode_prompt("yes")
    for text, scored in zip(TEXTS, llm.score("yes", TEXTS), strict=True):
        expected = plain.logprobs(prompt, llm.tokenizer.encode(text))
        assert scored.text == text
        assert scored.logprobs == close(expected)
        assert scored.logprob == close(math.fsum(expected))
        assert scored.probability == close(math.exp(math.fsum(expected)))
        assert scored.mean_logprob == close(math.fsum(expected) / len(expected))
        assert scored.byte_logprob == close(math.fsum(expected) / len(text.encode()))
        assert (scored.pmi, scored.end_logprob) == (None, None)
        assert not any(scored.top_logprobs)


def test_ranks_and_the_likeliest_tokens(llm, plain):
    context = llm.tokenizer.encode_prompt("yes")
    (scored,) = llm.score("yes", [" no maybe"], top_logprobs=3)
    assert len(scored.ranks) == len(scored.top_logprobs) == len(scored.token_ids) > 1
    for token_id, rank, top in zip(scored.token_ids, scored.ranks, scored.top_logprobs, strict=True):
        row = plain.row(context)
        assert rank == int((row > row[token_id]).sum())
        assert [item.token_id for item in top] == np.argsort(-row)[:3].tolist()
        assert [item.logprob for item in top] == close(np.sort(row)[::-1][:3].tolist())
        context.append(token_id)
    assert scored.is_greedy is not any(scored.ranks)


def test_bytes_are_counted_and_not_characters():
    ids = (1, 2)
    scored = Scored(
        text="é",
        logprob=-4.0,
        probability=0.0,
        token_ids=ids,
        logprobs=(-2, -2),
        ranks=(0, 0),
        is_greedy=True,
    )
    assert (scored.byte_logprob, scored.mean_logprob) == (-2.0, -2.0)


def test_token_ids_are_scored_as_they_are(llm, plain):
    ids = [*llm.tokenizer.encode(" n"), *llm.tokenizer.encode("o")]
    assert ids != llm.tokenizer.encode(" no")
    by_ids, by_text = llm.score("yes", [ids, " no"])
    assert by_ids.text == by_text.text == " no"
    assert by_ids.token_ids == tuple(ids)
    assert by_ids.logprob == close(plain.logprob(llm.tokenizer.encode_prompt("yes"), ids))
    assert llm.score("yes", [np.array(ids)])[0].token_ids == tuple(ids)


def test_tokens_that_stand_for_no_text_have_no_score_per_byte(llm):
    (scored,) = llm.score("yes", [[1]])
    assert scored.text == ""
    assert math.isnan(scored.byte_logprob)


def test_lists_of_token_ids_are_one_list_for_all_prompts_or_one_for_each(llm):
    ids = [llm.tokenizer.encode(text) for text in (" no", " maybe")]
    shared = llm.score(["yes", "answer"], ids)
    assert [[item.text for item in own] for own in shared] == [[" no", " maybe"]] * 2
    each = llm.score(["yes", "answer"], [[ids[0]], [ids[1], " no"]])
    assert [[item.text for item in own] for own in each] == [[" no"], [" maybe", " no"]]


def test_whitespace_at_a_prompts_end_stays_with_it_where_all_continuations_are_token_ids(llm, plain):
    (scored,) = llm.score("yes ", [[50]])
    assert scored.logprob == close(plain.logprob(llm.tokenizer.encode_prompt("yes "), [50]))
    with pytest.raises(InvalidRequestError, match="two calls"):
        llm.score("yes ", ["no", [50]])


def test_the_same_continuation_twice_is_scored_twice(llm):
    first, *_, last = llm.score("yes", TEXTS)
    assert first == last


@pytest.mark.parametrize("continuations", [[[]], [[1.5]], ["a", []], [["a"]], 5, None, [None]])
def test_what_is_neither_text_nor_token_ids_is_refused(llm, continuations):
    with pytest.raises(InvalidRequestError):
        llm.score("yes", continuations)


def test_token_ids_out_of_range_are_refused(llm):
    with pytest.raises(TokenRangeError, match="100000"):
        llm.score("yes", [[5, 100_000]])


def test_a_continuation_beyond_the_context_is_refused_and_one_that_just_fits_is_scored(make_llm):
    with make_llm(max_positions=32) as llm:
        assert len(llm.score([5], [[6] * 32])[0].logprobs) == 32
        with pytest.raises(ContextLengthError):
            llm.score([5], [[6] * 33])


def test_many_candidates_at_once(llm, plain):
    texts = [f" {number}" for number in range(3000)]
    results = llm.score("answer", texts)
    assert [item.text for item in results] == texts
    prompt = llm.tokenizer.encode_prompt("answer")
    for item in results[::500]:
        assert item.logprob == close(plain.logprob(prompt, item.token_ids))


# -- Against an unconditional prompt -------------------------------------------------------------------


@pytest.mark.parametrize("unconditional", ["answer", [7, 8, 9]])
def test_pmi_is_the_difference_to_the_same_text_after_the_unconditional_prompt(llm, unconditional):
    given = llm.score("yes", TEXTS, unconditional=unconditional)
    alone = llm.score(unconditional, TEXTS)
    bare = llm.score("yes", TEXTS)
    for one, two, three in zip(given, alone, bare, strict=True):
        assert one.logprob == close(three.logprob)
        assert one.pmi == close(three.logprob - two.logprob)


def test_the_unconditional_scores_of_equal_texts_are_computed_once_per_call():
    model = ScriptedModel()
    with LLM.from_model(model) as llm:
        results = llm.score(["a", "b", "c"], [["x", "y"], ["y", "z"], ["x", [50]]], unconditional="u")
    unconditional = tuple(model.tokenizer.encode_prompt("u"))
    asked = [
        item
        for request in model.scored
        if request.prompt_ids == unconditional
        for item in request.continuations
    ]
    assert sorted(asked) == sorted({*(tuple(model.tokenizer.encode(text)) for text in "xyz"), (50,)})
    assert all(item.pmi == 0.0 for own in results for item in own)


def test_an_unconditional_prompt_that_cannot_work_fails_the_call(llm):
    with pytest.raises(InvalidRequestError, match="prompt is empty"):
        llm.score("yes", [" no"], unconditional="")


async def test_the_asynchronous_form_gives_the_same(llm):
    options = {"unconditional": "answer", "top_logprobs": 2}
    for one, two in zip(
        llm.score("yes", TEXTS, **options), await llm.ascore("yes", TEXTS, **options), strict=True
    ):
        assert (one.text, one.token_ids, one.ranks) == (two.text, two.token_ids, two.ranks)
        assert (one.logprob, one.pmi) == (close(two.logprob), close(two.pmi))
    assert [item.token_id for item in llm.score_prompt("yes no")] == [
        item.token_id for item in await llm.ascore_prompt("yes no")
    ]


# -- Prompts themselves --------------------------------------------------------------------------------


def test_the_tokens_of_a_prompt_are_scored_after_the_ones_before_them(llm, plain):
    ids = llm.tokenizer.encode_prompt("yes no maybé")
    tokens = llm.score_prompt("yes no maybé", top_logprobs=2)
    assert [item.token_id for item in tokens] == ids
    assert "".join(item.text for item in tokens) == "yes no maybé"
    assert (tokens[0].logprob, tokens[0].rank, tokens[0].top_logprobs) == (None, None, ())
    for place in range(1, len(ids)):
        row = plain.row(ids[:place])
        assert tokens[place].logprob == close(row[ids[place]])
        assert tokens[place].rank == int((row > row[ids[place]]).sum())
        assert [item.token_id for item in tokens[place].top_logprobs] == np.argsort(-row)[:2].tolist()


def test_prompts_are_scored_many_at_once_and_cached_ones_too(llm):
    alone = llm.score_prompt("yes no maybe")
    again, other = llm.score_prompt(["yes no maybe", [5, 6]])
    assert [item.logprob for item in again[1:]] == close([item.logprob for item in alone[1:]])
    assert [item.token_id for item in other] == [5, 6]
    assert other[1].top_logprobs == ()


def test_a_prompt_of_one_token_has_nothing_to_score(llm):
    with pytest.raises(InvalidRequestError, match="one token"):
        llm.score_prompt([5])


def test_a_backend_that_scores_no_prompts_says_so():
    with LLM.from_model(ScriptedModel()) as llm, pytest.raises(CapabilityError, match="'fake'"):
        llm.score_prompt("abc")
