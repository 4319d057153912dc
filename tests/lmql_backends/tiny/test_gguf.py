"""The embedded model as GGUF gives what its checkpoint gives."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
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


ALPHABETS = [
    "abcXYZ", " \t\n\r\u00a0\u3000", "0123456789²½٣", "'\u2019sStTreRE", "éüñçß", "漢字かな한글",
    "🐢🏳️‍🌈", "{}[]\":,.!?-_<>|#", "\u0301\u200b\ufeff\u2028\x1f\x7f", "אבعر",
]  # fmt: skip


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


def test_llama_cpp_cuts_texts_as_the_original_does(tmp_path):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    from tokenizers import Tokenizer

    from lmql_backends.llama_cpp.model import open_model

    model = open_model(convert(MODEL_DIR, tmp_path / "m.gguf"), vocab_only=True)
    original = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    draw = random.Random(0)
    c, room = model.lib.c, 512
    token_ids = (c.llama_token * room)()
    for alphabets in draw.choices(list(itertools.combinations(ALPHABETS, 3)), k=2000):
        text = "".join(draw.choice(draw.choice(alphabets)) for _ in range(20))
        data = text.encode()
        count = c.llama_tokenize(model.vocab, data, len(data), token_ids, room, False, False)
        assert token_ids[:count] == original.encode(text, add_special_tokens=False).ids, text
    model.close()


@pytest.mark.parametrize(("weights", "tolerance"), [("f32", 1e-3), ("f16", 0.2), ("q8_0", 2.0)])
def test_llama_cpp_gives_the_logits_of_the_checkpoint(tmp_path, weights, tolerance):
    rows, expected = both_logits(MODEL_DIR, tmp_path / "m.gguf", weights)
    assert np.abs(rows - expected).max() < tolerance
    assert (rows.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9


def test_a_llama_with_a_head_of_its_own_and_another_vocabulary_is_converted(tmp_path):
    from conformance.backends import save_random_llama

    save_random_llama(tmp_path)
    rows, expected = both_logits(tmp_path, tmp_path / "m.gguf", "f32")
    assert np.abs(rows - expected).max() < 1e-3
    assert from_gguf(tmp_path / "m.gguf").fingerprint == load(tmp_path).fingerprint


def both_logits(folder, path, weights) -> tuple[np.ndarray, np.ndarray]:
    """Of all positions of a text: llama.cpp on the converted file, transformers on the checkpoint."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    import torch
    from transformers import AutoModelForCausalLM

    from dcmodel.backend import LoadOptions
    from dcmodel.engine import GenerateBatch, Span
    from lmql_backends.llama_cpp import BACKEND

    convert(folder, path, weights=weights)
    engine = BACKEND.load(str(path), LoadOptions(dtype="float32", device="cpu")).engine
    text = "Text: Mira is 34 and lives in Velden.\nFields: name, age\nJSON:"
    token_ids = load(folder).encode_prompt(text)
    span = Span(engine.allocate(len(token_ids)), 0, token_ids, range(len(token_ids)))
    rows = engine.forward(GenerateBatch([span])).to_numpy().copy()
    engine.close()
    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return rows, model(torch.tensor([token_ids])).logits[0].numpy()


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


def test_a_cache_that_cannot_be_written_to_is_passed_over(cache, tmp_path, monkeypatch):
    cache.parent.write_text("a file where a folder is needed")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = embedded_gguf()
    assert path.exists()
    assert embedded_gguf() == path


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="folders have no owner's number here")
def test_a_temporary_folder_that_is_somebody_elses_is_not_read(cache, tmp_path, monkeypatch):
    cache.parent.write_text("a file where a folder is needed")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = embedded_gguf()
    owner = os.getuid()
    monkeypatch.setattr("os.getuid", lambda: owner + 1)
    mine.parent.rename(tmp_path / f"dcmodel-{owner + 1}")
    assert f"dcmodel-{owner + 1}" not in embedded_gguf().parts


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


def test_weights_that_are_missing_or_of_another_type_are_named(checkpoint, tmp_path):
    torch_files = pytest.importorskip("safetensors.torch", exc_type=ImportError)
    path = checkpoint / "model.safetensors"
    halves = {name: values.bfloat16() for name, values in torch_files.load_file(path).items()}
    torch_files.save_file(halves, path)
    with pytest.raises(ModelLoadError, match="bfloat16"):
        convert(checkpoint, tmp_path / "m.gguf")
    path.unlink()
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors"):
        convert(checkpoint, tmp_path / "m.gguf")


def test_the_command_writes_a_file_and_says_what_is_wrong(tmp_path, capsys):
    assert main([str(tmp_path / "m.gguf"), "--weights", "f16"]) == 0
    assert "MB" in capsys.readouterr().out
    assert main([str(tmp_path), str(tmp_path / "n.gguf")]) == 1
    assert capsys.readouterr().err.startswith("Error: there is no file")
