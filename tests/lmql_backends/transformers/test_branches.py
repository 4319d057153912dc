"""Branches give what plain forwards of each of their paths give, and leave nothing behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes.trees import paths, random_parents
from test_packed_engine import TOLERANCE, Reference, check, make_engine, random_ids, step
from tiny_models import VOCAB_SIZE, make_model

from dcmodel.engine import Branches, GenerateBatch, Span
from dcmodel.errors import EngineError

# Full attention, windows shorter than the texts, softcap, sinks, learned positions, biases and odd sizes.
NAMES = ["llama", "mistral", "gemma2", "gemma3", "gpt_oss", "gpt2", "qwen2-sliding", "phi"]


def random_tree(rng, count, *, bushy=0.5):
    parents = random_parents(rng, count, bushy=bushy)
    return Branches(random_ids(rng, count), parents, range(count))


def logprobs(engine, spans):
    rows = torch.from_numpy(engine.forward(GenerateBatch(spans)).to_numpy())
    found = rows.double().log_softmax(-1).numpy()
    return np.split(found, np.cumsum([span.num_rows for span in spans])[:-1])


def expected_rows(reference, text, span):
    """The wanted rows of a span whose sequence has the tokens `text` afterwards."""
    whole = reference(text) if text else np.zeros((0, VOCAB_SIZE))
    rows = [whole[span.start + offset] for offset in span.wanted]
    if span.branches is not None:
        ways = paths(span.branches)
        rows += [reference(text + ways[offset])[-1] for offset in span.branches.wanted]
    return np.array(rows).reshape(-1, VOCAB_SIZE)


def check_branched(engine, reference, *parts):
    """Forward (handle, text, start, branches) each, and compare all rows."""
    spans = [
        Span(handle, start, text[start:], range(len(text) - start), branches)
        for handle, text, start, branches in parts
    ]
    for (_, text, _, _), span, found in zip(parts, spans, logprobs(engine, spans), strict=True):
        np.testing.assert_allclose(found, expected_rows(reference, text, span), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_branches_of_several_spans_beside_all_other_kinds_are_exact(name):
    model = make_model(name)
    reference = Reference(model)
    engine = make_engine(model)
    rng = np.random.default_rng(5)
    texts = [random_ids(rng, count) for count in (60, 33, 20, 18, 30, 40)]
    handles = [engine.allocate(64) for _ in texts]
    # Chains: none yet, empty later; long, short, a single token; beside them a decoding row and a prompt.
    check_branched(
        engine,
        reference,
        (handles[0], texts[0][:25], 0, random_tree(rng, 30)),
        (handles[1], texts[1][:1], 0, random_tree(rng, 5)),
        (handles[2], [], 0, random_tree(rng, 4)),
        (handles[3], texts[3][:9], 0, None),
    )
    check_branched(
        engine,
        reference,
        (handles[0], texts[0][:25], 25, random_tree(rng, 20, bushy=0.1)),
        (handles[1], texts[1], 1, random_tree(rng, 12)),
        (handles[2], texts[2][:6], 0, random_tree(rng, 17, bushy=0.9)),
        (handles[3], texts[3][:10], 9, None),
        (handles[4], texts[4][:2], 0, None),
        (handles[5], texts[5], 0, None),
    )
    # Nothing is left: all sequences go on as if no branch had been there.
    check(
        engine,
        reference,
        (handles[0], texts[0][:26], 25),
        (handles[1], texts[1] + [7], 33),
        (handles[2], texts[2], 6),
        (handles[4], texts[4], 2),
    )


@pytest.mark.parametrize(("block_rows", "max_scores"), [(7, 1 << 22), (64, 1 << 22), (64, 1000)])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
def test_large_trees_are_exact_in_blocks_of_any_size(name, block_rows, max_scores, monkeypatch):
    monkeypatch.setattr("lmql_backends.transformers.attention.BLOCK_ROWS", block_rows)
    monkeypatch.setattr("lmql_backends.transformers.attention.MAX_SCORES", max_scores)
    model = make_model(name)
    reference = Reference(model)
    engine = make_engine(model)
    rng = np.random.default_rng(2)
    text, handle = random_ids(rng, 50), engine.allocate(50)
    branches = random_tree(rng, 150)
    branches.wanted = sorted(rng.choice(150, 40, replace=False).tolist())
    check_branched(engine, reference, (handle, text, 0, branches))
    # A token far before its children, and levels one after the other instead of depth first.
    parents = [-1, -1, *[0] * 20, *[1] * 20, *range(2, 42)]
    levels = Branches(random_ids(rng, len(parents)), parents, range(0, len(parents), 3))
    check_branched(engine, reference, (handle, text, 50, levels))


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_random_use_agrees_with_lists_of_tokens(name):
    model = make_model(name)
    reference = Reference(model)
    engine = make_engine(model, kv_tokens=600, max_sequences=6)
    rng = np.random.default_rng(1)
    texts: dict[int, list[int]] = {}
    branched = 0
    for _ in range(10):
        handle = engine.allocate(int(rng.integers(1, 40)))
        if handle is not None:
            texts[handle] = []
        elif rng.random() < 0.3:
            gone = int(rng.choice(list(texts)))
            engine.free(gone)
            del texts[gone]
        parts = []
        for handle, text in texts.items():
            more = int(rng.choice([0, 0, 1, 1, 3, 20]))
            count = int(rng.choice([0, 1, 6, 15]))
            branches = random_tree(rng, count) if count else None
            end = len(text) + more
            if more + count and end + count < 128 and engine.reserve(handle, end):
                parts.append((handle, text + random_ids(rng, more), len(text), branches))
                branched += branches is not None
        if parts:
            check_branched(engine, reference, *parts)
            texts |= {handle: text for handle, text, _, _ in parts}
    assert branched > 10


def test_the_same_branches_behind_the_same_prefix_give_the_same_again():
    model = make_model("llama")
    engine = make_engine(model)
    rng = np.random.default_rng(8)
    text, handle = random_ids(rng, 40), engine.allocate(64)
    first, second = random_tree(rng, 25), random_tree(rng, 25)
    begun = logprobs(engine, [Span(handle, 0, text, [], first)])[0]
    again = [logprobs(engine, [Span(handle, 40, [], [], tree)])[0] for tree in (second, first, second, first)]
    np.testing.assert_array_equal(again[0], again[2])
    np.testing.assert_array_equal(again[1], again[3])
    np.testing.assert_allclose(begun, again[1], atol=TOLERANCE)
    # A sequence of its own that got the prefix by a copy.
    fork = engine.allocate(64)
    engine.copy(handle, fork, 40)
    copied, beside = logprobs(engine, [Span(fork, 40, [], [], first), Span(handle, 40, [], [], second)])
    np.testing.assert_allclose(copied, again[1], atol=TOLERANCE)
    np.testing.assert_allclose(beside, again[0], atol=TOLERANCE)


def test_rows_come_in_the_order_of_the_spans_and_then_of_their_branches():
    model = make_model("llama")
    reference = Reference(model)
    engine = make_engine(model)
    rng = np.random.default_rng(4)
    texts = [random_ids(rng, count) for count in (30, 1, 5)]
    trees = [random_tree(rng, 6), None, random_tree(rng, 9)]
    trees[0].wanted, trees[2].wanted = [1, 5], []
    wanted = [[29], [], [0, 4]]
    spans = [
        Span(engine.allocate(32), 0, text, rows, tree)
        for text, rows, tree in zip(texts, wanted, trees, strict=True)
    ]
    found = np.concatenate(logprobs(engine, spans))
    expected = np.concatenate(
        [expected_rows(reference, text, span) for text, span in zip(texts, spans, strict=True)]
    )
    assert len(found) == 1 + 2 + 2
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["llama", "gpt_oss"])
def test_nan_in_a_branch_reaches_neither_its_sequence_nor_a_neighbour(name):
    model = make_model(name)
    reference = Reference(model)
    with torch.no_grad():
        model.get_input_embeddings().weight[190] = float("nan")
    engine = make_engine(model)
    rng = np.random.default_rng(3)
    text, other = ([min(token, 189) for token in random_ids(rng, 40)] for _ in range(2))
    first, second = engine.allocate(60), engine.allocate(60)
    bad = Branches([5, 190, 6], [-1, 0, 1], [0, 1, 2])
    good = Branches([5, 8, 6], [-1, 0, 1], [0, 1, 2])
    spans = [Span(first, 0, text[:20], [19], bad), Span(second, 0, other[:9], range(9), good)]
    found = logprobs(engine, spans)
    assert np.isnan(found[0][2:]).all()
    np.testing.assert_allclose(found[0][0], reference(text[:20])[-1], atol=TOLERANCE)
    np.testing.assert_allclose(found[1], expected_rows(reference, other[:9], spans[1]), atol=TOLERANCE)
    check(engine, reference, (first, text[:21], 20), (second, other[:10], 9))
    check_branched(engine, reference, (first, text, 21, good), (second, other[:30], 10, good))
    engine.free(first)
    third = engine.allocate(60)
    check(engine, reference, (third, other[:3], 0), (second, other[:31], 30))
    check(engine, reference, (third, other[:4], 3), (second, other[:32], 31))


def test_nan_in_a_sequence_stays_in_its_branches():
    model = make_model("llama")
    reference = Reference(model)
    with torch.no_grad():
        model.get_input_embeddings().weight[190] = float("nan")
    engine = make_engine(model)
    good = Branches([5, 8, 6], [-1, 0, 1], [0, 1, 2])
    first, second = engine.allocate(20), engine.allocate(20)
    spans = [Span(first, 0, [190, 4], [1], good), Span(second, 0, [3, 4], [1], good)]
    bad, fine = logprobs(engine, spans)
    assert np.isnan(bad).all()
    np.testing.assert_allclose(fine, expected_rows(reference, [3, 4], spans[1]), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        (Branches([5, 6], [0, -1], [0]), "parent of token 0 is 0"),
        (Branches([5, 6], [-1, -2], [0]), "parent of token 1 is -2"),
        (Branches([5, 6], [-1], [0]), "2 tokens have 1 parents"),
        (Branches([5] * 301, [-1] * 301, [0]), "301 tokens are more than 300"),
        (Branches([5] * 240, range(-1, 239), [0]), "past the 256 positions"),
    ],
)
def test_what_cannot_be_computed_is_refused_and_changes_nothing(branches, message):
    model = make_model("llama")
    reference = Reference(model)
    engine = make_engine(model, max_branch_tokens=300)
    handle, other = engine.allocate(32), engine.allocate(32)
    text = random_ids(np.random.default_rng(0), 20)
    step(engine, (handle, text[:16], 0))
    with pytest.raises(EngineError, match=message):
        engine.forward(GenerateBatch([Span(other, 0, [4], [0]), Span(handle, 16, [4], [0], branches)]))
    check(engine, reference, (handle, text, 16), (other, text[:3], 0))


def test_branches_take_no_room_of_the_sequences():
    model = make_model("llama")
    reference = Reference(model)
    engine = make_engine(model, kv_tokens=256, max_sequences=1, max_branch_tokens=300)
    text = random_ids(np.random.default_rng(0), 250)
    handle = engine.allocate(250)
    tree = Branches(random_ids(np.random.default_rng(1), 300), [-1] * 300, [0, 150, 299])
    check_branched(engine, reference, (handle, text, 0, tree))


def test_bfloat16_branches_are_as_close_to_the_truth_as_the_model_itself():
    truth = Reference(make_model("llama"))
    plain = Reference(make_model("llama", dtype=torch.bfloat16))
    engine = make_engine(make_model("llama", dtype=torch.bfloat16))
    rng = np.random.default_rng(9)
    ours, theirs = [], []
    for _ in range(3):
        text, tree = random_ids(rng, 40), random_tree(rng, 20)
        span = Span(engine.allocate(40), 0, text, [39], tree)
        expected = expected_rows(truth, text, span)
        ours.append(((logprobs(engine, [span])[0] - expected) ** 2).mean())
        theirs.append(((expected_rows(plain, text, span) - expected) ** 2).mean())
    assert np.sqrt(np.mean(ours)) <= 1.3 * np.sqrt(np.mean(theirs))


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_the_dense_way_of_other_devices_gives_the_same(name, monkeypatch):
    monkeypatch.setattr("lmql_backends.transformers.branch_attention.prefers_dense", lambda *_: True)
    model = make_model(name)
    reference = Reference(model)
    engine = make_engine(model)
    rng = np.random.default_rng(6)
    texts = [random_ids(rng, 30), random_ids(rng, 4), []]
    trees = [random_tree(rng, 40), random_tree(rng, 3), random_tree(rng, 5)]
    check_branched(
        engine,
        reference,
        *[(engine.allocate(64), text, 0, tree) for text, tree in zip(texts, trees, strict=True)],
    )
