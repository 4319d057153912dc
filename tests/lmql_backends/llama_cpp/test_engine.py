"""The engine gives what plain forwards of the same weights give, whatever else it holds."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.trees import paths, random_parents

from dcmodel.engine import Branches, GenerateBatch
from dcmodel.errors import EngineError

from .conftest import rows_of, span_of

# Logits; the random model's have a standard deviation of about 1.5.
TOLERANCE = 1e-4


def random_ids(rng, count, vocab_size):
    return [int(token) for token in rng.integers(2, vocab_size, count)]


def random_tree(rng, count, vocab_size, *, bushy=0.5):
    parents = random_parents(rng, count, bushy=bushy)
    return Branches(random_ids(rng, count, vocab_size), parents, range(count))


def expected(reference, text, span):
    """The wanted rows of a span whose sequence has the tokens `text` afterwards."""
    rows = [reference(text)[span.start + offset] for offset in span.wanted]
    if span.branches is not None:
        ways = paths(span.branches)
        rows += [reference([*text, *ways[offset]])[-1] for offset in span.branches.wanted]
    return np.array(rows).reshape(-1, reference.vocab_size)


def check(engine, reference, *parts):
    """Forward ``(sequence, text, start, branches)`` together and compare all rows."""
    spans = [span_of(sequence, text, start, branches=tree) for sequence, text, start, tree in parts]
    for (_, text, _, _), span, found in zip(parts, spans, rows_of(engine, *spans), strict=True):
        np.testing.assert_allclose(found, expected(reference, text, span), atol=TOLERANCE, rtol=0)


def test_prompts_decoding_rows_and_branches_share_a_forward(engine, reference):
    rng = np.random.default_rng(0)
    texts = [random_ids(rng, 30, reference.vocab_size) for _ in range(4)]
    a, b, c, d = (engine.allocate(40) for _ in texts)
    check(engine, reference, (a, texts[0][:20], 0, None), (b, texts[1][:7], 0, None))
    trees = [random_tree(rng, count, reference.vocab_size) for count in (12, 6, 9)]
    check(
        engine,
        reference,
        (a, texts[0][:21], 20, None),
        (b, texts[1][:7], 7, trees[0]),
        (c, texts[2], 0, trees[1]),
        (d, [], 0, trees[2]),
    )
    check(engine, reference, (a, texts[0], 21, trees[2]), (b, texts[1], 7, None))


@pytest.mark.parametrize("is_unified", [True, False], ids=["one cache", "streams"])
@pytest.mark.parametrize("seed", range(4))
def test_any_course_of_events_is_exact(open_engine, reference, seed, is_unified):
    """Sequences come, go, are copied and taken back; what the engine holds is compared at every forward."""
    engine = open_engine(
        max_sequences=12,
        kv_tokens=1200,
        max_batch_tokens=128,
        extra={"n_threads": 1, "kv_unified": is_unified},
    )
    assert (engine.capabilities.max_branch_tokens > 0) == is_unified
    rng = np.random.default_rng(seed)
    texts: dict[int, list[int]] = {}
    for _ in range(60):
        kind = rng.choice(["allocate", "copy", "truncate", "free", "forward", "forward", "forward"])
        if kind == "allocate" or not texts:
            sequence = engine.allocate(int(rng.integers(1, 80)))
            if sequence is not None:
                texts[sequence] = []
            continue
        chosen = int(rng.choice(list(texts)))
        if kind == "copy":
            length = int(rng.integers(0, len(texts[chosen]) + 1))
            target = engine.allocate(length + int(rng.integers(0, 30)))
            if target is not None:
                engine.copy(chosen, target, length)
                texts[target] = texts[chosen][:length]
        elif kind == "truncate":
            length = int(rng.integers(0, len(texts[chosen]) + 1))
            engine.truncate(chosen, length)
            del texts[chosen][length:]
        elif kind == "free":
            engine.free(chosen)
            del texts[chosen]
        else:
            _forward_some(engine, reference, rng, texts)


def _forward_some(engine, reference, rng, texts):
    parts, budget = [], 128
    for sequence in rng.permutation(list(texts)).tolist():
        count = int(rng.integers(0, 12)) if rng.random() < 0.4 else 1
        has_tree = engine.capabilities.max_branch_tokens and rng.random() < 0.3
        size = int(rng.integers(1, 10)) if has_tree else 0
        tree = random_tree(rng, size, reference.vocab_size) if size else None
        text = texts[sequence] + random_ids(rng, count, reference.vocab_size)
        tokens = count + size
        if tokens and tokens <= budget and engine.reserve(sequence, len(text)):
            budget -= tokens
            parts.append((sequence, text, len(texts[sequence]), tree))
    if parts:
        check(engine, reference, *parts)
        for sequence, text, _, _ in parts:
            texts[sequence] = text


def test_branches_need_no_room_and_leave_nothing_behind(open_engine, reference):
    engine = open_engine(max_sequences=4, kv_tokens=128, max_batch_tokens=128)
    rng = np.random.default_rng(1)
    text = random_ids(rng, 90, reference.vocab_size)
    sequence = engine.allocate(128)
    check(engine, reference, (sequence, text, 0, None))
    for _ in range(20):  # together they would fill the cache many times
        tree = random_tree(rng, 60, reference.vocab_size, bushy=0.9)
        check(engine, reference, (sequence, text, 90, tree))
    longer = [*text, *random_ids(rng, 38, reference.vocab_size)]
    check(engine, reference, (sequence, longer, 90, None))


def test_trees_with_more_leaves_than_there_are_sequences_go_in_parts(open_engine, reference):
    engine = open_engine(max_sequences=200, kv_tokens=1024, max_batch_tokens=256)
    rng = np.random.default_rng(2)
    assert engine.capabilities.max_branch_tokens == 56
    parts = []
    for _ in range(4):
        text = random_ids(rng, 9, reference.vocab_size)
        leaves = random_ids(rng, 50, reference.vocab_size)
        parts.append((engine.allocate(9), text, 0, Branches(leaves, [-1] * 50, range(50))))
    check(engine, reference, *parts)


def test_a_shared_prefix_takes_room_once(open_engine):
    engine = open_engine(max_sequences=32, kv_tokens=256, max_batch_tokens=128)
    prompt = list(range(2, 102))
    first = engine.allocate(104)
    rows_of(engine, span_of(first, prompt, wanted=[]))
    copies = [engine.allocate(104) for _ in range(1)]
    engine.copy(first, copies[0], 100)
    while (sequence := engine.allocate(101)) is not None:
        engine.copy(first, sequence, 100)
        copies.append(sequence)
    assert len(copies) > 20
    for sequence in copies:
        engine.free(sequence)
    engine.free(first)
    assert engine.allocate(256) is not None


def test_nothing_is_promised_that_is_not_there(engine):
    assert engine.allocate(2000) is None
    first = engine.allocate(1000)
    assert engine.allocate(100) is None
    second = engine.allocate(24)
    assert not engine.reserve(second, 25)
    engine.free(first)
    assert engine.reserve(second, 1024)
    engine.free(second)
    handles = [engine.allocate(1) for _ in range(16)]
    assert None not in handles
    assert engine.allocate(1) is None


def test_a_span_that_does_not_continue_its_sequence_is_refused(engine):
    sequence = engine.allocate(4)
    rows_of(engine, span_of(sequence, [3, 4]))
    for span, reason in (
        (span_of(sequence, [3], 0), "does not continue"),
        (span_of(sequence, [3, 4, 5, 6, 7], 2), "does not continue"),
        (span_of(sequence, [3, 4], 2, branches=Branches([1], [0], [0])), "does not come before"),
        (span_of(sequence, [3, 4], 2, branches=Branches([1, 2], [-1], [0])), "parents"),
        (span_of(sequence, [3, 4], 2, branches=Branches([1] * 300, [-1] * 300, [0])), "are more than"),
        (span_of(sequence, [3, 4, 10**6], 2), "invalid token"),
    ):
        with pytest.raises(EngineError, match=reason):
            engine.forward(GenerateBatch([span]))
    rows_of(engine, span_of(sequence, [3, 4, 5], 2))


def test_more_tokens_than_a_batch_holds_are_an_error_not_an_abort(engine):
    sequence = engine.allocate(200)
    with pytest.raises(EngineError, match=r"129 tokens and .* more than"):
        engine.forward(GenerateBatch([span_of(sequence, [3] * 129)]))
    rows_of(engine, span_of(sequence, [3] * 128))
