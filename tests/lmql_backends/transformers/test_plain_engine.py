"""The plain engine: exact for models whose attention cannot be replaced, whatever their caches can do."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tiny_models import PLAIN_ARCHITECTURES, VOCAB_SIZE, make_model

from dcmodel.backend import LoadOptions
from dcmodel.engine import Branches, Capabilities, GenerateBatch, Span
from dcmodel.errors import EngineError
from lmql_backends.transformers.fallback import PlainEngine
from lmql_backends.transformers.loading import build_engine

CAPABILITIES = Capabilities(
    vocab_size=VOCAB_SIZE, max_positions=100, max_sequences=3, kv_tokens=60, max_batch_tokens=64
)


def logprobs(engine, *spans):
    rows = torch.from_numpy(engine.forward(GenerateBatch(list(spans))).to_numpy())
    return rows.double().log_softmax(-1).numpy()


def plain(model, token_ids):
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0]
    return logits.double().log_softmax(-1).numpy()


@pytest.mark.parametrize("name", [*PLAIN_ARCHITECTURES, "llama", "mistral"])
@pytest.mark.parametrize("uses_cache", [True, False])
def test_operations_agree_with_plain_forwards(name, uses_cache):
    model = make_model(name)
    engine = PlainEngine(model, CAPABILITIES, uses_cache=uses_cache)
    rng = np.random.default_rng(0)
    first, second = rng.integers(3, VOCAB_SIZE, 30).tolist(), rng.integers(3, VOCAB_SIZE, 20).tolist()
    one, two = engine.allocate(30), engine.allocate(20)

    def check(handle, ids, start):
        span = Span(handle, start, ids[start:], range(len(ids) - start))
        np.testing.assert_allclose(logprobs(engine, span), plain(model, ids)[start:], atol=2e-5)

    check(one, first[:10], 0)
    check(two, second[:1], 0)
    check(one, first[:15], 10)
    check(one, first[:16], 15)
    engine.truncate(two, 0)
    check(two, second[:4], 0)
    engine.free(two)
    fork, full = engine.allocate(10), engine.allocate(17)
    engine.copy(one, fork, 7)
    engine.copy(one, full, 16)
    engine.truncate(one, 12)
    check(one, first[:12] + second[:3], 12)
    check(fork, first[:7] + second[:2], 7)
    check(full, first[:17], 16)


def test_places_are_limited_and_come_back():
    engine = PlainEngine(make_model("gptj"), CAPABILITIES, uses_cache=True)
    one, two = engine.allocate(30), engine.allocate(20)
    assert engine.allocate(11) is None
    assert not engine.reserve(one, 41)
    assert engine.reserve(one, 40)
    engine.free(one)
    three, four = engine.allocate(30), engine.allocate(5)
    assert engine.allocate(1) is None
    assert len({two, three, four}) == 3


def test_a_failed_forward_leaves_the_sequences_as_they_were():
    model = make_model("gptj")
    engine = PlainEngine(model, CAPABILITIES, uses_cache=True)
    handle, other = engine.allocate(20), engine.allocate(20)
    logprobs(engine, Span(handle, 0, [5, 6, 7], [2]))
    with pytest.raises(IndexError):
        logprobs(engine, Span(handle, 3, [8], [0]), Span(other, 0, [VOCAB_SIZE + 3], [0]))
    found = logprobs(engine, Span(handle, 3, [9], [0]), Span(other, 0, [4], [0]))
    np.testing.assert_allclose(found, [plain(model, [5, 6, 7, 9])[-1], plain(model, [4])[-1]], atol=2e-5)
    with pytest.raises(EngineError, match="does not continue"):
        logprobs(engine, Span(handle, 3, [9], [0]))


def test_branches_are_refused_and_change_nothing():
    model = make_model("gptj")
    engine = PlainEngine(model, CAPABILITIES, uses_cache=True)
    handle = engine.allocate(20)
    logprobs(engine, Span(handle, 0, [5, 6, 7], [2]))
    with pytest.raises(EngineError, match="no branches"):
        logprobs(engine, Span(handle, 3, [8], [0], Branches([4], [-1], [0])))
    np.testing.assert_allclose(
        logprobs(engine, Span(handle, 3, [9], [0])), plain(model, [5, 6, 7, 9])[-1:], atol=2e-5
    )


@pytest.mark.parametrize("name", PLAIN_ARCHITECTURES)
def test_loading_falls_back_with_a_warning_and_stays_exact(name, caplog):
    model = make_model(name)
    reference = copy.deepcopy(model)
    built = build_engine(model, LoadOptions(kv_tokens=200, max_sequences=4), name=name)
    assert isinstance(built.engine, PlainEngine)
    assert "cannot be replaced" in built.details["slow"]
    assert "one sequence at a time" in caplog.text
    assert built.engine.capabilities.can_copy == (name != "mamba")
    assert built.engine.capabilities.max_branch_tokens == 0
    ids = np.random.default_rng(1).integers(3, VOCAB_SIZE, 25).tolist()
    handle, fork = built.engine.allocate(30), built.engine.allocate(30)
    logprobs(built.engine, Span(handle, 0, ids[:12], [11]))
    built.engine.copy(handle, fork, 9)
    found = logprobs(built.engine, Span(handle, 12, ids[12:15], [0, 1, 2]), Span(fork, 9, ids[9:], [15]))
    expected = plain(reference, ids)
    np.testing.assert_allclose(found, expected[[12, 13, 14, 24]], atol=2e-5)
