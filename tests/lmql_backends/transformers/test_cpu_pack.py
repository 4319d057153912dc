"""Packed linear layers compute what the plain ones do, and can be taken back."""

from __future__ import annotations

import pytest
import torch
from tiny_models import make_model
from torch import nn

from lmql_backends.transformers import cpu_pack
from lmql_backends.transformers.cpu_pack import PackedLinear, can_pack, pack_linears, unpack_linears


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi"])
def test_a_packed_model_gives_the_same_logits_and_so_does_the_unpacked_one(name):
    model = make_model(name)
    ids = torch.arange(3, 40).unsqueeze(0)
    with torch.inference_mode():
        expected = model(input_ids=ids, use_cache=False).logits
        assert pack_linears(model) > 5
        torch.testing.assert_close(model(input_ids=ids, use_cache=False).logits, expected, atol=2e-5, rtol=0)
        unpack_linears(model)
        assert not any(isinstance(module, PackedLinear) for module in model.modules())
        torch.testing.assert_close(model(input_ids=ids, use_cache=False).logits, expected, atol=2e-5, rtol=0)


def test_a_tied_embedding_keeps_its_weight():
    model = make_model("gemma2")
    embedding = model.get_input_embeddings().weight.clone()
    pack_linears(model)
    torch.testing.assert_close(model.get_input_embeddings().weight, embedding)


def test_layers_with_hooks_and_subclasses_stay():
    class Special(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), Special(8, 8))
    model[1].register_forward_hook(lambda *_: None)
    assert pack_linears(model) == (1 if can_pack(torch.float32) else 0)
    assert isinstance(model[1], nn.Linear)
    assert isinstance(model[2], Special)


def test_without_the_operations_nothing_is_packed(monkeypatch):
    def missing(*args):
        raise AttributeError("no such operation")

    monkeypatch.setattr(cpu_pack, "PackedLinear", missing)
    model = nn.Sequential(nn.Linear(8, 8))
    assert pack_linears(model) == 0
    assert type(model[0]) is nn.Linear


def test_wrong_results_are_noticed(monkeypatch):
    monkeypatch.setattr(PackedLinear, "forward", lambda self, rows: torch.zeros(1, 5, 48))
    assert not can_pack(torch.float32)


def test_no_rows_give_no_rows():
    if not can_pack(torch.float32):
        pytest.skip("not available")
    assert PackedLinear(torch.randn(6, 4), None)(torch.empty(1, 0, 4)).shape == (1, 0, 6)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(("outputs", "is_kept"), [(256, True), (5000, False)])
def test_small_float32_matrices_keep_their_plain_weight_for_single_rows(rows, outputs, is_kept):
    if not can_pack(torch.float32):
        pytest.skip("not available")
    plain = nn.Linear(64, outputs)
    packed = PackedLinear(plain.weight, plain.bias)
    assert (packed._plain is not None) == is_kept
    with torch.inference_mode():
        input = torch.randn(1, rows, 64)
        torch.testing.assert_close(packed(input), plain(input), atol=1e-5, rtol=0)


def test_bfloat16_matrices_are_kept_in_one_form():
    if not can_pack(torch.bfloat16):
        pytest.skip("not available")
    assert PackedLinear(torch.randn(8, 8, dtype=torch.bfloat16), None)._plain is None
