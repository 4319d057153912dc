"""Requests at the borders, answered as lm_eval's ``hf`` answers them on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM

from dcmodel.errors import ContextLengthError, InvalidRequestError
from dcmodel.types import ScoreRequest

TOLERANCE = 1e-3

PAIRS = [
    ("The capital of France is", " Paris"),
    ("The answer: ", "yes"),  # the space goes to the continuation
    ("ein\n\n\t", "zwei"),
    ("", "yes maybe"),
    ("Is it?", " a"),  # one token, and the start of the next
    ("Is it?", " a b"),
    ("Is it?", " a"),  # the same again
    ("Is it? yes", " a"),
    ("No border", "s here"),
    ("<|bos|>Hi", " there"),
    ("text that spells <|eos|> in", " the middle"),
    ("Käse 🙂", " 🙃!"),
]
NUMBERS = " ".join(str(number * number) for number in range(400))
TEXTS = ["Hello world, this is a text.", "", "x", NUMBERS[:300], "Mira 34 Velden"]
GENERATIONS = [
    ("Hello", {"until": ["\n", "."], "max_gen_toks": 20}),
    ("Hello", {"until": "e", "max_gen_toks": 20}),
    ("The name is", {"max_gen_toks": 9, "do_sample": False, "temperature": 0.0}),
    ("Question: why?\nAnswer: ", {"until": ["Question", "\n\n"], "max_new_tokens": 15}),
    ("Mira says:", {"until": [], "max_gen_toks": 12, "repetition_penalty": 1.5}),
]


def instances(kind: str, arguments: Sequence[tuple[Any, ...]]) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=item, idx=number)
        for number, item in enumerate(arguments)
    ]


def assert_same_answers(theirs: list[tuple[float, bool]], ours: list[tuple[float, bool]]) -> None:
    assert [score for score, _ in ours] == pytest.approx([score for score, _ in theirs], abs=TOLERANCE)
    assert [is_greedy for _, is_greedy in ours] == [is_greedy for _, is_greedy in theirs]


def test_texts_become_the_same_tokens(pair):
    for text in [*TEXTS, *(context + continuation for context, continuation in PAIRS)]:
        for special in (None, False):
            assert pair.ours.tok_encode(text, special) == pair.theirs.tok_encode(text, special)
    assert pair.ours.prefix_token_id == pair.theirs.prefix_token_id
    assert pair.ours.eot_token_id == pair.theirs.eot_token_id
    assert pair.ours.max_length == pair.theirs.max_length


@pytest.mark.parametrize("add_bos_token", [True, False])
def test_bos_tokens_as_asked_for(pair, open_ours, open_theirs, add_bos_token):
    ours = open_ours(pair.path, add_bos_token=add_bos_token)
    theirs = open_theirs(pair.path, add_bos_token=add_bos_token)
    for text in TEXTS:
        assert ours.tok_encode(text) == theirs.tok_encode(text)
    requests = instances("loglikelihood", PAIRS[:4])
    assert_same_answers(theirs.loglikelihood(requests, True), ours.loglikelihood(requests, True))


def test_continuations_have_the_same_scores_and_greedy_flags(pair):
    requests = instances("loglikelihood", PAIRS)
    assert_same_answers(pair.theirs.loglikelihood(requests, True), pair.ours.loglikelihood(requests, True))


def test_some_continuations_are_greedy(pair):
    context = pair.theirs.tok_encode("The quick brown")
    likeliest = pair.theirs.model.generate(torch.tensor([context]), max_new_tokens=4, do_sample=False)
    continuation = likeliest[0, len(context) :].tolist()
    pairs = [(("", ""), context, continuation), (("", ""), context, [*continuation[:-1], 5])]
    answers = pair.theirs._loglikelihood_tokens(pairs, disable_tqdm=True)
    assert [is_greedy for _, is_greedy in answers] == [True, False]
    assert_same_answers(answers, pair.ours._loglikelihood_tokens(pairs, disable_tqdm=True))


def test_the_same_tokens_divided_elsewhere(pair, open_theirs):
    """With its cache of logits, lm_eval 0.4.13 takes the second one's scores from the wrong places."""
    token_ids = pair.theirs.tok_encode("one two three four five")
    pairs = [(("", ""), token_ids[:cut], token_ids[cut:]) for cut in (3, 5)]
    plain = open_theirs(pair.path, logits_cache=False)
    expected = plain._loglikelihood_tokens(pairs, disable_tqdm=True)
    assert_same_answers(expected, pair.ours._loglikelihood_tokens(pairs, disable_tqdm=True))


def test_long_contexts_lose_their_beginning(pair, open_ours, open_theirs, caplog):
    ours, theirs = open_ours(pair.path, max_length=48), open_theirs(pair.path, max_length=48)
    requests = instances(
        "loglikelihood",
        [
            ("one two three " * 40, " four"),
            ("one two three " * 40, " four five six"),
            ("short", " four"),
            # as much continuation as fits
            ("context", " y" * 3 * 48),
        ],
    )
    # The last one, cut to exactly the model's length in tokens.
    context, continuation = ours._encode_pair(*requests[-1].args)
    pairs = [(("", ""), context, continuation[:48]), *encoded(ours, requests[:3])]
    assert_same_answers(
        theirs._loglikelihood_tokens(pairs, disable_tqdm=True),
        ours._loglikelihood_tokens(pairs, disable_tqdm=True),
    )
    assert "the first" in caplog.text
    with pytest.raises(ContextLengthError, match="does not fit the context of 48"):
        ours.loglikelihood(requests, True)


def encoded(model: Any, requests: list[Instance]) -> list[tuple[Any, list[int], list[int]]]:
    return [(request.args, *model._encode_pair(*request.args)) for request in requests]


def test_texts_in_windows(pair, open_ours, open_theirs):
    requests = instances("loglikelihood_rolling", [(text,) for text in TEXTS])
    expected = pair.theirs.loglikelihood_rolling(requests, True)
    assert pair.ours.loglikelihood_rolling(requests, True) == pytest.approx(expected, abs=TOLERANCE)
    ours, theirs = open_ours(pair.path, max_length=40), open_theirs(pair.path, max_length=40)
    windowed = theirs.loglikelihood_rolling(requests, True)
    assert windowed != pytest.approx(expected, abs=TOLERANCE)
    assert ours.loglikelihood_rolling(requests, True) == pytest.approx(windowed, abs=TOLERANCE)


def test_a_text_longer_than_the_model_itself(checkpoints, open_ours, open_theirs):
    path = checkpoints["random"]
    requests = instances("loglikelihood_rolling", [(NUMBERS,)])
    ours, theirs = open_ours(path), open_theirs(path)
    assert len(ours.tok_encode(requests[0].args[0])) > ours.max_length
    expected = theirs.loglikelihood_rolling(requests, True)
    assert ours.loglikelihood_rolling(requests, True) == pytest.approx(expected, abs=TOLERANCE)


def test_generations_are_the_same(pair):
    requests = instances("generate_until", GENERATIONS)
    expected = [pair.theirs.generate_until([request], True)[0] for request in requests]
    assert pair.ours.generate_until(requests, True) == expected
    assert any(expected)


def test_long_prompts_of_generations_lose_their_beginning(pair, open_ours, open_theirs):
    ours, theirs = open_ours(pair.path, max_length=48), open_theirs(pair.path, max_length=48)
    requests = instances("generate_until", [("one two three " * 40, {"until": ["\n"], "max_gen_toks": 10})])
    assert ours.generate_until(requests, True) == theirs.generate_until(requests, True)
    requests = instances("generate_until", [("one", {"max_gen_toks": 48})])
    with pytest.raises(ContextLengthError, match="leaves nothing of the 48 tokens"):
        ours.generate_until(requests, True)


def test_sampled_generations_are_repeatable(pair, open_ours):
    sampled = {"do_sample": True, "temperature": 1.5, "max_gen_toks": 12}
    requests = instances("generate_until", [("Hello", sampled)] * 3)
    first = pair.ours.generate_until(requests, True)
    assert len(set(first)) > 1
    assert pair.ours.generate_until(requests, True) == first
    assert open_ours(pair.path, seed=7).generate_until(requests, True) != first


@pytest.mark.parametrize("texts", [("", ""), ("a", "")])
def test_a_continuation_without_tokens_is_refused(pair, texts):
    with pytest.raises(InvalidRequestError, match=r"no text at all|no tokens of its own"):
        pair.ours.loglikelihood(instances("loglikelihood", [texts]), True)


def test_options_of_a_context_are_one_request(checkpoints, open_ours, monkeypatch):
    ours = open_ours(checkpoints["random"], max_in_flight=2)
    seen: list[ScoreRequest] = []
    score = ours._model.score

    async def recorded(request: ScoreRequest) -> Any:
        seen.append(request)
        return await score(request)

    monkeypatch.setattr(ours._model, "score", recorded)
    ours.loglikelihood(instances("loglikelihood", PAIRS), True)
    contexts = {tuple(context) for _, context, _ in encoded(ours, instances("", [p for p in PAIRS if p[0]]))}
    assert len(seen) == len(contexts) + 1  # and the empty one
    assert [request.prompt_ids for request in seen] == sorted(request.prompt_ids for request in seen)
    assert sum(len(request.continuations) for request in seen) == len(PAIRS)


def test_results_go_into_the_cache(pair, monkeypatch):
    kept: list[tuple[str, tuple[Any, ...], Any]] = []

    class Hook:
        def add_partial(self, kind: str, arguments: tuple[Any, ...], result: Any) -> None:
            kept.append((kind, arguments, result))

    monkeypatch.setattr(pair.ours, "cache_hook", Hook())
    requests = {
        "loglikelihood": PAIRS,
        "loglikelihood_rolling": [(text,) for text in TEXTS],
        "generate_until": GENERATIONS[:2],
    }
    call: Callable[..., list[Any]]
    for kind, arguments in requests.items():
        kept.clear()
        call = getattr(pair.ours, kind)
        results = call(instances(kind, arguments), True)
        assert all(entry[0] == kind for entry in kept)
        found = [(entry[1], entry[2]) for entry in kept]
        assert sorted(found, key=repr) == sorted(zip(arguments, results, strict=True), key=repr)


def test_lm_evals_cache_answers_what_it_knows(checkpoints, open_ours, tmp_path, monkeypatch):
    ours = open_ours(checkpoints["random"])
    cached = CachingLM(ours, str(tmp_path / "cache.db"))
    requests = instances("loglikelihood", PAIRS[:5])
    first = cached.loglikelihood(requests)
    asked: list[ScoreRequest] = []
    score = ours._model.score

    async def recorded(request: ScoreRequest) -> Any:
        asked.append(request)
        return await score(request)

    monkeypatch.setattr(ours._model, "score", recorded)
    assert cached.loglikelihood(requests) == first
    assert not asked
    cached.loglikelihood(instances("loglikelihood", PAIRS[:7]))
    assert len(asked) == 1
    cached.dbdict.close()
