"""From a folder to an engine: what is filled in, what is refused, and with which words."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_models import ARCHITECTURES, VOCAB_SIZE, make_config, make_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from dcmodel.backend import LoadOptions
from dcmodel.engine import Branches, GenerateBatch, Span
from dcmodel.errors import EngineError, ModelLoadError, ModelNotFoundError
from lmql_backends.transformers import BACKEND, attention
from lmql_backends.transformers.cpu_pack import PackedLinear
from lmql_backends.transformers.engine import TransformersEngine
from lmql_backends.transformers.fallback import PlainEngine
from lmql_backends.transformers.loading import build_engine

CPU = LoadOptions(device="cpu", kv_tokens=1000)


def save_tokenizer(folder):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[: VOCAB_SIZE - 3]
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = {"eos_token": "</s>", "bos_token": "<s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


@pytest.fixture
def folder(tmp_path):
    model = make_model("llama")
    model.generation_config.eos_token_id = [2, 7]
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    return tmp_path


def test_a_folder_becomes_a_packed_engine(folder):
    loaded = BACKEND.load(str(folder), LoadOptions(device="cpu", kv_tokens=1000, max_context=100))
    assert isinstance(loaded.engine, TransformersEngine)
    assert loaded.tokenizer.eos_token_ids == (2, 7)
    info = loaded.info
    assert (info.backend, info.vocab_size, info.max_positions) == ("transformers", VOCAB_SIZE, 100)
    assert (info.device, info.dtype) == ("cpu", "float32")
    assert info.details["architecture"] == "LlamaForCausalLM"
    capabilities = loaded.engine.capabilities
    assert (capabilities.kv_tokens, capabilities.max_positions) == (1000, 100)
    ids = [5, 6, 7, 8]
    found = loaded.engine.forward(GenerateBatch([Span(loaded.engine.allocate(9), 0, ids, [3])])).to_numpy()
    with torch.inference_mode():
        expected = make_model("llama")(input_ids=torch.tensor([ids])).logits[0, -1:].numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5)
    loaded.engine.close()


def test_dtype_and_context_are_as_asked(folder):
    loaded = BACKEND.load(str(folder), LoadOptions(device="cpu", dtype="bfloat16", max_context=10**6))
    assert loaded.info.dtype == "bfloat16"
    assert loaded.info.max_positions == 256
    assert loaded.engine.capabilities.kv_tokens >= 256


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing-here", "~/nothing-here"])
def test_a_path_that_does_not_exist_is_not_found(name):
    with pytest.raises(ModelNotFoundError, match="does not exist") as error:
        BACKEND.load(name, CPU)
    assert error.value.remedy


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ModelNotFoundError, match="is a file"):
        BACKEND.load(str(tmp_path / "model.bin"), CPU)


def test_an_unknown_hub_id_is_not_found(monkeypatch):
    def refuse(*args, **options):
        raise OSError("nobody/nothing is not a local folder and is not a valid model identifier\nMore lines.")

    monkeypatch.setattr("lmql_backends.transformers.checkpoint.AutoConfig.from_pretrained", refuse)
    with pytest.raises(ModelNotFoundError, match="no such model") as error:
        BACKEND.load("nobody/nothing", CPU)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_configuration_is_not_found(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        BACKEND.load(str(tmp_path), CPU)


@pytest.mark.parametrize("content", ["{broken", '{"model_type": "no-such-architecture"}', "{}"])
def test_a_configuration_that_cannot_be_read_is_a_load_error(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelLoadError) as error:
        BACKEND.load(str(tmp_path), CPU)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("damage", ["missing", "garbage", "truncated", "incomplete"])
def test_broken_weights_are_a_load_error(folder, damage):
    from safetensors.torch import load_file, save_file

    weights = folder / "model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "garbage":
        weights.write_bytes(b"garbage" * 100)
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    else:
        tensors = load_file(weights)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ModelLoadError) as error:
        BACKEND.load(str(folder), CPU)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["T5Config", "ViTConfig"])
def test_what_does_not_generate_text_is_refused(tmp_path, kind):
    import transformers

    getattr(transformers, kind)().save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="does not generate text"):
        BACKEND.load(str(tmp_path), CPU)


def test_an_encoder_is_refused(tmp_path):
    from transformers import BertConfig, BertLMHeadModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.3,
    )
    BertLMHeadModel(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(ModelLoadError, match="no causal language model"):
        BACKEND.load(str(tmp_path), CPU)


def test_a_model_without_a_tokenizer_is_a_load_error(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ModelLoadError, match="tokenizer"):
        BACKEND.load(str(folder), CPU)


def test_code_from_the_repository_is_never_run(folder):
    with pytest.raises(ModelLoadError, match="trust_remote_code"):
        BACKEND.load(str(folder), LoadOptions(device="cpu", extra={"trust_remote_code": True}))


@pytest.mark.parametrize("options", [LoadOptions(device="cuda:7"), LoadOptions(device="cpu", dtype="int3")])
def test_a_device_or_dtype_that_is_not_there_is_a_load_error(folder, options):
    if options.device == "cuda:7" and torch.cuda.is_available():
        pytest.skip("there may be such a device")
    with pytest.raises(ModelLoadError):
        BACKEND.load(str(folder), options)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_self_test_accepts_what_fits(name):
    built = build_engine(make_model(name), CPU, name=name)
    assert isinstance(built.engine, TransformersEngine), built.details
    assert built.engine.capabilities.max_branch_tokens == 512
    assert "branches" not in built.details


def test_the_self_test_accepts_bfloat16():
    built = build_engine(make_model("llama", dtype=torch.bfloat16), CPU, name="llama")
    assert isinstance(built.engine, TransformersEngine), built.details
    assert built.engine.capabilities.max_branch_tokens == 512


@pytest.mark.parametrize("damage", ["siblings seen", "nothing computed", "too many"])
def test_an_engine_whose_branches_go_wrong_computes_none(damage, monkeypatch, caplog):
    attend = attention.attend_branches

    def wrong(branches, *rest):
        if damage == "too many":
            raise RuntimeError("the kernel takes at most three branches")
        if damage == "siblings seen":
            branches.sees |= np.tril(np.ones_like(branches.sees))
            attend(branches, *rest)

    monkeypatch.setattr("lmql_backends.transformers.attention.attend_branches", wrong)
    model = make_model("llama")
    expected = make_model("llama")(input_ids=torch.tensor([[5, 6, 7]])).logits[0].detach().numpy()
    built = build_engine(model, CPU, name="llama")
    assert isinstance(built.engine, TransformersEngine)
    assert built.engine.capabilities.max_branch_tokens == 0
    assert "differ" in built.details["branches"]
    assert "candidates one by one" in caplog.text
    handle = built.engine.allocate(9)
    found = built.engine.forward(GenerateBatch([Span(handle, 0, [5, 6, 7], range(3))])).to_numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5)
    with pytest.raises(EngineError, match="more than 0"):
        built.engine.forward(GenerateBatch([Span(handle, 3, [], [], Branches([4], [-1], [0]))]))


@pytest.mark.parametrize(
    ("options", "branch_tokens", "rows"),
    [
        (LoadOptions(device="cpu", kv_tokens=1000), 512, (128 << 20) // (4 * VOCAB_SIZE)),
        (LoadOptions(device="cpu", kv_tokens=1000, max_batch_tokens=40), 40, (128 << 20) // (4 * VOCAB_SIZE)),
    ],
)
def test_branches_and_rows_of_logits_have_limits(options, branch_tokens, rows):
    capabilities = build_engine(make_model("llama"), options, name="llama").engine.capabilities
    assert (capabilities.max_branch_tokens, capabilities.max_batch_rows) == (branch_tokens, rows)


@pytest.mark.parametrize(("sequences", "rows"), [(2, 16), (40, 40)])
def test_each_sequence_gets_its_row_of_logits(sequences, rows, monkeypatch):
    monkeypatch.setattr("lmql_backends.transformers.loading.CPU_LOGIT_BYTES", 4 * VOCAB_SIZE * 5)
    options = LoadOptions(device="cpu", kv_tokens=1000, max_sequences=sequences)
    for name in ("llama", "gptj"):
        capabilities = build_engine(make_model(name), options, name=name).engine.capabilities
        assert capabilities.max_batch_rows == rows


def test_a_model_that_hides_something_from_the_attention_runs_plainly():
    """LFM2's convolutions mix neighbouring rows, which in a packed batch are other sequences."""
    from transformers import Lfm2Config

    torch.manual_seed(0)
    config = Lfm2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention", "conv"],
        initializer_range=0.15,
    )
    built = build_engine(AutoModelForCausalLM.from_config(config).eval(), CPU, name="lfm2")
    assert isinstance(built.engine, PlainEngine)


def test_longrope_keeps_to_its_original_length_or_runs_plainly():
    def model():
        config = make_config("phi3")
        config.sliding_window = None
        half = config.hidden_size // config.num_attention_heads // 2
        config.rope_parameters = {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * half,
            "long_factor": [4.0] * half,
            "original_max_position_embeddings": 64,
            "factor": 4.0,
        }
        config.original_max_position_embeddings = 64
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()

    packed = build_engine(model(), CPU, name="phi3")
    assert isinstance(packed.engine, TransformersEngine)
    assert packed.engine.capabilities.max_positions == 64
    assert "longrope" in packed.details["limit"]
    asked = build_engine(model(), LoadOptions(device="cpu", kv_tokens=1000, max_context=100), name="phi3")
    assert isinstance(asked.engine, PlainEngine)
    assert asked.engine.capabilities.max_positions == 100


def test_linear_layers_are_packed_and_their_weights_released(folder):
    model = make_model("llama")
    engine = build_engine(model, CPU, name="llama").engine
    assert isinstance(engine, TransformersEngine)
    assert isinstance(model.lm_head, PackedLinear)
    assert not any("q_proj" in name for name, _ in model.named_parameters())


def test_importing_the_backend_is_light():
    code = "import sys, lmql_backends.transformers as t; print('torch' in sys.modules, t.BACKEND.name)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["False", "transformers"]


def test_the_embedded_model_loads():
    from pathlib import Path

    import lmql_backends.tiny

    folder = Path(lmql_backends.tiny.__file__).parent / "model"
    if not (folder / "config.json").exists():
        pytest.skip("not trained yet")
    loaded = BACKEND.load(str(folder), CPU)
    assert isinstance(loaded.engine, TransformersEngine)
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == loaded.info.vocab_size
