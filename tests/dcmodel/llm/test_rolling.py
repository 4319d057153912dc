"""`LLM.rolling`: every token once, after the context that its window has."""

from __future__ import annotations

import math
import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dcmodel.errors import CapabilityError, ContextLengthError, InvalidRequestError
from dcmodel.llm.prompts import text_ids
from dctokenizers import from_huggingface

WORDS = ["yes", "no", "maybe", "answer", "question", "name", "age", "true", "the", "quick", "fox"]


def text_of(count, seed=0):
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(count))


def expected(plain, token_ids, prefix, window, overlap):
    """lm-evaluation-harness' policy, written down once more: where each token's context begins."""
    found, begin, size = [], 0, len(token_ids)
    text = [prefix, *token_ids]  # token i of the text is predicted from what ends at place i
    while begin < size:
        end = min(window, size) if begin == 0 else min(begin + window - overlap + 1, size)
        start = max(end - window, 0) if begin else 0
        found += [float(plain.row(text[start : place + 1])[token_ids[place]]) for place in range(begin, end)]
        begin = end
    return found


def close(value):
    return pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize(("window", "overlap"), [(None, 1), (16, 1), (16, 8), (16, 16), (1, 1), (7, 3)])
def test_each_token_is_scored_after_its_windows_context(llm, plain, window, overlap):
    text = text_of(40)
    score = llm.rolling(text, window=window, overlap=overlap)
    ids = llm.tokenizer.encode(text)
    assert (score.text, score.token_ids) == (text, tuple(ids))
    logprobs = expected(plain, ids, 1, window or 512, overlap)
    assert score.logprobs == close(logprobs)
    assert score.logprob == close(math.fsum(logprobs))


def test_a_text_beyond_the_context_of_the_model(make_llm, plain):
    with make_llm(max_positions=24) as llm:
        for words in range(1, 40, 3):
            ids = llm.tokenizer.encode(text_of(words))
            score = llm.rolling(text_of(words))
            assert score.logprobs == close(expected(plain, ids, 1, 24, 1))


def test_the_measures_are_those_of_lm_evaluation_harness(llm):
    text = text_of(9) + " é\n\nyes"
    score = llm.rolling(text)
    assert score.byte_logprob == score.logprob / len(text.encode())
    assert score.bits_per_byte == pytest.approx(-score.logprob / len(text.encode()) / math.log(2))
    assert score.perplexity == pytest.approx(math.exp(-score.logprob / len(score.token_ids)))
    assert score.word_perplexity == pytest.approx(math.exp(-score.logprob / 11))


def test_measures_beyond_a_float_are_infinite(llm):
    score = llm.rolling("yes")
    huge = type(score)(text="a", logprob=-1e6, token_ids=(1,), logprobs=(-1e6,))
    assert huge.perplexity == huge.word_perplexity == math.inf


def test_the_first_token_comes_after_the_beginning_of_text_or_else_the_end_of_text(make_llm, plain):
    with make_llm(eos=(7, 1)) as llm:
        (first,) = llm.rolling([5]).logprobs
        assert first == close(plain.row([7])[5])
    with make_llm(eos=()) as llm, pytest.raises(CapabilityError, match="first token"):
        llm.rolling("yes")


async def test_many_texts_are_scored_together_in_both_forms(llm):
    texts = [text_of(words, seed=words) for words in (1, 30, 7)]
    alone = [llm.rolling(text, window=8) for text in texts]
    for scores in (llm.rolling(texts, window=8), await llm.arolling(texts, window=8)):
        assert [item.text for item in scores] == texts
        for one, other in zip(alone, scores, strict=True):
            assert one.logprobs == close(other.logprobs)
    assert llm.rolling([]) == []


def test_token_ids_may_stand_for_a_text(llm):
    ids = llm.tokenizer.encode("yes no")
    assert llm.rolling(ids).logprob == close(llm.rolling("yes no").logprob)
    assert llm.rolling(ids).text == "yes no"


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"overlap": 0}, "overlap is 0"),
        ({"overlap": 9, "window": 8}, "overlap is 9 and the window 8"),
        ({"window": 0}, "window is 0"),
        ({"window": 2.5}, "window is 2.5"),
    ],
)
def test_windows_that_cannot_be_are_refused(llm, options, part):
    with pytest.raises(InvalidRequestError, match=part):
        llm.rolling("yes", **options)


def test_a_window_beyond_the_context_is_refused(llm):
    with pytest.raises(ContextLengthError, match="513"):
        llm.rolling("yes", window=513)


@pytest.mark.parametrize("text", ["", ["yes", ""], [[5], []]])
def test_an_empty_text_is_refused(llm, text):
    with pytest.raises(InvalidRequestError, match="empty"):
        llm.rolling(text)


def test_a_text_is_tokenized_as_at_the_beginning_of_the_models_input():
    """Families with a dummy space put it before the first word; no BOS is among the tokens."""
    pieces = ["<unk>", "\u2581", "y", "e", "s", "\u2581y", "\u2581ye", "\u2581yes"]
    merges = [("\u2581", "y"), ("\u2581y", "e"), ("\u2581ye", "s")]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    hf = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    hf.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    hf.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer = from_huggingface(hf)
    assert tokenizer.has_prefix_space
    assert text_ids(tokenizer, "yes") == tuple(hf.encode("yes", add_special_tokens=False).ids)
    assert text_ids(tokenizer, "yes") != tuple(tokenizer.encode("yes"))
