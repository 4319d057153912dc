"""`LLM.choose` and `LLM.distribution` against the plain form of a fake engine's distribution."""

from __future__ import annotations

import itertools
import math

import pytest
from fakes.scripted_model import ScriptedModel

from dcmodel import LLM
from dcmodel.errors import CapabilityError, InvalidRequestError, NonFiniteLogitsError
from dcmodel.types import ScoredContinuation

NESTED = [" no", " no maybe", " no maybe yes"]
APART = [" no", " maybe", " answer yes"]


def close(value):
    return pytest.approx(value, abs=1e-4)


def softmax(weights):
    top = max(weights)
    shares = [math.exp(weight - top) for weight in weights]
    return [share / math.fsum(shares) for share in shares]


def options_of(llm, texts):
    """Their tokens, which are checked to be what the tests are about."""
    ids = [llm.tokenizer.encode(text) for text in texts]
    if texts is NESTED:
        assert all(longer[: len(shorter)] == shorter for shorter, longer in itertools.pairwise(ids))
    return ids


def ended(plain, prompt, ids, eos):
    """Log of the model's probability of just this text: its tokens, then any end."""
    row = plain.row([*prompt, *ids])
    return plain.logprob(prompt, ids) + math.log(math.fsum(math.exp(row[token]) for token in eos))


# -- Options that begin one another --------------------------------------------------------------------


@pytest.mark.parametrize("eos", [(1,), (1, 0), (1, 0, 77)])
def test_nested_options_have_the_models_own_probabilities_of_the_whole_texts(make_llm, plain, eos):
    with make_llm(eos=eos) as llm:
        prompt = llm.tokenizer.encode_prompt("yes")
        weights = [ended(plain, prompt, ids, eos) for ids in options_of(llm, NESTED)]
        choice = llm.choose("yes", NESTED)
        assert choice.ended
        assert list(choice.probabilities.values()) == close(softmax(weights))
        for item, ids, weight in zip(choice.results, options_of(llm, NESTED), weights, strict=True):
            assert item.token_ids == tuple(ids)
            assert item.logprob == close(plain.logprob(prompt, ids))
            assert item.logprob + item.end_logprob == close(weight)


def test_without_the_end_the_longer_ones_would_count_to_the_shorter_one(llm, plain):
    prompt = llm.tokenizer.encode_prompt("yes")
    choice = llm.choose("yes", NESTED, end_of_text=False)
    assert not choice.ended
    sums = [plain.logprob(prompt, ids) for ids in options_of(llm, NESTED)]
    assert [item.probability for item in choice.results] == close(softmax(sums))
    assert sums[0] > sums[1] > sums[2]
    assert all(item.end_logprob is None for item in choice.results)


def test_options_apart_are_weighed_without_their_ends_unless_that_is_asked_for(llm, plain):
    prompt, ids = llm.tokenizer.encode_prompt("yes"), options_of(llm, APART)
    bare = llm.choose("yes", APART)
    assert not bare.ended
    assert [item.probability for item in bare.results] == close(
        softmax([plain.logprob(prompt, own) for own in ids])
    )
    whole = llm.choose("yes", APART, end_of_text=True)
    assert whole.ended
    assert [item.probability for item in whole.results] == close(
        softmax([ended(plain, prompt, own, (1,)) for own in ids])
    )


def test_the_order_of_nested_options_makes_no_difference(llm):
    one = llm.distribution("yes", NESTED)
    other = llm.distribution("yes", NESTED[::-1])
    assert list(other) == NESTED[::-1]
    for text, probability in one.items():
        assert other[text] == close(probability)


def test_each_prompt_of_a_batch_has_its_own_rule(llm):
    nested, apart = llm.choose(["yes", "answer"], [NESTED, APART])
    assert (nested.ended, apart.ended) == (True, False)


def test_without_an_end_of_sequence_token_nested_options_are_refused(make_llm):
    with make_llm(eos=()) as llm:
        with pytest.raises(CapabilityError, match=r"beginning.*end_of_text=False"):
            llm.choose("yes", NESTED)
        with pytest.raises(CapabilityError, match=r"no end-of-sequence token.*end_of_text=False"):
            llm.choose("yes", APART, end_of_text=True)
        assert not llm.choose("yes", APART).ended
        assert not llm.choose("yes", NESTED, end_of_text=False).ended


def test_a_rule_that_is_none_is_refused(llm):
    for value in ("always", 1, None):
        with pytest.raises(InvalidRequestError, match="end_of_text"):
            llm.choose("yes", APART, end_of_text=value)


# -- Normalizers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [False, True])
def test_normalizers_weigh_by_what_they_are_named_after(llm, plain, end):
    prompt, other = llm.tokenizer.encode_prompt("yes"), llm.tokenizer.encode_prompt("answer")
    ids = options_of(llm, APART)

    def total(context, own):
        return ended(plain, context, own, (1,)) if end else plain.logprob(context, own)

    sums = [total(prompt, own) for own in ids]
    weights = {
        "sum": sums,
        "mean": [value / (len(own) + end) for value, own in zip(sums, ids, strict=True)],
        "byte": [value / len(text.encode()) for value, text in zip(sums, APART, strict=True)],
        "pmi": [value - total(other, own) for value, own in zip(sums, ids, strict=True)],
    }
    for normalizer, expected in weights.items():
        unconditional = "answer" if normalizer == "pmi" else None
        choice = llm.choose("yes", APART, normalizer=normalizer, unconditional=unconditional, end_of_text=end)
        assert choice.normalizer == normalizer
        assert [item.probability for item in choice.results] == close(softmax(expected))


def test_means_are_no_probabilities_of_texts_so_that_nothing_counts_twice(llm):
    assert not llm.choose("yes", NESTED, normalizer="mean").ended
    assert not llm.choose("yes", NESTED, normalizer="byte").ended
    assert llm.choose("yes", NESTED, normalizer="pmi", unconditional="answer").ended


def test_pmi_of_nested_options_has_the_end_in_both_parts(llm, plain):
    prompt, other = llm.tokenizer.encode_prompt("yes"), llm.tokenizer.encode_prompt("answer")
    choice = llm.choose("yes", NESTED, normalizer="pmi", unconditional="answer")
    for item, ids in zip(choice.results, options_of(llm, NESTED), strict=True):
        assert item.pmi == close(ended(plain, prompt, ids, (1,)) - ended(plain, other, ids, (1,)))


def test_pmi_needs_its_prompt(llm):
    with pytest.raises(InvalidRequestError, match="unconditional="):
        llm.choose("yes", APART, normalizer="pmi")


def test_options_are_texts(llm):
    with pytest.raises(InvalidRequestError, match="score for token ids"):
        llm.choose("yes", [" no", [5, 6]])


class Impossible(ScriptedModel):
    """Gives the probability 0 to every token after a prompt that begins with this id."""

    first = -1

    async def score(self, request):
        result = await super().score(request)
        if request.prompt_ids[0] != self.first:
            return result
        never = tuple(
            ScoredContinuation(
                token_ids=item.token_ids, logprobs=(-math.inf,) * len(item.logprobs), ranks=item.ranks
            )
            for item in result.continuations
        )
        return type(result)(continuations=never, usage=result.usage)


def test_probabilities_of_0_are_an_error_where_nothing_can_be_told():
    model = Impossible()
    with LLM.from_model(model) as llm:
        model.first = model.tokenizer.encode("a")[0]
        with pytest.raises(NonFiniteLogitsError, match="every option"):
            llm.choose("a", ["x", "y"])
        assert llm.score("a", ["x"], unconditional="b")[0].pmi == -math.inf
        with pytest.raises(NonFiniteLogitsError, match="unconditional prompt"):
            llm.choose("b", ["x", "y"], normalizer="pmi", unconditional="a")


# -- The thin form -------------------------------------------------------------------------------------


async def test_a_distribution_is_the_probabilities_of_the_choice(llm):
    one = llm.distribution("yes", NESTED)
    assert one == close(llm.choose("yes", NESTED).probabilities)
    assert math.fsum(one.values()) == pytest.approx(1.0)
    many = llm.distribution(["yes", "answer"], APART, normalizer="mean")
    assert [list(item) for item in many] == [APART, APART]
    assert await llm.adistribution("yes", NESTED) == close(one)
    assert await llm.adistribution(["yes", "answer"], APART, normalizer="mean") == [
        close(item) for item in many
    ]
