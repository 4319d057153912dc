"""The training script: it runs, it is deterministic, and the stored tokenizer is the one it makes."""

import json

import pytest

from lmql_backends.tiny import MODEL_DIR, load_metrics

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from safetensors.torch import load_file

from lmql_backends.tiny import train


def test_the_stored_tokenizer_is_the_one_that_the_script_makes():
    made = train.corpus_tokenizer(load_metrics()["training"]["seed"])
    stored = (MODEL_DIR / "tokenizer.json").read_text(encoding="utf-8")
    assert json.loads(made.to_str()) == json.loads(stored)


def test_two_trainings_give_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "_TOKENIZER_DOCUMENTS", 2_000)
    options = [
        "--steps",
        "2",
        "--tokens-per-step",
        "1024",
        "--held-out",
        "0",
        "--device",
        "cpu",
        "--threads",
        "1",
    ]
    for name in ("first", "second"):
        assert train.main(["--out", str(tmp_path / name), *options]) == 0
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_rate_rises_then_falls_to_nearly_nothing():
    plan = train.Plan(steps=1000, tokens_per_step=1, seed=1, device=torch.device("cpu"))
    factors = [plan.rate_factor(step) for step in range(plan.steps)]
    assert factors.index(max(factors)) == pytest.approx(50, abs=2)
    assert max(factors) == 1
    assert factors[-1] < 0.03


def test_some_steps_have_long_rows():
    plan = train.Plan(steps=100, tokens_per_step=1, seed=1, device=torch.device("cpu"))
    lengths = [plan.row_length(step) for step in range(16)]
    assert lengths == 2 * [*7 * [plan.short_row], plan.long_row]
