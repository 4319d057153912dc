"""Adapters on the packed and the plain engine against models that they are merged into."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from fakes.lora_adapters import TARGETS, make_adapter, merged
from test_packed_engine import make_engine, random_ids
from tiny_models import VOCAB_SIZE, make_model

from dcmodel.engine import Branches, Capabilities, GenerateBatch, Span
from dcmodel.errors import CapabilityError, EngineError
from lmql_backends.transformers.fallback import PlainEngine

TOLERANCE = 1e-5
PACKED = ["llama", "gpt2", "gemma2", "gpt_neox"]


def mount(engine, handle, source):
    engine.mount_adapter(handle, engine.read_adapter(source))


def rows(engine, *spans):
    """Logits of each span."""
    found = engine.forward(GenerateBatch(list(spans))).to_numpy()
    return np.split(found, np.cumsum([span.num_rows for span in spans])[:-1])


def plain_logits(model, token_ids):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0].numpy()


def three(tmp_path, name, model):
    """Two adapters of different ranks and targets, and the models that they make; 0 is the base."""
    sources = [
        make_adapter(tmp_path / "one", model, TARGETS[name], seed=1),
        make_adapter(tmp_path / "two", model, TARGETS[name][:2], seed=2, rank=3, alpha=5),
    ]
    models = [copy.deepcopy(model), *(merged(model, source) for source in sources)]
    for item in models:
        if item.config._attn_implementation != "eager":
            item.set_attn_implementation("eager")
    return sources, models


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("name", PACKED)
def test_a_mixed_batch_gives_what_merged_models_give(tmp_path, name, packs):
    model = make_model(name)
    sources, models = three(tmp_path, name, model)
    engine = make_engine(model, packs=packs)
    for handle, source in enumerate(sources, start=1):
        mount(engine, handle, source)
    rng = np.random.default_rng(3)
    # Long and short prompts, then single tokens, of the base model and both adapters in every batch.
    adapters = [0, 1, 2, 1, 0, 2]
    texts = [random_ids(rng, length + 3) for length in (40, 3, 25, 30, 7, 1)]
    expected = [plain_logits(models[adapter], text) for adapter, text in zip(adapters, texts, strict=True)]
    handles = [engine.allocate(64) for _ in texts]
    done = [0] * len(texts)
    for left in (3, 2, 1, 0):
        spans = []
        for place, text in enumerate(texts):
            new = text[done[place] : len(text) - left]
            spans.append(Span(handles[place], done[place], new, range(len(new)), adapter=adapters[place]))
        for place, found in enumerate(rows(engine, *spans)):
            wanted = expected[place][done[place] : len(texts[place]) - left]
            np.testing.assert_allclose(found, wanted, atol=TOLERANCE * np.abs(wanted).max(), rtol=0)
            done[place] = len(texts[place]) - left


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_rows_alone_and_in_a_mixed_batch_are_the_same(tmp_path, name):
    model = make_model(name)
    sources, _ = three(tmp_path, name, model)
    engine = make_engine(model)
    for handle, source in enumerate(sources, start=1):
        mount(engine, handle, source)
    text = random_ids(np.random.default_rng(3), 20)
    alone = [
        rows(engine, Span(engine.allocate(32), 0, text, [19], adapter=adapter))[0] for adapter in range(3)
    ]
    spans = [Span(engine.allocate(32), 0, text, [19], adapter=adapter) for adapter in range(3)]
    for one, other in zip(alone, rows(engine, *spans), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_branches_are_computed_with_the_adapter_of_their_sequence(tmp_path, name):
    model = make_model(name)
    sources, models = three(tmp_path, name, model)
    engine = make_engine(model)
    for handle, source in enumerate(sources, start=1):
        mount(engine, handle, source)
    prompt = random_ids(np.random.default_rng(4), 12)
    tree = Branches([5, 6, 7, 8], [-1, 0, 0, -1], [0, 1, 2, 3])
    paths = [[5], [5, 6], [5, 7], [8]]
    spans = [
        Span(engine.allocate(32), 0, prompt, [11], tree if adapter else None, adapter=adapter)
        for adapter in (2, 0, 1)
    ]
    for adapter, found in zip((2, 0, 1), rows(engine, *spans), strict=True):
        wanted = [prompt] if not adapter else [prompt, *(prompt + path for path in paths)]
        expected = np.stack([plain_logits(models[adapter], ids)[-1] for ids in wanted])
        np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("name", ["bloom", "gptj", "llama"])
def test_the_plain_engine_computes_adapters_too(tmp_path, name):
    model = make_model(name)
    sources, models = three(tmp_path, name, model) if name != "bloom" else bloom(tmp_path, model)
    capabilities = Capabilities(
        vocab_size=VOCAB_SIZE, max_positions=100, max_sequences=8, kv_tokens=400, max_batch_tokens=64
    )
    engine = PlainEngine(model, capabilities, uses_cache=True)
    for handle, source in enumerate(sources, start=1):
        mount(engine, handle, source)
    text = random_ids(np.random.default_rng(4), 15)
    handles = [engine.allocate(20) for _ in range(3)]
    first = rows(engine, *(Span(h, 0, text[:14], range(14), adapter=a) for a, h in enumerate(handles)))
    last = rows(engine, *(Span(h, 14, text[14:], [0], adapter=a) for a, h in enumerate(handles)))
    for adapter in range(3):
        expected = plain_logits(models[adapter], text)
        found = np.concatenate([first[adapter], last[adapter]])
        np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(expected).max(), rtol=0)


def bloom(tmp_path, model):
    sources = [
        make_adapter(tmp_path / str(seed), model, TARGETS["bloom"], seed=seed, rank=seed) for seed in (1, 2)
    ]
    return sources, [copy.deepcopy(model), *(merged(model, source) for source in sources)]


def test_the_head_has_adapters_though_it_sees_only_wanted_rows(tmp_path):
    model = make_model("llama")
    source = make_adapter(tmp_path, model, ["lm_head", "q_proj"], seed=1)
    changed = merged(model, source)
    engine = make_engine(model)
    mount(engine, 1, source)
    texts = [random_ids(np.random.default_rng(seed), 9) for seed in range(3)]
    adapters, wanted = (1, 0, 1), ([8], [3, 8], [0, 5])
    spans = [
        Span(engine.allocate(16), 0, text, rows_, adapter=adapter)
        for text, adapter, rows_ in zip(texts, adapters, wanted, strict=True)
    ]
    for text, adapter, places, found in zip(texts, adapters, wanted, rows(engine, *spans), strict=True):
        expected = plain_logits(changed if adapter else make_model("llama"), text)[places]
        np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(expected).max(), rtol=0)


def test_a_batch_without_adapters_computes_nothing_more(tmp_path):
    model = make_model("llama")
    sources, _ = three(tmp_path, "llama", model)
    text = random_ids(np.random.default_rng(3), 20)

    def operations(engine):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            rows(engine, Span(place, 0, text, [19]))
        engine.truncate(place, 0)
        return {event.key: event.count for event in profile.key_averages()}

    engine = make_engine(model)
    place = engine.allocate(32)
    operations(engine)  # buffers are made
    before = operations(engine)
    for handle, source in enumerate(sources, start=1):
        mount(engine, handle, source)
    assert operations(engine) == before


def test_unmounting_leaves_the_model_and_the_other_adapters_as_they_were(tmp_path):
    model = make_model("llama")
    sources, models = three(tmp_path, "llama", model)
    engine = make_engine(model)
    text = random_ids(np.random.default_rng(3), 20)

    def check(adapter):
        (found,) = rows(engine, Span(engine.allocate(32), 0, text, range(20), adapter=adapter))
        expected = plain_logits(models[[0, 1, 2, 1][adapter]], text)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(expected).max(), rtol=0)

    mount(engine, 1, sources[0])
    mount(engine, 2, sources[1])
    engine.unmount_adapter(1)
    check(2)
    mount(engine, 3, sources[0])
    check(3)
    check(2)
    engine.unmount_adapter(2)
    check(3)
    engine.unmount_adapter(3)
    check(0)
    assert not any(module._forward_hooks for module in model.modules())


def test_an_adapter_that_overflows_harms_only_its_own_requests(tmp_path):
    model = make_model("llama")
    sources, models = three(tmp_path, "llama", model)
    huge = make_adapter(tmp_path / "huge", model, TARGETS["llama"], seed=5, strength=3e38 / 100, alpha=4)
    engine = make_engine(model)
    mount(engine, 1, sources[0])
    mount(engine, 2, huge)
    text = random_ids(np.random.default_rng(3), 20)
    spans = [Span(engine.allocate(32), 0, text, range(20), adapter=adapter) for adapter in (0, 2, 1)]
    base, broken, good = rows(engine, *spans)
    assert not np.isfinite(broken).all()
    for found, expected in ((base, models[0]), (good, models[1])):
        wanted = plain_logits(expected, text)
        np.testing.assert_allclose(found, wanted, atol=TOLERANCE * np.abs(wanted).max(), rtol=0)


def test_bfloat16_is_as_close_to_the_truth_as_a_merged_model(tmp_path):
    model = make_model("llama")
    source = make_adapter(tmp_path, model, TARGETS["llama"], seed=1)
    truth = merged(model, source)
    rounded = copy.deepcopy(truth).to(torch.bfloat16)
    engine = make_engine(make_model("llama", dtype=torch.bfloat16))
    mount(engine, 1, source)
    ours, theirs = [], []
    for seed in range(12):
        text = random_ids(np.random.default_rng(seed), 40)
        expected = torch.from_numpy(plain_logits(truth, text)).log_softmax(-1)
        (found,) = rows(engine, Span(engine.allocate(64), 0, text, range(40), adapter=1))
        with torch.inference_mode():
            other = rounded(input_ids=torch.tensor([text]), use_cache=False).logits[0].float()
        ours.append(((torch.from_numpy(found).float().log_softmax(-1) - expected) ** 2).mean())
        theirs.append(((other.log_softmax(-1) - expected) ** 2).mean())
    assert np.sqrt(np.mean(ours)) <= 1.3 * np.sqrt(np.mean(theirs))


def test_layers_whose_weights_the_model_reads_by_itself_are_refused(tmp_path):
    model = make_model("mamba")
    capabilities = Capabilities(
        vocab_size=VOCAB_SIZE, max_positions=100, max_sequences=8, kv_tokens=400, max_batch_tokens=64
    )
    engine = PlainEngine(model, capabilities, uses_cache=True)
    reached = make_adapter(tmp_path / "in", model, ["in_proj", "out_proj"], seed=1)
    changed = merged(model, reached)
    mount(engine, 1, reached)
    with pytest.raises(CapabilityError, match=r"adapters cannot reach .*dt_proj"):
        mount(engine, 2, make_adapter(tmp_path / "dt", model, ["dt_proj"], seed=1))
    text = random_ids(np.random.default_rng(4), 15)
    (found,) = rows(engine, Span(engine.allocate(20), 0, text, range(15), adapter=1))
    expected = plain_logits(changed, text)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(expected).max(), rtol=0)
    engine.unmount_adapter(1)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_sees_other_rows_than_the_batch_is_an_error_and_no_wrong_answer(tmp_path):
    model = make_model("llama")
    engine = make_engine(model, packs=False)
    for handle, seed in ((1, 1), (2, 2)):
        mount(engine, handle, make_adapter(tmp_path / str(seed), model, ["up_proj"], seed=seed))
    layer = model.model.layers[0].mlp.up_proj
    layer.register_forward_pre_hook(lambda module, inputs: (inputs[0].repeat(1, 2, 1),))
    spans = [Span(engine.allocate(16), 0, [5, 6], [1], adapter=adapter) for adapter in (1, 2)]
    with pytest.raises(EngineError, match="8 rows of a batch of 4"):
        engine.forward(GenerateBatch(spans))
