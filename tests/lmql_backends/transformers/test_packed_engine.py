"""The packed engine gives what plain forwards of the same models give."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tiny_models import ARCHITECTURES, VOCAB_SIZE, make_model

from dcmodel.engine import Capabilities, GenerateBatch, Span
from lmql_backends.transformers.cpu_pack import pack_linears
from lmql_backends.transformers.engine import TransformersEngine
from lmql_backends.transformers.kv_store import KVStore
from lmql_backends.transformers.packed import probe, use_slots

TOLERANCE = 2e-5


def make_engine(
    model, *, kv_tokens=4096, max_sequences=32, smallest_capacity=8, packs=True, max_branch_tokens=200
):
    if packs:
        pack_linears(model)
    use_slots(model)
    store = KVStore(
        probe(model).shapes,
        kv_tokens=kv_tokens,
        max_sequences=max_sequences,
        max_length=256,
        device=model.device,
        smallest_capacity=smallest_capacity,
    )
    capabilities = Capabilities(
        vocab_size=VOCAB_SIZE,
        max_positions=256,
        max_sequences=max_sequences,
        kv_tokens=kv_tokens,
        max_batch_tokens=512,
        max_branch_tokens=max_branch_tokens,
    )
    return TransformersEngine(model, capabilities, store)


class Reference:
    """Log-probabilities from plain forwards, one per token list."""

    def __init__(self, model):
        self._model = copy.deepcopy(model)
        # What the authors wrote; sdpa dropped Gemma 2's softcap up to transformers 5.17.
        self._model.set_attn_implementation("eager")
        self._known = {}

    def __call__(self, token_ids):
        key = tuple(token_ids)
        if key not in self._known:
            with torch.inference_mode():
                logits = self._model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0]
            self._known[key] = logits.double().log_softmax(-1).numpy()
        return self._known[key]


def step(engine, *parts):
    """Log-probabilities of all rows of ``token_ids[start:]`` of each (handle, token_ids, start)."""
    spans = [Span(handle, start, ids[start:], range(len(ids) - start)) for handle, ids, start in parts]
    logits = torch.from_numpy(engine.forward(GenerateBatch(spans)).to_numpy())
    rows = logits.double().log_softmax(-1).numpy()
    counts = [len(ids) - start for _, ids, start in parts]
    return np.split(rows, np.cumsum(counts)[:-1])


def check(engine, reference, *parts):
    for (_, ids, start), found in zip(parts, step(engine, *parts), strict=True):
        np.testing.assert_allclose(found, reference(ids)[start:], atol=TOLERANCE, rtol=0)


def random_ids(rng, count):
    return rng.integers(3, VOCAB_SIZE, count).tolist()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_ragged_batches_of_every_architecture_are_exact(name):
    model = make_model(name)
    reference = Reference(model)
    engine = make_engine(model)
    rng = np.random.default_rng(7)
    lengths = [3, 41, 18, 1, 70]
    texts = [random_ids(rng, length + 12) for length in lengths]
    handles = [engine.allocate(8) for _ in texts]
    held = [0] * len(texts)

    def go(*ends):
        parts = []
        for index, end in enumerate(ends):
            if end > held[index]:
                assert engine.reserve(handles[index], end)
                parts.append((handles[index], texts[index][:end], held[index]))
                held[index] = end
        check(engine, reference, *parts)

    go(3, 40, 7, 1, 23)  # first chunks: short, long
    go(4, 41, 18, 2, 70)  # decode, decode, forced run, decode, long chunk
    for more in range(1, 4):
        go(4 + more, 41 + more, 18 + more, 2 + more, 70 + more)
    fork = engine.allocate(64)
    engine.copy(handles[1], fork, 30)
    other = texts[1][:30] + random_ids(rng, 20)
    engine.truncate(handles[4], 50)
    held[4] = 50
    changed = texts[4][:50] + random_ids(rng, 5)
    check(
        engine,
        reference,
        (fork, other[:33], 30),
        (handles[4], changed[:51], 50),
        (handles[0], texts[0][:8], 7),
    )
    check(engine, reference, (fork, other, 33), (handles[1], texts[1][:45], 44), (handles[4], changed, 51))


@pytest.mark.parametrize(
    ("name", "group_bytes", "max_scores", "block_rows"),
    [("gemma2", 1 << 18, 1 << 22, 64), ("gpt_oss", 0, 500, 64), ("qwen3", 3000, 1 << 22, 7)],
)
def test_random_operations_agree_with_lists_of_tokens(name, group_bytes, max_scores, block_rows, monkeypatch):
    monkeypatch.setattr("lmql_backends.transformers.step_plan.GROUP_BYTES", group_bytes)
    monkeypatch.setattr("lmql_backends.transformers.attention.MAX_SCORES", max_scores)
    monkeypatch.setattr("lmql_backends.transformers.attention.BLOCK_ROWS", block_rows)
    model = make_model(name)
    reference = Reference(model)
    engine = make_engine(model, kv_tokens=900, max_sequences=10)
    rng = np.random.default_rng(11)
    texts: dict[int, list[int]] = {}
    refused = 0
    for _ in range(150):
        action = rng.choice(["allocate", "forward", "forward", "forward", "copy", "truncate", "free"])
        handles = list(texts)
        if action == "allocate":
            handle = engine.allocate(int(rng.integers(1, 60)))
            refused += handle is None
            if handle is not None:
                texts[handle] = []
        elif not handles:
            continue
        elif action == "copy":
            source = int(rng.choice(handles))
            length = int(rng.integers(0, len(texts[source]) + 1))
            target = engine.allocate(max(1, length))
            refused += target is None
            if target is not None:
                engine.copy(source, target, length)
                texts[target] = texts[source][:length]
        elif action == "truncate":
            handle = int(rng.choice(handles))
            length = int(rng.integers(0, len(texts[handle]) + 1))
            engine.truncate(handle, length)
            del texts[handle][length:]
        elif action == "free":
            handle = int(rng.choice(handles))
            engine.free(handle)
            del texts[handle]
        else:
            parts = []
            for handle in handles:
                more = int(rng.choice([0, 1, 1, 1, 2, 5, 30]))
                end = len(texts[handle]) + more
                if more and end <= 256:
                    if engine.reserve(handle, end):
                        parts.append((handle, texts[handle] + random_ids(rng, more), len(texts[handle])))
                    else:
                        refused += 1
            if parts:
                check(engine, reference, *parts)
                for handle, ids, _ in parts:
                    texts[handle] = ids
    assert refused > 5


def test_only_wanted_rows_come_back_in_the_order_of_the_batch():
    model = make_model("llama")
    reference = Reference(model)
    engine = make_engine(model)
    texts = [random_ids(np.random.default_rng(1), count) for count in (30, 4, 1, 5)]
    wanted = [[0, 29], [], [0], [1, 2, 4]]
    spans = [Span(engine.allocate(32), 0, ids, rows) for ids, rows in zip(texts, wanted, strict=True)]
    found = torch.from_numpy(engine.forward(GenerateBatch(spans)).to_numpy()).double().log_softmax(-1)
    expected = np.concatenate([reference(ids)[rows] for ids, rows in zip(texts, wanted, strict=True) if rows])
    np.testing.assert_allclose(found.numpy(), expected, atol=TOLERANCE)


def test_a_forward_that_wants_nothing_gives_no_rows():
    engine = make_engine(make_model("llama"))
    rows = engine.forward(GenerateBatch([Span(engine.allocate(8), 0, [5, 6, 7], [])]))
    assert rows.to_numpy().shape == (0, VOCAB_SIZE)


@pytest.mark.parametrize("name", ["llama", "gpt_oss"])
def test_nan_in_one_sequence_never_reaches_another(name):
    model = make_model(name)
    reference = Reference(model)
    with torch.no_grad():
        model.get_input_embeddings().weight[190] = float("nan")
    engine = make_engine(model)
    rng = np.random.default_rng(3)
    good, bad = random_ids(rng, 40), random_ids(rng, 60)
    good = [min(token, 189) for token in good]
    bad[0] = 190
    first, second = engine.allocate(60), engine.allocate(60)
    found = step(engine, (first, bad[:50], 0), (second, good[:20], 0))
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], reference(good[:20]), atol=TOLERANCE)
    # Its slot, its copy, and its truncated self are clean for whoever comes next.
    third = engine.allocate(60)
    engine.copy(first, third, 50)
    engine.truncate(third, 0)
    engine.free(first)
    fourth = engine.allocate(60)
    check(engine, reference, (third, good[:3], 0), (second, good[:21], 20), (fourth, good[:2], 0))
    check(engine, reference, (third, good[:4], 3), (second, good[:22], 21), (fourth, good[:3], 2))


def test_a_failed_forward_leaves_the_sequences_as_they_were():
    model = make_model("llama")
    reference = Reference(model)
    engine = make_engine(model)
    ids = random_ids(np.random.default_rng(5), 30)
    handle = engine.allocate(40)
    check(engine, reference, (handle, ids[:10], 0))
    with pytest.raises(IndexError):
        engine.forward(GenerateBatch([Span(handle, 10, [VOCAB_SIZE + 5], [0])]))
    check(engine, reference, (handle, ids[:13], 10))


def test_a_span_that_does_not_continue_its_sequence_is_refused():
    from dcmodel.errors import EngineError

    engine = make_engine(make_model("llama"))
    handle = engine.allocate(8)
    with pytest.raises(EngineError, match="does not continue"):
        engine.forward(GenerateBatch([Span(handle, 3, [5], [0])]))


@pytest.mark.parametrize("name", ["llama", "gpt_oss"])
def test_bfloat16_is_as_close_to_the_truth_as_the_model_itself(name):
    truth = Reference(make_model(name))
    plain = Reference(make_model(name, dtype=torch.bfloat16))
    engine = make_engine(make_model(name, dtype=torch.bfloat16))
    rng = np.random.default_rng(9)
    ours, theirs = [], []
    texts = [random_ids(rng, int(count)) for count in rng.integers(20, 60, 12)]
    handles = [engine.allocate(64) for _ in texts]
    found = step(engine, *[(handle, ids[:-8], 0) for handle, ids in zip(handles, texts, strict=True)])
    parts = [[rows] for rows in found]
    for left in range(7, -1, -1):
        ends = [len(ids) - left for ids in texts]
        found = step(
            engine, *[(h, ids[:end], end - 1) for h, ids, end in zip(handles, texts, ends, strict=True)]
        )
        for part, rows in zip(parts, found, strict=True):
            part.append(rows)
    for ids, part in zip(texts, parts, strict=True):
        expected = truth(ids)
        ours.append(((np.concatenate(part) - expected) ** 2).mean())
        theirs.append(((plain(ids) - expected) ** 2).mean())
    assert np.sqrt(np.mean(ours)) <= 1.3 * np.sqrt(np.mean(theirs))
