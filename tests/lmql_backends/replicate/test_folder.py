"""`dcmodel replicate init` writes what `cog push` takes."""

from __future__ import annotations

import argparse
import ast
import io
import json
import sys
import types
from pathlib import Path

import pytest

from dcmodel.cli.output import Output
from dcmodel.errors import DcModelError, InvalidRequestError, ModelNotFoundError, SetupError
from lmql_backends.replicate.cog.folder import Plan, write_folder
from lmql_backends.replicate.commands import replicate

yaml = pytest.importorskip("yaml")


def init(*arguments: str) -> str:
    """What the command prints."""
    parser = argparse.ArgumentParser()
    replicate.add_parser(parser.add_subparsers())
    parsed = parser.parse_args(["replicate", "init", *arguments])
    out = io.StringIO()
    assert parsed.execute(parsed, Output(out, io.StringIO())) == 0
    return out.getvalue()


def constants(folder: Path) -> dict[str, object]:
    """MODEL and BACKEND of its predict.py."""
    tree = ast.parse((folder / "predict.py").read_text("utf-8"))
    return {
        (statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]).id: (
            ast.literal_eval(statement.value)
        )
        for statement in tree.body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
    }


def test_the_command_writes_the_embedded_model(tmp_path):
    told = json.loads(init(str(tmp_path / "tiny"), "--json"))
    assert told["files"] == ["predict.py", "cog.yaml", "requirements.txt"]
    assert constants(tmp_path / "tiny") == {"MODEL": None, "BACKEND": None, "ADAPTERS": {}}
    config = yaml.safe_load((tmp_path / "tiny" / "cog.yaml").read_text("utf-8"))
    assert config == {
        "build": {"gpu": False, "python_version": "3.12", "python_requirements": "requirements.txt"},
        "predict": "predict.py:Predictor",
        "concurrency": {"max": 32},
    }


def test_it_says_what_comes_next(tmp_path):
    assert "cog push" in init(str(tmp_path / "tiny"))


def test_a_model_of_the_hub_is_downloaded_by_the_build(tmp_path):
    init(str(tmp_path), "--model", "org/model", "--gpu", "--max-predictions", "8")
    config = yaml.safe_load((tmp_path / "cog.yaml").read_text("utf-8"))
    (command,) = config["build"]["run"]
    assert "org/model" in command
    assert constants(tmp_path)["MODEL"] in command
    assert (config["build"]["gpu"], config["concurrency"]["max"]) == (True, 8)


def test_a_model_of_this_machine_is_copied(tmp_path):
    source = tmp_path / "model"
    source.mkdir()
    (source / "config.json").write_text("{}")
    init(str(tmp_path / "out"), "--model", str(source))
    assert (tmp_path / "out" / "weights" / "config.json").read_text() == "{}"
    assert constants(tmp_path / "out")["MODEL"] == "weights"


def test_a_gguf_file_is_copied_and_needs_llama_cpp(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    init(str(tmp_path / "out"), "--model", str(tmp_path / "model.gguf"))
    assert constants(tmp_path / "out")["MODEL"] == "weights/model.gguf"
    assert (tmp_path / "out" / "weights" / "model.gguf").read_bytes() == b"GGUF"
    assert "dcmodel[llamacpp]==" in (tmp_path / "out" / "requirements.txt").read_text()


def test_adapters_are_copied_and_mounted_by_name(tmp_path):
    source = tmp_path / "lora"
    source.mkdir()
    (source / "adapter_config.json").write_text("{}")
    (tmp_path / "lora.gguf").write_bytes(b"GGUF")
    folder = tmp_path / "out"
    init(str(folder), "--adapter", f"formal={source}", "--adapter", f"short={tmp_path / 'lora.gguf'}")
    assert constants(folder)["ADAPTERS"] == {
        "formal": "adapters/formal",
        "short": "adapters/short/lora.gguf",
    }
    assert (folder / "adapters" / "formal" / "adapter_config.json").exists()
    assert (folder / "adapters" / "short" / "lora.gguf").read_bytes() == b"GGUF"


@pytest.mark.parametrize("text", ["formal", "formal=", "formal=/not/here", "=x"])
def test_an_adapter_that_cannot_be_is_refused(tmp_path, text):
    with pytest.raises(DcModelError):
        init(str(tmp_path / "out"), "--adapter", text)
    assert not (tmp_path / "out").exists()


def test_requirements_are_the_users_where_given(tmp_path):
    init(str(tmp_path), "--requirement", "dcmodel @ file:///wheel", "--requirement", "torch==2.13.0")
    assert (tmp_path / "requirements.txt").read_text() == "dcmodel @ file:///wheel\ntorch==2.13.0\n"


def test_nothing_is_overwritten_unasked(tmp_path):
    (tmp_path / "predict.py").write_text("mine")
    with pytest.raises(SetupError, match="--force"):
        write_folder(tmp_path, Plan())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predict.py"]
    write_folder(tmp_path, Plan(), force=True)
    assert (tmp_path / "predict.py").read_text() != "mine"


@pytest.mark.parametrize("model", ["not here", "../etc", "a/b/c", "org/na'me"])
def test_a_model_that_is_nowhere_is_refused(model):
    with pytest.raises(ModelNotFoundError, match="Hub id"):
        Plan(model=model)


def test_values_out_of_range_are_refused():
    with pytest.raises(InvalidRequestError):
        Plan(max_predictions=0)
    with pytest.raises(InvalidRequestError):
        Plan(requirements=("torch\nevil",))


async def test_the_written_predictor_answers(tmp_path, monkeypatch):
    """Its code runs, with `cog` replaced by what of it the code names: cog itself is not installed here."""
    cog = types.ModuleType("cog")
    cog.AsyncConcatenateIterator = list
    cog.BasePredictor = object
    cog.Input = lambda description, default: default
    monkeypatch.setitem(sys.modules, "cog", cog)
    write_folder(tmp_path, Plan())
    names: dict[str, object] = {}
    exec(compile((tmp_path / "predict.py").read_text("utf-8"), "predict.py", "exec"), names)
    predictor = names["Predictor"]()
    predictor.setup()
    greeting = json.dumps([{"type": "hello", "versions": [2]}, {"type": "describe", "id": 7}])
    output = "".join([piece async for piece in predictor.predict(greeting, "")])
    told = [message for line in output.splitlines() for message in json.loads(line)]
    assert [message["type"] for message in told] == ["welcome", "described"]
    await predictor.predictions.aclose()
