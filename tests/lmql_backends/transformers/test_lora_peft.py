"""Adapters that peft itself made and saved, against peft's own forward and its merge."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from fakes.lora_adapters import TARGETS
from test_lora_engine import mount, rows
from test_packed_engine import make_engine, random_ids
from tiny_models import make_model

from dcmodel.engine import Span

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
peft = pytest.importorskip("peft")


def trained(model, folder, seed, **options):
    """An adapter whose weights are no longer those of its start; saved in `folder`."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(task_type="CAUSAL_LM", **options)
    wrapped = peft.get_peft_model(copy.deepcopy(model), config).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    wrapped.save_pretrained(folder)
    return wrapped


OPTIONS = {
    "llama": [
        {"r": 4, "target_modules": TARGETS["llama"]},
        {"r": 3, "lora_alpha": 5, "target_modules": r".*\.[02]\.self_attn\.(q|v)_proj", "use_rslora": True},
        {"r": 4, "target_modules": ["q_proj"], "layers_to_transform": [1, 2], "layers_pattern": "layers"},
        {
            "r": 4,
            "target_modules": "all-linear",
            "rank_pattern": {"up_proj": 2, r"layers\.1\.mlp\.down_proj": 6},
            "alpha_pattern": {"q_proj": 30},
        },
    ],
    "gpt2": [
        {"r": 4, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True},
        {"r": 2, "target_modules": "all-linear", "fan_in_fan_out": True},
    ],
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_way_to_choose_layers_gives_what_peft_gives(tmp_path, name):
    model = make_model(name)
    wrapped = [trained(model, tmp_path / str(seed), seed, **item) for seed, item in enumerate(OPTIONS[name])]
    engine = make_engine(model)
    for handle in range(1, len(wrapped) + 1):
        mount(engine, handle, str(tmp_path / str(handle - 1)))
    text = random_ids(np.random.default_rng(1), 30)
    spans = [Span(engine.allocate(32), 0, text, range(30), adapter=h) for h in range(1, len(wrapped) + 1)]
    for found, reference in zip(rows(engine, *spans), wrapped, strict=True):
        merged = copy.deepcopy(reference).merge_and_unload()
        for item in (reference, merged):
            with torch.inference_mode():
                expected = item(input_ids=torch.tensor([text]), use_cache=False).logits[0].numpy()
            np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
