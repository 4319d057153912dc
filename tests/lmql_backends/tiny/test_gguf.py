"""The embedded model as GGUF gives what its checkpoint gives."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gguf")

from dcmodel.errors import ModelLoadError, ModelNotFoundError
from dctokenizers import from_gguf, load
from lmql_backends.tiny import MODEL_DIR
from lmql_backends.tiny.gguf_cache import embedded_gguf
from lmql_backends.tiny.gguf_export import convert, main

TEXTS = [
    "Mira is 34 and lives in Velden.",
    '{"name": "Mira", "age": 34}\n',
    "  12345  67 \t\n\n x ",
    "émoji 🐢🏳️‍🌈 and 漢字 ça",
    "don't I'LL we've",
    "<|bos|> as text",
    "",
]


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A copy of the embedded model's folder, to be spoilt."""
    return Path(shutil.copytree(MODEL_DIR, tmp_path / "model"))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.platform", "linux")
    return tmp_path / "cache" / "dcmodel"


def test_the_vocabulary_is_the_same(tmp_path):
    original, converted = load(MODEL_DIR), from_gguf(convert(MODEL_DIR, tmp_path / "m.gguf"))
    assert converted.fingerprint == original.fingerprint
    assert converted.eos_token_ids == original.eos_token_ids
    for text in TEXTS:
        assert converted.encode(text) == original.encode(text)
        assert converted.encode_prompt(text) == original.encode_prompt(text)


@pytest.mark.parametrize(("weights", "tolerance"), [("f32", 1e-3), ("f16", 0.2), ("q8_0", 2.0)])
def test_llama_cpp_gives_the_logits_of_the_checkpoint(tmp_path, weights, tolerance):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    import torch
    from transformers import AutoModelForCausalLM

    from dcmodel.backend import LoadOptions
    from dcmodel.engine import GenerateBatch, Span
    from lmql_backends.llama_cpp import BACKEND

    path = convert(MODEL_DIR, tmp_path / "m.gguf", weights=weights)
    engine = BACKEND.load(str(path), LoadOptions(dtype="float32", device="cpu")).engine
    token_ids = load(MODEL_DIR).encode_prompt(
        "Text: Mira is 34 and lives in Velden.\nFields: name, age\nJSON:"
    )
    span = Span(engine.allocate(len(token_ids)), 0, token_ids, range(len(token_ids)))
    rows = engine.forward(GenerateBatch([span])).to_numpy().copy()
    engine.close()
    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
        expected = model(torch.tensor([token_ids])).logits[0].numpy()
    assert np.abs(rows - expected).max() < tolerance
    assert (rows.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9


def test_the_file_is_made_once_and_made_again_when_it_is_gone(cache):
    path = embedded_gguf()
    assert path.parent == cache
    made = path.stat().st_mtime_ns
    assert embedded_gguf() == path
    assert path.stat().st_mtime_ns == made
    path.unlink()
    assert embedded_gguf().exists()
    assert [file.name for file in cache.iterdir()] == [path.name]


def test_several_processes_make_it_at_once(cache):
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        paths = pool.starmap(embedded_gguf, [()] * 3)
    assert len(set(paths)) == 1
    assert from_gguf(paths[0]).fingerprint == load(MODEL_DIR).fingerprint


def test_a_cache_that_cannot_be_written_to_is_passed_over(cache, tmp_path):
    cache.parent.write_text("a file where a folder is needed")
    assert embedded_gguf().exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architectures"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type"),
    ],
)
def test_what_has_no_place_there_is_named(checkpoint, tmp_path, change, reason):
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelLoadError, match=reason):
        convert(checkpoint, tmp_path / "m.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


def test_a_tokenizer_of_another_kind_is_named(checkpoint, tmp_path):
    path = checkpoint / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    for change, reason in (
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre-tokenizer"),
        ({"model": {**tokenizer["model"], "type": "Unigram"}}, "byte-level BPE"),
    ):
        path.write_text(json.dumps({**tokenizer, **change}))
        with pytest.raises(ModelLoadError, match=reason):
            convert(checkpoint, tmp_path / "m.gguf")


def test_a_folder_without_a_checkpoint_and_an_unknown_type_are_named(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        convert(tmp_path, tmp_path / "m.gguf")
    with pytest.raises(ModelLoadError, match="f32, f16, q8_0"):
        convert(MODEL_DIR, tmp_path / "m.gguf", weights="q2")


def test_the_command_writes_a_file_and_says_what_is_wrong(tmp_path, capsys):
    assert main([str(tmp_path / "m.gguf"), "--weights", "f16"]) == 0
    assert "MB" in capsys.readouterr().out
    assert main([str(tmp_path), str(tmp_path / "n.gguf")]) == 1
    assert capsys.readouterr().err.startswith("Error: there is no file")
