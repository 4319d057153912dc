"""The chat template among a checkpoint's files, and the same prompt as transformers makes of it."""

from __future__ import annotations

import json

import pytest
from fakes.small_tokenizer import save_small_tokenizer

from dcmodel.llm.chat import chat_ids
from dctokenizers import load
from lmql_backends.transformers.chat_template import chat_template

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def write_config(folder, **values):
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**config, **values}))


def test_it_is_read_from_its_own_file_or_from_the_tokenizers_configuration(tmp_path):
    assert chat_template(str(tmp_path), {}) == ""
    write_config(tmp_path, chat_template="one")
    assert chat_template(str(tmp_path), {}) == "one"
    named = [{"name": "rag", "template": "two"}, {"name": "default", "template": "three"}]
    write_config(tmp_path, chat_template=named)
    assert chat_template(str(tmp_path), {}) == "three"
    (tmp_path / "chat_template.jinja").write_text("föur\n", encoding="utf-8")
    assert chat_template(str(tmp_path), {}) == "föur\n"


@pytest.mark.parametrize(
    "config", ["[]", "{", '{"chat_template": 5}', '{"chat_template": [{"name": "x"}, 5]}']
)
def test_a_configuration_without_one_gives_none(tmp_path, config):
    (tmp_path / "tokenizer_config.json").write_text(config)
    assert chat_template(str(tmp_path), {}) == ""


def test_a_subfolder_is_asked_instead(tmp_path):
    folder = tmp_path / "sub"
    folder.mkdir()
    write_config(folder, chat_template="below")
    assert chat_template(str(tmp_path), {"subfolder": "sub"}) == "below"
    assert chat_template(str(tmp_path), {}) == ""


def test_a_name_that_cannot_be_had_has_none():
    assert chat_template("no such/na me", {}) == ""
    assert chat_template("org/model", {"local_files_only": True}) == ""


@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_the_prompt_is_that_of_transformers(tmp_path, add_generation_prompt):
    transformers = pytest.importorskip("transformers")
    save_small_tokenizer(tmp_path)
    write_config(tmp_path, chat_template=TEMPLATE)
    messages = [
        {"role": "user", "content": "yes  no é\n"},
        {"role": "assistant", "content": "maybe"},
    ]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        messages, add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=False
    )
    ours = chat_ids(
        load(tmp_path),
        chat_template(str(tmp_path), {}),
        messages,
        tools=None,
        add_generation_prompt=add_generation_prompt,
    )
    assert ours == theirs
