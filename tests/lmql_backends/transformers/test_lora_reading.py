"""Adapters in PEFT's format: what is read exactly, and what is refused before anything is computed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from fakes.lora_adapters import TARGETS, make_adapter, matched, merged, write_adapter
from safetensors.torch import load_file
from tiny_models import make_model
from transformers.pytorch_utils import Conv1D

from dcmodel.errors import AdapterLoadError, CapabilityError
from lmql_backends.transformers.cpu_pack import pack_linears
from lmql_backends.transformers.lora_config import parse_config
from lmql_backends.transformers.lora_weights import linear_shapes, read_lora

MODEL = make_model("llama")
SHAPES = linear_shapes(MODEL)
LAYER = "model.layers.0.self_attn.q_proj"


def read(source, shapes=SHAPES, dtype=torch.float32):
    return read_lora(source, shapes, dtype)


def deltas(loaded):
    """What each layer's weight grows by."""
    return {name: (pair.up.T @ pair.down).numpy() for name, pair in loaded.weights.items()}


def check_deltas(model, loaded, changed):
    plain, other = (dict(item.named_modules()) for item in (model, changed))
    for name, delta in deltas(loaded).items():
        expected = (other[name].weight - plain[name].weight).detach().numpy()
        expected = expected.T if isinstance(plain[name], Conv1D) else expected
        np.testing.assert_allclose(delta, expected, atol=2e-6)


def change_config(source, **changes):
    from pathlib import Path

    path = Path(source) / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return source


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_what_is_read_is_scale_times_b_a(tmp_path, name):
    model = make_model(name)
    source = make_adapter(tmp_path, model, TARGETS[name], seed=3, rank=5, alpha=7)
    loaded = read(source, linear_shapes(model))
    assert loaded.rank == 5
    check_deltas(model, loaded, merged(model, source))


def test_packed_layers_are_the_same_layers(tmp_path):
    source = make_adapter(tmp_path, MODEL, TARGETS["llama"], seed=3)
    model = make_model("llama")
    assert pack_linears(model)
    packed = linear_shapes(model)
    assert {name: (item.inputs, item.outputs) for name, item in packed.items()} == {
        name: (item.inputs, item.outputs) for name, item in SHAPES.items()
    }
    assert deltas(read(source, packed)).keys() == deltas(read(source)).keys()


def test_patterns_give_layers_ranks_and_scales_of_their_own(tmp_path):
    ranks = {name: 7 for name, *_ in matched(MODEL, r".*layers\.1\..*q_proj|.*v_proj")}
    source = make_adapter(
        tmp_path,
        MODEL,
        ["q_proj", "v_proj"],
        ranks=ranks,
        rank_pattern={r"layers\.1\.self_attn\.q_proj": 7, "v_proj": 7},
        alpha_pattern={"v_proj": 3},
    )
    scales = {
        name: (3 if "v_proj" in name else 8) / ranks.get(name, 4)
        for name, *_ in matched(MODEL, ["q_proj", "v_proj"])
    }
    loaded = read(source)
    assert loaded.rank == 7
    check_deltas(MODEL, loaded, merged(MODEL, source, scales=scales))


def test_rank_stabilised_adapters_are_divided_by_the_root_of_the_rank(tmp_path):
    source = make_adapter(tmp_path, MODEL, ["q_proj"], rank=4, alpha=6, use_rslora=True)
    scales = {name: 3.0 for name, *_ in matched(MODEL, ["q_proj"])}
    check_deltas(MODEL, read(source), merged(MODEL, source, scales=scales))


@pytest.mark.parametrize(
    ("targets", "config"),
    [
        (r".*layers\.[02]\.self_attn\.(q|k)_proj", {}),
        ([LAYER], {}),
        (r".*layers\.1\.mlp\.up_proj", {"target_modules": ["up_proj"], "layers_to_transform": [1]}),
        (
            r".*layers\.2\..*q_proj",
            {"target_modules": ["q_proj"], "layers_to_transform": 2, "layers_pattern": "layers"},
        ),
        (
            r".*layers\.[01]\..*q_proj",
            {"target_modules": ["q_proj"], "exclude_modules": r".*layers\.2\..*"},
        ),
        (r".*(q|k|v|o|up|down|gate)_proj", {"target_modules": "all-linear"}),
    ],
)
def test_targets_mean_what_they_mean_to_peft(tmp_path, targets, config):
    source = make_adapter(tmp_path, MODEL, targets, **config)
    loaded = read(source)
    assert set(loaded.weights) == {name for name, *_ in matched(MODEL, targets)}


# -- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"alora_invocation_tokens": [5]}, "activated LoRA"),
        ({"bias": "all"}, "biases of the model"),
        ({"lora_bias": True}, "own layers have biases"),
        ({"modules_to_save": ["lm_head"]}, "whole modules"),
        ({"trainable_token_indices": [3]}, "single tokens"),
        ({"target_parameters": ["experts.w1"]}, "fused experts"),
        ({"layer_replication": [[0, 2]]}, "repeats the model's layers"),
        ({"use_qalora": True}, "QALoRA"),
        ({"something_new": 4}, "something_new=4 is not known"),
        ({"peft_type": "IA3"}, "'IA3'.*only LORA"),
        ({"peft_type": None}, "only LORA"),
    ],
)
def test_other_kinds_of_adapters_are_refused_with_what_they_are(tmp_path, changes, message):
    source = change_config(make_adapter(tmp_path, MODEL, ["q_proj"]), **changes)
    with pytest.raises(CapabilityError, match=message) as caught:
        read(source)
    assert "merge" in caught.value.remedy.lower()


@pytest.mark.parametrize(
    "changes",
    [{"r": "many"}, {"r": 0}, {"lora_alpha": None}, {"rank_pattern": {"(": 3}}, {"target_modules": 5}],
)
def test_a_configuration_of_nonsense_is_refused(tmp_path, changes):
    source = change_config(make_adapter(tmp_path, MODEL, ["q_proj"]), **changes)
    with pytest.raises(AdapterLoadError, match=r"cannot be used|rank of 0"):
        read(source)


def test_an_adapter_of_another_model_is_refused(tmp_path):
    with pytest.raises(AdapterLoadError, match=r"no linear layer transformer\.h\.0"):
        read(make_adapter(tmp_path / "gpt2", make_model("gpt2"), ["c_attn"]))
    wide = make_model("llama-heads-of-other-size")
    with pytest.raises(AdapterLoadError, match=r"does not fit .*\(80, 4\), and not .*\(48, 4\)"):
        read(make_adapter(tmp_path / "wide", wide, ["q_proj"]))


def test_files_that_are_missing_or_broken_are_named_with_the_remedy(tmp_path):
    with pytest.raises(AdapterLoadError, match="does not exist"):
        read(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(AdapterLoadError, match="is a file"):
        read(str(tmp_path / "file"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(AdapterLoadError, match=r"has no adapter_config\.json"):
        read(str(empty))
    (empty / "adapter_config.json").write_text("{")
    with pytest.raises(AdapterLoadError, match="cannot be read"):
        read(str(empty))
    (empty / "adapter_config.json").write_text("[]")
    with pytest.raises(AdapterLoadError, match="no JSON object"):
        read(str(empty))
    source = make_adapter(tmp_path / "good", MODEL, ["q_proj"])
    weights = tmp_path / "good" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(AdapterLoadError, match="cannot be read"):
        read(source)
    weights.unlink()
    with pytest.raises(AdapterLoadError, match=r"has no adapter_model\.safetensors"):
        read(source)


def test_a_pickle_is_never_opened(tmp_path):
    source = make_adapter(tmp_path, MODEL, ["q_proj"])
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(AdapterLoadError, match="a pickle") as caught:
        read(source)
    assert "save_pretrained" in caught.value.remedy


def test_weights_and_configuration_must_agree(tmp_path):
    source = make_adapter(tmp_path, MODEL, ["q_proj", "v_proj"])
    change_config(source, target_modules=["q_proj"])
    with pytest.raises(AdapterLoadError, match="contradicts itself"):
        read(source)
    change_config(source, target_modules=["q_proj", "v_proj", "o_proj"])
    with pytest.raises(AdapterLoadError, match="lacks the weights of 3 layers"):
        read(source)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    half = {key: tensor for key, tensor in tensors.items() if "lora_B" not in key}
    config["target_modules"] = ["q_proj", "v_proj"]
    with pytest.raises(AdapterLoadError, match="only a half"):
        read(write_adapter(tmp_path / "half", half, config))
    with pytest.raises(AdapterLoadError, match="no weights"):
        read(write_adapter(tmp_path / "none", {}, config))
    tensors["base_model.model.model.embed_tokens.lora_embedding_A"] = torch.zeros(4, 199)
    with pytest.raises(CapabilityError, match=r"holds .*lora_embedding_A"):
        read(write_adapter(tmp_path / "embedding", tensors, config))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_would_reach_other_requests_are_refused(tmp_path, value):
    source = make_adapter(tmp_path, MODEL, ["q_proj"])
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    tensors[f"base_model.model.{LAYER}.lora_B.weight"][3, 1] = value
    with pytest.raises(AdapterLoadError, match=f"NaN or infinite numbers in {LAYER}"):
        read(write_adapter(tmp_path, tensors, json.loads((tmp_path / "adapter_config.json").read_text())))
    assert source


def test_single_experts_are_refused(tmp_path):
    shapes = {name.replace("mlp", "mlp.experts.3"): shape for name, shape in SHAPES.items()}
    source = make_adapter(tmp_path, MODEL, ["up_proj"])
    tensors = {
        key.replace("mlp", "mlp.experts.3"): tensor
        for key, tensor in load_file(tmp_path / "adapter_model.safetensors").items()
    }
    write_adapter(tmp_path, tensors, json.loads((tmp_path / "adapter_config.json").read_text()))
    with pytest.raises(CapabilityError, match="single experts"):
        read(source, shapes)


def test_settings_of_training_change_nothing():
    config = parse_config(
        {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "lora_dropout": 0.5},
        "x",
    )
    assert config.scale_of(LAYER) == 2.0
