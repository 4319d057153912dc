"""Adapters that single sequences name, against models whose weights were merged with numpy."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from gguf_adapters import NAMES, RANK, merged, random_adapter, save_adapter
from safetensors.numpy import save_file

from dcmodel.engine import Branches, GenerateBatch, Span
from dcmodel.errors import AdapterLoadError, CapabilityError, EngineError

from .conftest import rows_of, span_of

TEXT = list(range(5, 25))
ONE, TWO = 1, 2


def span(sequence, text=TEXT, start=0, *, adapter=0, branches=None, wanted=None):
    made = span_of(sequence, text, start, wanted=wanted, branches=branches)
    made.adapter = adapter
    return made


@pytest.fixture(scope="module")
def files(llama, tmp_path_factory):
    """Two adapters: what is in them, their files, and the model with each merged in."""
    folder = tmp_path_factory.mktemp("adapters")
    parts = [random_adapter(llama[1], seed) for seed in (0, 1)]
    paths = [save_adapter(folder / f"{place}.gguf", part) for place, part in enumerate(parts)]
    models = [merged(llama[1], folder / f"m{place}.gguf", (part, 1.0)) for place, part in enumerate(parts)]
    return parts, paths, models


@pytest.fixture
def expected(llama, files, open_engine):
    """Rows of a text by the base, and by the merged models."""

    def rows(text):
        found = []
        for path in (llama[1], *files[2]):
            engine = open_engine(path)
            found += rows_of(engine, span(engine.allocate(64), text))
        return found

    return rows


@pytest.fixture
def mounted(open_engine, files):
    engine = open_engine(max_sequences=16, kv_tokens=1024, max_batch_tokens=128)
    for handle, path in zip((ONE, TWO), files[1], strict=True):
        engine.mount_adapter(handle, engine.read_adapter(str(path)))
    return engine


def close_to(found, wanted):
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=0)


def test_what_is_read_has_its_rank(open_engine, files):
    assert open_engine().read_adapter(str(files[1][0])).rank == RANK


def test_a_batch_mixes_adapters_and_each_gives_what_merged_weights_give(mounted, expected):
    wanted = expected(TEXT)
    order = [TWO, 0, ONE, TWO, 0, ONE]
    spans = [span(mounted.allocate(32), adapter=adapter) for adapter in order]
    for adapter, rows in zip(order, rows_of(mounted, *spans), strict=True):
        close_to(rows, wanted[adapter])
    assert np.abs(wanted[ONE] - wanted[TWO]).max() > 0.1
    assert np.abs(wanted[ONE] - wanted[0]).max() > 0.1


def test_rows_come_in_the_order_of_the_spans_whatever_each_wants(mounted, expected):
    wanted = expected(TEXT)
    plan = [(ONE, [3, 19]), (0, []), (TWO, [0]), (0, [5, 6, 7]), (ONE, [])]
    spans = [span(mounted.allocate(32), adapter=adapter, wanted=places) for adapter, places in plan]
    for (adapter, places), rows in zip(plan, rows_of(mounted, *spans), strict=True):
        close_to(rows, wanted[adapter][places])


def test_steps_with_an_adapter_are_what_one_pass_is(mounted, expected):
    wanted = expected(TEXT)
    sequences = {adapter: mounted.allocate(32) for adapter in (0, ONE, TWO)}
    rows_of(mounted, *(span(seq, TEXT[:10], adapter=adapter) for adapter, seq in sequences.items()))
    for place in range(10, len(TEXT)):
        spans = [span(seq, TEXT[: place + 1], place, adapter=adapter) for adapter, seq in sequences.items()]
        for adapter, rows in zip(sequences, rows_of(mounted, *spans), strict=True):
            close_to(rows[0], wanted[adapter][place])


def test_a_copy_goes_on_with_its_adapter(mounted, expected):
    wanted = expected(TEXT)
    source, target = mounted.allocate(32), mounted.allocate(32)
    rows_of(mounted, span(source, TEXT[:12], adapter=ONE))
    mounted.copy(source, target, 12)
    (rows,) = rows_of(mounted, span(target, TEXT, 12, adapter=ONE))
    close_to(rows, wanted[ONE][12:])


def test_what_the_context_lost_is_computed_again_with_its_adapter(mounted, expected):
    wanted = expected(TEXT)
    sequences = [mounted.allocate(32) for _ in range(3)]
    rows_of(mounted, *(span(seq, TEXT[:12], adapter=adapter) for adapter, seq in enumerate(sequences)))
    mounted._wipe()
    spans = [span(seq, TEXT, 12, adapter=adapter) for adapter, seq in enumerate(sequences)]
    for adapter, rows in enumerate(rows_of(mounted, *spans)):
        close_to(rows, wanted[adapter][12:])


def test_branches_are_computed_with_the_adapter_of_their_sequence(mounted, expected):
    spans, texts = [], []
    for adapter in (0, ONE, TWO):
        spans.append(
            span(mounted.allocate(32), adapter=adapter, branches=Branches([7, 8, 9], [-1, 0, -1], [1, 2]))
        )
        texts.append(([*TEXT, 7, 8], [*TEXT, 9]))
    found = rows_of(mounted, *spans)
    for adapter, (deep, flat) in enumerate(texts):
        close_to(found[adapter][-2], expected(deep)[adapter][-1])
        close_to(found[adapter][-1], expected(flat)[adapter][-1])


def test_a_nan_stays_with_its_sequence_whatever_the_adapters(mounted, expected, files, llama, tmp_path):
    broken = {name: (np.full_like(b, np.nan), a) for name, (b, a) in random_adapter(llama[1], 3).items()}
    loaded = mounted.read_adapter(str(save_adapter(tmp_path / "nan.gguf", broken)))
    mounted.mount_adapter(3, loaded)
    wanted = expected(TEXT)
    spans = [span(mounted.allocate(32), adapter=adapter) for adapter in (3, 0, ONE)]
    bad, base, one = rows_of(mounted, *spans)
    assert np.isnan(bad).any()
    close_to(base, wanted[0])
    close_to(one, wanted[ONE])


def test_one_adapter_goes_and_another_comes_under_a_new_handle(mounted, expected, files):
    wanted = expected(TEXT)
    first = mounted.allocate(32)
    rows_of(mounted, span(first, adapter=ONE))
    mounted.free(first)
    for handle in range(3, 9):  # the library may give the same address again
        mounted.unmount_adapter(ONE if handle == 3 else handle - 1)
        mounted.mount_adapter(handle, mounted.read_adapter(str(files[1][handle % 2])))
        sequence = mounted.allocate(32)
        (rows,) = rows_of(mounted, span(sequence, adapter=handle))
        close_to(rows, wanted[1 + handle % 2])
        mounted.free(sequence)
    with pytest.raises(EngineError, match="handle 1"):
        mounted.forward(GenerateBatch([span(mounted.allocate(32), adapter=ONE)]))


def test_an_adapter_lies_on_top_of_those_of_the_whole_model(llama, files, open_engine, tmp_path):
    parts, paths, _ = files
    both = merged(llama[1], tmp_path / "m.gguf", (parts[0], 0.5), (parts[1], 1.0))
    plain = open_engine(both)
    (wanted,) = rows_of(plain, span(plain.allocate(64)))
    engine = open_engine(extra={"n_threads": 1, "lora": [(paths[0], 0.5)]})
    engine.mount_adapter(ONE, engine.read_adapter(str(paths[1])))
    (rows,) = rows_of(engine, span(engine.allocate(64), adapter=ONE))
    close_to(rows, wanted)


def test_adapters_are_read_while_another_thread_computes(mounted, expected, files):
    wanted = expected(TEXT)
    loaded, failures = [], []

    def read():
        try:
            loaded.extend(mounted.read_adapter(str(files[1][place % 2])) for place in range(20))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    rounds = 0
    while thread.is_alive() or rounds < 5:
        rounds += 1
        sequences = [mounted.allocate(32) for _ in range(3)]
        spans = [span(seq, adapter=adapter) for adapter, seq in enumerate(sequences)]
        for adapter, rows in enumerate(rows_of(mounted, *spans)):
            close_to(rows, wanted[adapter])
        for sequence in sequences:
            mounted.free(sequence)
    thread.join()
    assert not failures
    mounted.mount_adapter(7, loaded[1])
    (rows,) = rows_of(mounted, span(mounted.allocate(32), adapter=7))
    close_to(rows, wanted[TWO])


def test_a_recurrent_engine_and_one_with_streams_have_adapters_too(llama, files, open_engine, expected):
    wanted = expected(TEXT)
    engine = open_engine(max_sequences=4, extra={"n_threads": 1, "kv_unified": False})
    engine.mount_adapter(ONE, engine.read_adapter(str(files[1][0])))
    one, base = rows_of(engine, span(engine.allocate(32), adapter=ONE), span(engine.allocate(32)))
    close_to(one, wanted[ONE])
    close_to(base, wanted[0])


# -- what cannot be read -----------------------------------------------------------------------------


def pair(rows_in=8, rows_out=8, rank=RANK):
    return np.zeros((rows_out, rank), np.float32), np.zeros((rank, rows_in), np.float32)


@pytest.mark.parametrize(
    ("factors", "options", "reason"),
    [
        ({NAMES[0]: pair()}, {}, "shapes"),
        ({"blk.99.attn_q.weight": pair()}, {}, "no tensor"),
        ({"output_norm.weight": pair()}, {}, "adds nothing"),
        ({}, {}, "no tensors"),
        (None, {"architecture": "gemma"}, "architecture is 'gemma'"),
        (None, {"general_type": "model"}, "not 'adapter'"),
        (None, {"adapter_type": "control_vector"}, "not 'lora'"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(engine, llama, tmp_path, factors, options, reason):
    factors = random_adapter(llama[1], 0) if factors is None else factors
    path = save_adapter(tmp_path / "bad.gguf", factors, **options)
    with pytest.raises(AdapterLoadError, match=reason) as caught:
        engine.read_adapter(str(path))
    assert "convert_lora_to_gguf.py" in caught.value.remedy


def test_a_file_that_is_cut_anywhere_is_refused(engine, files, tmp_path):
    whole = files[1][0].read_bytes()
    for length in [0, 3, 20, *range(24, len(whole), 97), len(whole) - 1]:
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(AdapterLoadError, match=r"cut\.gguf"):
            engine.read_adapter(str(tmp_path / "cut.gguf"))


def test_files_with_changed_bytes_never_end_the_process(engine, files, tmp_path):
    whole = files[1][0].read_bytes()
    rng = np.random.default_rng(0)
    read = 0
    for _ in range(300):
        data = bytearray(whole)
        data[int(rng.integers(0, 700))] = int(rng.integers(0, 256))
        (tmp_path / "bent.gguf").write_bytes(data)
        try:
            loaded = engine.read_adapter(str(tmp_path / "bent.gguf"))
        except (AdapterLoadError, CapabilityError):
            continue
        read += 1
        engine.mount_adapter(read, loaded)
        sequence = engine.allocate(2)
        rows_of(engine, span(sequence, [3, 4], adapter=read))
        engine.free(sequence)
        engine.unmount_adapter(read)
    assert 0 < read < 300


def test_what_is_not_there_is_named(engine, tmp_path):
    with pytest.raises(AdapterLoadError, match=r"none\.gguf"):
        engine.read_adapter(str(tmp_path / "none.gguf"))
    with pytest.raises(AdapterLoadError, match=r"adapter_config\.json"):
        engine.read_adapter(str(tmp_path))


# -- PEFT's form -------------------------------------------------------------------------------------

MODULES = {
    "model.layers.0.self_attn.q_proj": "q",
    "model.layers.0.self_attn.k_proj": "k",
    "model.layers.1.mlp.down_proj": "down",
    "lm_head": "head",
}


def save_peft(folder, model, *, rank=3, config=(), seed=0, modules=MODULES):
    """A random adapter for a transformers model, and the model with it merged in."""
    import torch

    rng = np.random.default_rng(seed)
    tensors, deltas = {}, {}
    for name in modules:
        outputs, inputs = model.get_submodule(name).weight.shape
        a = rng.standard_normal((rank, inputs)).astype(np.float32) * 0.2
        b = rng.standard_normal((outputs, rank)).astype(np.float32) * 0.3
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
        deltas[name] = torch.from_numpy(b @ a)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    values = {"peft_type": "LORA", "r": rank, "lora_alpha": 6, "bias": "none", **dict(config)}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return deltas


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({}, (2.0, 2.0)),
        ({"use_rslora": True}, (6 / 3**0.5, 6 / 3**0.5)),
        ({"alpha_pattern": {"q_proj": 3}}, (1.0, 2.0)),
    ],
)
def test_a_peft_folder_gives_what_merged_weights_give(llama, open_engine, tmp_path, config, scales):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama[0], dtype=torch.float32).eval()
    for name, delta in save_peft(tmp_path / "peft", model, config=config).items():
        model.get_submodule(name).weight.data += delta * scales["q_proj" not in name]
    with torch.inference_mode():
        wanted = model(torch.tensor([TEXT]), use_cache=False).logits[0].numpy()
    engine = open_engine()
    loaded = engine.read_adapter(str(tmp_path / "peft"))
    assert loaded.rank == 3
    engine.mount_adapter(ONE, loaded)
    (rows,) = rows_of(engine, span(engine.allocate(32), adapter=ONE))
    close_to(rows, wanted)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"alora_invocation_tokens": [1]}, "aLoRA"),
    ],
)
def test_other_kinds_of_peft_adapters_are_refused(llama, engine, tmp_path, config, reason):
    from transformers import AutoModelForCausalLM

    save_peft(tmp_path / "peft", AutoModelForCausalLM.from_pretrained(llama[0]), config=config)
    with pytest.raises(CapabilityError, match=reason):
        engine.read_adapter(str(tmp_path / "peft"))


def test_a_broken_peft_folder_is_refused(llama, engine, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "peft"
    save_peft(folder, AutoModelForCausalLM.from_pretrained(llama[0]))
    whole = (folder / "adapter_model.safetensors").read_bytes()
    for data in (b"", whole[:5], whole[:60], whole[:-1], b"\xff" * 64):
        (folder / "adapter_model.safetensors").write_bytes(data)
        with pytest.raises(AdapterLoadError, match="peft"):
            engine.read_adapter(str(folder))


def test_spans_without_adapters_never_touch_the_librarys_list(mounted, monkeypatch):
    monkeypatch.setattr(mounted._context, "_apply", None)
    rows_of(mounted, span(mounted.allocate(32)), span(mounted.allocate(32)))


def test_the_adapter_that_was_used_last_goes_first(mounted):
    spans = [Span(mounted.allocate(4), 0, [3], [0], adapter=adapter) for adapter in (ONE, TWO, 0)]
    mounted.forward(GenerateBatch(spans))
    order = list(mounted._adapters.groups(spans))
    assert order == [TWO, ONE, 0]
