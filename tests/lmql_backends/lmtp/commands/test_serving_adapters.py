"""What `dcmodel serve` is told of adapters and memory, and a server of it from the command line."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import httpx
import numpy as np
import pytest

from dcmodel.errors import InvalidRequestError
from lmql_backends.lmtp.commands import balance, serve
from lmql_backends.lmtp.commands.serve_arguments import memory_of, settings_of, sources_of
from lmql_backends.lmtp.commands.serving_workers import worker_arguments


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers())
    return parser.parse_args(["serve", *words])


def test_an_adapter_belongs_to_the_model_that_it_names_or_to_the_first():
    sources = sources_of(
        parsed("one=a", "org/two:7b=b", "--adapter", "org/two:7b:law=x=y", "--adapter", "tax=z:1")
    )
    assert sources["one"].adapters == {"tax": "z:1"}
    assert sources["org/two:7b"].adapters == {"law": "x=y"}


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ("law", "no path"),
        ("law=", "no path"),
        ("none:law=x", "no model 'none'"),
        ("a b=x", "cannot be an adapter's name"),
        ("=x", "cannot be an adapter's name"),
    ],
)
def test_what_is_no_adapter_is_said(adapter, message):
    with pytest.raises(InvalidRequestError, match=message):
        sources_of(parsed("one=a", "--adapter", adapter))
    with pytest.raises(InvalidRequestError, match="two adapters"):
        sources_of(parsed("one=a", "--adapter", "x=1", "--adapter", "one:x=2"))


def test_memory_is_in_gigabytes():
    assert memory_of(parsed()) is None
    assert memory_of(parsed("--memory", "1.5")) == 3 << 29
    for value in ("0", "-1", "nan"):
        with pytest.raises(InvalidRequestError, match="--memory"):
            memory_of(parsed("--memory", value))


def test_clients_may_mount_from_folders_that_are_there(tmp_path):
    assert settings_of(parsed()).limits.mount_from == ()
    assert settings_of(parsed("--allow-mounting", str(tmp_path))).limits.mount_from == (tmp_path,)
    with pytest.raises(InvalidRequestError, match="no folder"):
        settings_of(parsed("--allow-mounting", str(tmp_path / "none")))
    parser = argparse.ArgumentParser()
    balance.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["balance", "h:1", "--allow-mounting", str(tmp_path)])
    assert settings_of(arguments).limits.mount_from == (tmp_path,)


def test_workers_are_told_of_adapters_too(tmp_path):
    told = ("m", "--adapter", "law=x", "--allow-mounting", str(tmp_path), "--warm-up")
    again = parsed(*worker_arguments(parsed(*told, "--workers", "2")))
    assert again.adapter == ["law=x"]
    assert again.allow_mounting == [str(tmp_path)]
    assert again.warm_up


def test_a_server_with_an_adapter_from_the_command_line(tmp_path):
    from safetensors.numpy import load_file, save_file

    from dcmodel.registry import Registry

    pytest.importorskip("transformers")
    folder = tmp_path / "lora"
    folder.mkdir()
    weights = load_file(Registry().embedded_path() / "model.safetensors")
    rng = np.random.default_rng(0)
    name = "model.layers.0.self_attn.q_proj"
    outputs, inputs = weights[f"{name}.weight"].shape
    pair = {"A": rng.standard_normal((4, inputs)), "B": rng.standard_normal((outputs, 4))}
    tensors = {
        f"base_model.model.{name}.lora_{side}.weight": value.astype(np.float32)
        for side, value in pair.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none"}
    config["layers_to_transform"] = [0]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "dcmodel", "serve", "base=embedded", "--backend", "transformers"]
    command += ["--port", "0", "--json", "--warm-up", "--adapter", f"law={folder}", "--memory", "8"]
    command += ["--until-stdin-closes", "--quiet", "--allow-mounting", str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        url = json.loads(process.stdout.readline())["http_url"]

        def text(model):
            body = {"model": model, "prompt": "The river", "max_tokens": 12, "temperature": 0}
            return httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]

        assert [item["id"] for item in httpx.get(f"{url}/v1/models").json()["data"]] == ["base", "base:law"]
        assert text("law") == text("base:law") != text("base")
        body = {"lora_name": "tax", "lora_path": "lora"}
        assert httpx.post(f"{url}/v1/load_lora_adapter", json=body, timeout=60).status_code == 200
        assert text("tax") == text("law")
        assert httpx.get(f"{url}/ready?model=tax").json() == {"status": "ready"}
    finally:
        process.communicate(timeout=60)
    assert process.returncode == 0
