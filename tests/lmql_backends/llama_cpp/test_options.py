"""What is said of how to load a model reaches llama.cpp, and `ModelInfo` says what became of it."""

from __future__ import annotations

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from dcmodel.backend import LoadOptions
from dcmodel.errors import InvalidRequestError
from lmql_backends.llama_cpp import BACKEND
from lmql_backends.llama_cpp.library import library
from lmql_backends.llama_cpp.options import ALL_LAYERS, LlamaOptions
from lmql_backends.llama_cpp.threads import default_threads

from .conftest import EXACT, Reference, rows_of, span_of

TOLERANCE = 1e-4
TRAINED = 512
TEXT = [*range(5, 60)]
WITH_GPU = SimpleNamespace(llama_supports_gpu_offload=lambda: True, llama_max_devices=lambda: 4)


@pytest.fixture
def load(llama):
    """Loads the random Llama; closes what it loaded after the test."""
    opened = []

    def load_one(**options):
        loaded = BACKEND.load(os.fspath(llama[1]), LoadOptions(**{**EXACT, **options}))
        opened.append(loaded.engine)
        return loaded

    yield load_one
    for engine in opened:
        engine.close()


def ask(engine, name):
    """A number that llama.cpp itself gives for the context: ``ask(engine, "n_ctx")``."""
    context = engine._context
    return getattr(context.model.lib.c, f"llama_{name}")(context.handle)


def context_params(**options):
    params = library().c.llama_context_default_params()
    LlamaOptions(LoadOptions(**options), library().c).configure_context(params)
    return params


def model_params(**options):
    params = library().c.llama_model_default_params()
    chosen = LlamaOptions(LoadOptions(**options), WITH_GPU)
    chosen.configure_model(params)
    return chosen, params


def test_the_info_says_what_was_chosen(load):
    exact = load(extra={"n_threads": 1}).info
    assert (exact.device, exact.dtype, exact.backend) == ("cpu", "float32", "llama_cpp")
    wanted = {"architecture": "llama", "kv": "f32", "flash_attention": "off", "threads": "1"}
    assert wanted.items() <= exact.details.items()
    assert exact.details["rounding"] == "float32"
    assert "limit" not in exact.details
    usual = load(dtype=None, extra={}).info
    assert usual.dtype == "float16"
    assert {"kv": "f16", "flash_attention": "auto"}.items() <= usual.details.items()
    assert usual.details["threads"] == str(default_threads())
    assert "half-precision" in usual.details["rounding"]


@pytest.mark.parametrize(
    ("options", "kv", "dtype"),
    [
        ({"dtype": "float16"}, "f16", "float16"),
        ({"dtype": "bfloat16"}, "bf16", "bfloat16"),
        ({"dtype": "float32", "extra": {"type_k": "f16"}}, "f16 and f32", "float16"),
    ],
)
def test_kv_is_kept_as_it_was_asked(load, options, kv, dtype):
    info = load(**options).info
    assert (info.details["kv"], info.dtype) == (kv, dtype)
    assert info.details["rounding"] != "float32"


def test_quantized_kv_reaches_the_context():
    """Without a model: the random one's heads are narrower than a block."""
    params = context_params(extra={"type_k": "q8_0", "type_v": "q4_0"})
    assert (params.type_k, params.type_v, params.flash_attn_type) == (8, 2, -1)
    params = context_params(extra={"flash_attn": "on"})
    assert (params.type_k, params.type_v, params.flash_attn_type) == (1, 1, 1)


def test_sizes_reach_the_context(load):
    engine = load(max_sequences=3, kv_tokens=300, max_batch_tokens=100, max_context=200).engine
    assert ask(engine, "n_ctx") == 512  # 300 and room for 100 tokens of branches, in steps of 256
    assert ask(engine, "n_batch") == 100
    assert ask(engine, "n_seq_max") == 3 + engine.capabilities.max_branch_tokens
    assert engine.capabilities.max_positions == 200
    streams = {"n_threads": 1, "kv_unified": False}
    engine = load(max_sequences=3, kv_tokens=900, max_batch_tokens=100, extra=streams).engine
    assert ask(engine, "n_ctx") == 3 * 512
    assert ask(engine, "n_ctx_seq") == 512
    assert engine.capabilities.max_positions == 300


def test_threads_and_parts_of_a_batch_reach_the_context(load, reference):
    engine = load(extra={"n_threads": 1, "n_threads_batch": 2, "n_ubatch": 16}).engine
    assert (ask(engine, "n_threads"), ask(engine, "n_threads_batch"), ask(engine, "n_ubatch")) == (1, 2, 16)
    (rows,) = rows_of(engine, span_of(engine.allocate(len(TEXT)), TEXT))
    np.testing.assert_allclose(rows, reference(TEXT), atol=TOLERANCE, rtol=0)
    engine = load(extra={"n_threads": 2}).engine
    assert (ask(engine, "n_threads"), ask(engine, "n_threads_batch")) == (2, 2)


def test_all_that_llama_cpp_knows_of_a_context_is_passed_on():
    numbers = {
        "rope_freq_base": 5e4,
        "rope_freq_scale": 0.25,
        "yarn_ext_factor": 0.5,
        "yarn_attn_factor": 2.0,
        "yarn_beta_fast": 16.0,
        "yarn_beta_slow": 2.0,
        "yarn_orig_ctx": 128,
        "n_ubatch": 64,
        "offload_kqv": False,
        "op_offload": False,
    }
    params = context_params(extra={**numbers, "rope_scaling": "yarn", "kv_unified": False})
    for name, value in numbers.items():
        assert getattr(params, name) == pytest.approx(value), name
    assert params.rope_scaling_type == 2
    assert not params.kv_unified
    default = context_params()
    assert default.kv_unified
    assert default.swa_full


def test_what_was_not_said_is_left_to_llama_cpp():
    ours, theirs = context_params(), library().c.llama_context_default_params()
    for name in ("rope_freq_base", "rope_scaling_type", "yarn_orig_ctx", "n_ubatch", "offload_kqv"):
        assert getattr(ours, name) == getattr(theirs, name), name


def test_a_device_decides_where_layers_go():
    chosen, params = model_params()
    assert (chosen.device, params.n_gpu_layers) == ("gpu", ALL_LAYERS)
    chosen, params = model_params(device="cpu")
    assert (chosen.device, params.n_gpu_layers) == ("cpu", 0)
    chosen, params = model_params(extra={"n_gpu_layers": 0})
    assert (chosen.device, params.n_gpu_layers) == ("cpu", 0)
    chosen, params = model_params(device="cuda:1", extra={"n_gpu_layers": 7})
    assert (chosen.device, params.n_gpu_layers) == ("cuda:1", 7)
    assert (params.split_mode, params.main_gpu) == (0, 1)


def test_all_that_llama_cpp_knows_of_a_model_is_passed_on():
    extra = {"main_gpu": 2, "split_mode": "row", "load_mode": "none", "check_tensors": True}
    chosen, params = model_params(extra={**extra, "tensor_split": [1, 3.5]})
    assert (params.main_gpu, params.split_mode, params.load_mode, params.check_tensors) == (2, 2, 0, True)
    assert [params.tensor_split[device] for device in range(4)] == [1.0, 3.5, 0.0, 0.0]
    assert chosen.device == "gpu"


@pytest.mark.parametrize("mode", ["auto", "none", "mmap"])
def test_ways_of_loading_give_the_same_model(load, reference, mode):
    engine = load(extra={"n_threads": 1, "load_mode": mode, "check_tensors": True}).engine
    (rows,) = rows_of(engine, span_of(engine.allocate(len(TEXT)), TEXT))
    np.testing.assert_allclose(rows, reference(TEXT), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("extra", "rope"),
    [
        ({"rope_scaling": "linear", "rope_freq_scale": 0.5}, {"rope_type": "linear", "factor": 2.0}),
        ({"rope_freq_base": 5e4}, {"rope_type": "default", "rope_theta": 5e4}),
    ],
    ids=["linear", "base"],
)
def test_scaled_positions_reach_beyond_the_trained_ones(load, llama, tmp_path, extra, rope):
    folder = tmp_path / "scaled"
    shutil.copytree(llama[0], folder)
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {**config["rope_parameters"], **rope}
    config["max_position_embeddings"] = 2 * TRAINED
    (folder / "config.json").write_text(json.dumps(config))
    loaded = load(extra={"n_threads": 1, **extra}, max_context=TRAINED + 100, max_batch_tokens=1024)
    assert loaded.info.max_positions == TRAINED + 100
    assert "limit" not in loaded.info.details
    text = np.random.default_rng(0).integers(2, loaded.info.vocab_size, TRAINED + 90).tolist()
    (rows,) = rows_of(loaded.engine, span_of(loaded.engine.allocate(len(text)), text))
    np.testing.assert_allclose(rows, Reference(folder)(text), atol=TOLERANCE, rtol=0)


def test_without_scaling_the_trained_positions_are_all(load):
    assert load(max_context=TRAINED + 100).info.max_positions == TRAINED
    assert load().info.max_positions == TRAINED
    short = load(max_context=100).info
    assert short.max_positions == 100
    assert short.details["limit"] == f"100 of {TRAINED} positions; give max_context for more"


def test_an_option_of_another_name_lists_those_that_are_known():
    with pytest.raises(InvalidRequestError, match=r"no option 'n_gpu'.*n_gpu_layers"):
        LlamaOptions(LoadOptions(extra={"n_gpu": 1}), library().c)
