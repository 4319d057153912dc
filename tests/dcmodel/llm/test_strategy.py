"""Several texts of one prompt, and searches, as options of `LLM.generate`."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
from fakes.scripted_model import ScriptedModel

from dcmodel import LLM, GenerateRequest, SamplingParams
from dcmodel.decoding import beam_search, diverse_beam_search
from dcmodel.errors import CapabilityError, DeadEndError, EngineError, InvalidRequestError
from dcmodel.llm.completions import seed_of_draw

DRAW = {"temperature": 1.0, "max_tokens": 6}


def close(value):
    return pytest.approx(value, abs=1e-4)


def texts(completion):
    return [item.text for item in (completion, *completion.alternatives)]


# -- Several draws -------------------------------------------------------------------------------------


def test_n_draws_are_n_requests_with_seeds_of_their_own():
    model = ScriptedModel()
    with LLM.from_model(model) as llm:
        completion = llm.generate("abc", n=4, temperature=1.0, seed=10)
        assert texts(completion) == ["ABC"] * 4
        assert all(not item.alternatives for item in completion.alternatives)
        seeds = [request.sampling.seed for request in model.requests]
        assert seeds == [seed_of_draw(10, number) for number in range(4)]
        assert seeds[0] == 10
        llm.generate("abc", n=2, temperature=1.0)
        assert [request.sampling.seed for request in model.requests[4:]] == [None, None]


def test_seeds_of_draws_are_none_of_those_of_a_batch():
    seeds = {seed_of_draw(seed, number) for seed in range(50) for number in range(50)}
    assert len(seeds) == 50 * 50
    assert len(seeds & set(range(-10, 10_000))) == 50
    assert all(-(2**63) <= seed < 2**64 for seed in seeds)


async def test_draws_come_again_with_the_seed_and_in_the_order_of_their_numbers(llm):
    five = llm.generate("yes", n=5, seed=3, **DRAW)
    assert len(set(texts(five))) > 1
    assert texts(await llm.agenerate("yes", n=5, seed=3, **DRAW)) == texts(five)
    assert texts(llm.generate("yes", n=3, seed=3, **DRAW)) == texts(five)[:3]
    assert texts(llm.generate("yes", seed=3, **DRAW)) == texts(five)[:1]


def test_prompt_i_of_a_batch_draws_as_alone_with_seed_plus_i(llm):
    batch = llm.generate(["yes", "no"], n=3, seed=3, **DRAW)
    assert texts(batch[0]) == texts(llm.generate("yes", n=3, seed=3, **DRAW))
    assert texts(batch[1]) == texts(llm.generate("no", n=3, seed=4, **DRAW))


def test_one_failing_draw_fails_its_prompt_alone():
    with LLM.from_model(ScriptedModel()) as llm:
        first, second = llm.generate(["fail", "b"], n=3, temperature=1.0, return_exceptions=True)
    assert isinstance(first, EngineError)
    assert texts(second) == ["B"] * 3


def test_best_of_keeps_the_likeliest_per_token(llm):
    drawn = llm.generate("yes", n=8, seed=5, **DRAW)
    every = [drawn, *drawn.alternatives]
    means = {item.token_ids: item.raw_logprob / len(item.token_ids) for item in every}
    ranked = sorted(means.values(), reverse=True)
    best = llm.generate("yes", n=3, best_of=8, seed=5, **DRAW)
    assert [item.score for item in (best, *best.alternatives)] == close(ranked[:3])
    assert best.score == close(best.raw_logprob / len(best.token_ids))


def test_best_of_puts_whole_texts_before_those_cut_short(llm):
    options = {"regex": "[a-z]{8,20}", "temperature": 3.0, "max_tokens": 3, "seed": 2}
    best = llm.generate("yes", n=12, best_of=12, **options)
    valid = [item.certificate.valid for item in (best, *best.alternatives)]
    assert {True, False} == set(valid)
    assert valid == sorted(valid, reverse=True)


def test_best_of_gives_the_same_tokens_only_once(llm):
    best = llm.generate("yes", n=9, best_of=9, choices=["a", "b"], temperature=1.0, seed=0)
    assert sorted(texts(best)) in (["a", "b"], ["a"], ["b"])
    assert len(texts(llm.generate("yes", n=9, choices=["a", "b"], temperature=1.0, seed=0))) == 9


def test_best_of_reports_log_probabilities_only_where_they_were_asked_for(llm):
    best = llm.generate("yes", best_of=3, logprobs=False, seed=1, **DRAW)
    assert best.logprobs is None
    assert best.score is not None


def test_draws_that_end_in_a_dead_end_drop_out(llm):
    """A mask that leaves nothing after an "a"."""
    a, b, end = *(llm.tokenizer.encode(letter)[0] for letter in "ab"), 1

    def mask(ids):
        return [a, b] if not ids else [] if ids[0] == a else [end]

    best = llm.generate("yes", n=1, best_of=24, mask=mask, temperature=4.0, seed=0)
    assert best.text == "b"
    with pytest.raises(DeadEndError):
        llm.generate("yes", best_of=3, mask=lambda ids: [a] if not ids else [], temperature=1.0)


# -- Searches ------------------------------------------------------------------------------------------

PATTERN = "[abc]{1,2}"
WORDS = [*"abc", *("".join(pair) for pair in itertools.product("abc", repeat=2))]


def ways(tokenizer, text):
    """All token sequences that spell a text."""
    pieces = [(token_id, data) for token_id, data in enumerate(tokenizer.all_token_bytes()) if data]

    def spell(rest):
        if not rest:
            yield ()
        for token_id, data in pieces:
            if rest.startswith(data) and token_id not in (0, 1):
                yield from ((token_id, *after) for after in spell(rest[len(data) :]))

    return list(spell(text.encode()))


def brute_force(llm, plain, prompt):
    """(log-probability, token ids) of every way to write one of the words; best first.

    A word of one letter ends with the end of the text, one of two letters with the constraint.
    """
    ids = llm.tokenizer.encode_prompt(prompt)
    spelt = [(*way, 1) if len(word) == 1 else way for word in WORDS for way in ways(llm.tokenizer, word)]
    found = [(plain.logprob(ids, way), way) for way in spelt]
    return sorted(found, reverse=True)


def test_wide_beams_find_the_likeliest_texts(llm, plain):
    best = llm.generate("yes", regex=PATTERN, beams=40, n=4, heal=False)
    expected = brute_force(llm, plain, "yes")[:4]
    found = [best, *best.alternatives]
    assert [item.score for item in found] == close([score for score, _ in expected])
    assert [item.token_ids for item in found] == [ids for _, ids in expected]
    assert all(item.certificate.valid for item in found)


async def test_beams_are_those_of_the_decoding_package(llm):
    request = GenerateRequest(prompt_ids=tuple(llm.tokenizer.encode_prompt("yes")), max_tokens=5)
    session = await llm.model.session(request)
    options = {"max_tokens": 5, "heal": False, "beams": 4, "n": 3}
    for penalty in (0.0, 0.5, 1.0):
        expected = await beam_search(session, 4, keep=3, length_penalty=penalty)
        found = llm.generate("yes", length_penalty=penalty, **options)
        assert texts(found) == texts(expected)
        assert found.score == close(expected.score)
        assert found.score == close(found.raw_logprob / len(found.token_ids) ** penalty)
    diverse = await diverse_beam_search(session, 4, 2, 1.5, keep=3)
    found = await llm.agenerate("yes", beam_groups=2, diversity=1.5, **options)
    assert texts(found) == texts(diverse)
    default = await diverse_beam_search(session, 4, 2, 0.5, keep=3)
    assert texts(llm.generate("yes", beam_groups=2, **options)) == texts(default)


def test_beams_of_many_prompts(llm):
    batch = llm.generate(["yes", "no"], regex=PATTERN, beams=3)
    assert [item.text for item in batch] == [
        llm.generate(prompt, regex=PATTERN, beams=3).text for prompt in ("yes", "no")
    ]


def test_exact_sampling_weighs_texts_by_the_models_own_probabilities(llm, plain):
    every = brute_force(llm, plain, "yes")
    log_z = math.log(math.fsum(math.exp(score) for score, _ in every))
    result = llm.generate("yes", regex=PATTERN, sampling="exact", particles=4000, seed=7, heal=False)
    found = [result, *result.alternatives]
    assert result.certificate.semantics == "global"
    assert result.log_z == pytest.approx(log_z, abs=0.1)
    assert math.fsum(item.weight for item in found) == pytest.approx(1.0)
    weights = {item.token_ids: item.weight for item in found}
    distance = sum(abs(weights.get(ids, 0.0) - math.exp(score - log_z)) for score, ids in every) / 2
    assert distance < 0.05


def test_exact_draws_come_again_with_their_seed_and_follow_the_weights(llm):
    options = {"regex": "ab|b|c", "sampling": "exact", "particles": 8, "heal": False}
    assert texts(llm.generate("yes", seed=1, **options)) == texts(llm.generate("yes", seed=1, **options))
    drawn = Counter(item.text for item in llm.generate(["yes"] * 40, seed=1, **options))
    assert set(drawn) <= {"ab", "b", "c"}


def test_exact_draws_without_particles_are_independent_ones(llm, plain):
    every = brute_force(llm, plain, "yes")
    log_z = math.log(math.fsum(math.exp(score) for score, _ in every))
    result = llm.generate("yes", regex=PATTERN, sampling="exact", n=4000, seed=3, heal=False)
    found = [result, *result.alternatives]
    assert len(found) == 4000
    assert "rejection" in result.certificate.detail
    counts = Counter(item.token_ids for item in found)
    distance = sum(abs(counts[ids] / 4000 - math.exp(score - log_z)) for score, ids in every) / 2
    assert distance < 0.05


def test_where_rejection_gives_up_particles_go_on(llm, monkeypatch):
    monkeypatch.setattr("dcmodel.llm.searches.EXACT_TRIES", 1)
    options = {"regex": PATTERN, "sampling": "exact", "heal": False}
    details = {llm.generate("yes", seed=seed, **options).certificate.detail for seed in range(8)}
    assert any("32 particles" in detail for detail in details)
    with pytest.raises(DeadEndError, match="particles="):
        llm.generate("yes", seed=1, n=50, **options)


def test_exact_sampling_has_the_temperature_1_unless_another_is_given(llm):
    options = {"regex": "ab|b|c", "sampling": "exact", "seed": 1, "heal": False}
    default = llm.generate("yes", **options)
    assert default == llm.generate("yes", temperature=1.0, **options)
    assert default.log_z != llm.generate("yes", temperature=3.0, **options).log_z


def test_a_backend_without_sessions_says_so():
    with LLM.from_model(ScriptedModel()) as llm:
        for options in ({"beams": 2}, {"sampling": "exact"}):
            with pytest.raises(CapabilityError, match="no sessions"):
                llm.generate("abc", **options)


# -- What does not go together -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"n": 0}, ["n is 0"]),
        ({"n": 2}, ["n is 2 and temperature is 0", "beams="]),
        ({"best_of": 3}, ["best_of is 3 and temperature is 0"]),
        ({"n": 4, "best_of": 3, "temperature": 1.0}, ["n is 4 and best_of is 3", "best_of=4"]),
        ({"n": 4, "beams": 3}, ["n is 4 and beams is 3", "beams=4"]),
        ({"n": 2, "sampling": "exact", "particles": 4}, ["n is 2", "particles is 4"]),
        ({"beams": 3, "best_of": 3}, ["best_of=3 and beams=3", "one of them"]),
        ({"beams": 3, "sampling": "exact"}, ["beams=3", "exact"]),
        ({"best_of": 2, "sampling": "exact"}, ["best_of=2", "exact"]),
        ({"beams": 3, "temperature": 0.7}, ["temperature is 0.7 and beams is 3", "Leave temperature out"]),
        ({"beams": 3, "top_k": 5}, ["top_k is 5 and beams is 3"]),
        ({"beams": 3, "repetition_penalty": 1.2}, ["repetition_penalty is 1.2"]),
        ({"beams": 4, "beam_groups": 3}, ["4 beams", "beam_groups=3", "divisor"]),
        ({"beam_groups": 3}, ["beam_groups is 3 and there are no beams", "beams="]),
        ({"length_penalty": 1.0}, ["length_penalty is 1.0 and there are no beams"]),
        ({"beams": 2, "length_penalty": -1.0}, ["length_penalty is -1.0"]),
        ({"beams": 2, "diversity": 0.5}, ["diversity is 0.5", "beam_groups="]),
        ({"sampling": "exact", "temperature": 0.0}, ["temperature is 0", "above 0"]),
        ({"sampling": "exact", "top_p": 0.9}, ["top_p is 0.9 and sampling is 'exact'"]),
        ({"sampling": "exact", "min_p": 0.1}, ["min_p is 0.1"]),
        ({"sampling": "exact", "logit_bias": {5: 1.0}}, ["logit_bias", "'exact'"]),
        ({"sampling": "exact", "presence_penalty": 0.1}, ["presence_penalty is 0.1"]),
        ({"particles": 8}, ["particles is 8", 'sampling="exact"']),
        ({"sampling": "nucleus"}, ["sampling is 'nucleus'", "local or exact"]),
        ({"sampling": SamplingParams()}, ["sampling is", "temperature="]),
        ({"beams": 2.5}, ["beams is 2.5"]),
        ({"beams": True}, ["beams is True"]),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_value_and_the_remedy(llm, options, parts):
    with pytest.raises(InvalidRequestError) as caught:
        llm.generate("yes", **options)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "name", ["n", "best_of", "beams", "beam_groups", "diversity", "sampling", "particles"]
)
def test_streams_take_none_of_them(llm, name):
    for call in (llm.stream, llm.astream):
        with pytest.raises(InvalidRequestError, match=rf"{name} does not go with a stream.*Use generate"):
            call("yes", **{name: 2})


def test_a_misspelt_name_is_told_apart(llm):
    with pytest.raises(TypeError, match=r"'beems'.*'beams'"):
        llm.generate("yes", beems=2)


def test_every_pair_of_defaults_means_one_text(llm):
    defaults = {"n": 1, "best_of": None, "beams": None, "sampling": "local", "particles": None}
    for one, other in itertools.combinations(defaults, 2):
        completion = llm.generate("yes", max_tokens=1, **{one: defaults[one], other: defaults[other]})
        assert completion.alternatives == ()
