"""Finding out what is at a path."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import dctokenizers
from dctokenizers import TokenizerError

from .conftest import byte_level_backend, spm_backend, tiny_ranks


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text)
    return folder


def test_a_folder_is_read_with_its_config_files(tmp_path):
    folder = write(
        tmp_path / "model",
        tokenizer=byte_level_backend().to_str(),
        tokenizer_config={"eos_token": "<|sep|>", "added_tokens_decoder": {}},
        generation_config={"eos_token_id": [1, 0]},
    )
    tokenizer = dctokenizers.load(folder)
    assert tokenizer.eos_token_ids == (1, 0)
    assert tokenizer.name == str(folder)
    assert dctokenizers.load(str(folder)).fingerprint == tokenizer.fingerprint
    assert dctokenizers.load(folder / "tokenizer.json").eos_token_ids == (1, 0)


def test_a_folder_with_one_other_file_is_read(tmp_path):
    path = tiny_ranks(tmp_path)
    path.rename(tmp_path / "r50k_base.tiktoken")
    assert dctokenizers.load(tmp_path).special_token_ids == {50256}


def test_a_folder_with_vocabulary_and_merges_is_converted(tmp_path):
    pytest.importorskip("transformers")
    backend = byte_level_backend()
    backend.model.save(str(tmp_path))
    write(tmp_path, tokenizer_config={"tokenizer_class": "GPT2Tokenizer"}, config={"model_type": "gpt2"})
    tokenizer = dctokenizers.load(tmp_path)
    assert tokenizer.encode("the cat sat") == backend.encode("the cat sat").ids
    assert tokenizer.decode(tokenizer.encode("🐢")) == "🐢"


def test_what_cannot_be_read_is_said_with_what_could(tmp_path):
    with pytest.raises(TokenizerError, match="no tokenizer"):
        dctokenizers.load(tmp_path)
    odd = tmp_path / "weights.bin"
    odd.write_bytes(b"")
    with pytest.raises(TokenizerError, match=r"of no form.*\.gguf"):
        dctokenizers.load(odd)
    for missing in (tmp_path / "none", "./none", "/none/at/all"):
        with pytest.raises(TokenizerError, match="no file or folder"):
            dctokenizers.load(missing)


def test_a_broken_config_is_named(tmp_path):
    folder = write(tmp_path, tokenizer=spm_backend().to_str(), tokenizer_config="{")
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json is not JSON"):
        dctokenizers.load(folder)
    write(tmp_path, tokenizer_config="[]")
    with pytest.raises(TokenizerError, match="not a JSON object"):
        dctokenizers.load(folder)


def test_a_name_that_the_hub_does_not_have_is_an_error(monkeypatch):
    import huggingface_hub

    def refuse(repository, **_):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(TokenizerError, match=r"'org/model' is no file or folder here.*no network"):
        dctokenizers.load("org/model")


def test_a_hub_id_downloads_tokenizer_files_only(monkeypatch, tmp_path):
    import huggingface_hub

    folder = write(tmp_path / "snapshot", tokenizer=spm_backend().to_str())
    asked = {}

    def download(repository, *, allow_patterns):
        asked[repository] = allow_patterns
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert dctokenizers.load("org/model").name == "org/model"
    assert not any("safetensors" in pattern or "*" in pattern for pattern in asked["org/model"])


def test_the_import_is_light():
    heavy = [
        "torch",
        "transformers",
        "tokenizers",
        "tiktoken",
        "numpy",
        "llguidance",
        "gguf",
        "huggingface_hub",
    ]
    code = f"import sys, dctokenizers; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
