"""llama-cpp-python for the tests: built once, kept, and left out with a reason. Nothing is built here."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "install_llama_cpp.py"
VERSION = "0.3.36"
WHEEL = f"llama_cpp_python-{VERSION}-py3-none-any.whl"


class Pip:
    """Stands for pip: writes a wheel, or fails and says why."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.cmake_args = ""
        self.failure = ""

    def __call__(self, command, *, env=None, stdout=None, **_):
        self.commands.append(command)
        if "wheel" in command:
            self.cmake_args = env["CMAKE_ARGS"]
            if self.failure:
                stdout.write(self.failure)
                return subprocess.CompletedProcess(command, 1)
            Path(command[command.index("--wheel-dir") + 1], WHEEL).write_bytes(b"wheel")
        return subprocess.CompletedProcess(command, 0)

    def count(self, task: str) -> int:
        return sum(task in command for command in self.commands)


@pytest.fixture
def pip(monkeypatch) -> Pip:
    pip = Pip()
    monkeypatch.setattr("subprocess.run", pip)
    return pip


@pytest.fixture
def script(pip, monkeypatch, tmp_path):
    """The script on a machine with a compiler, an empty cache and no llama-cpp-python."""
    for name in ("SKIP_LLAMA_CPP", "CMAKE_ARGS"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("install_llama_cpp", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(module, "installed_version", lambda: None)
    monkeypatch.setattr(module, "find_compiler", lambda: "/usr/bin/c++")
    monkeypatch.setattr(module, "llama_cpp_fault", lambda: None)
    return module


def test_it_is_built_once_and_then_installed_from_the_cache(script, pip, capsys):
    assert script.main() == 0
    assert "once" in capsys.readouterr().err
    assert script.main() == 0
    assert capsys.readouterr().err == ""
    assert (pip.count("wheel"), pip.count("install")) == (1, 2)
    (kept,) = script.wheel_folder(VERSION).iterdir()
    assert kept.name == WHEEL
    assert pip.commands[-1][-1] == str(kept)


def test_other_flags_are_another_wheel(script, pip, monkeypatch):
    plain = script.wheel_folder(VERSION)
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=on")
    assert script.wheel_folder(VERSION) != plain
    assert script.main() == 0
    assert "-DGGML_NATIVE=OFF" in pip.cmake_args
    assert pip.cmake_args.endswith("-DGGML_CUDA=on")


def test_what_is_installed_stays(script, pip, monkeypatch):
    monkeypatch.setattr(script, "installed_version", lambda: VERSION)
    assert script.main() == 0
    assert pip.commands == []


def test_it_is_left_out_on_purpose(script, pip, monkeypatch, capsys):
    monkeypatch.setenv("SKIP_LLAMA_CPP", "1")
    assert script.main() == 0
    assert "SKIP_LLAMA_CPP" in capsys.readouterr().err
    assert pip.commands == []


def test_without_a_compiler_it_is_left_out_and_the_tests_go_on(script, pip, monkeypatch, capsys):
    monkeypatch.setattr(script, "find_compiler", lambda: None)
    assert script.main() == 0
    assert "no C++ compiler" in capsys.readouterr().err
    assert pip.commands == []


def test_a_build_that_fails_shows_the_end_of_its_log(script, pip, capsys):
    pip.failure = "\n".join(["the beginning", *["some line"] * 40, "CMake Error: no"])
    assert script.main() == 1
    said = capsys.readouterr().err
    assert "CMake Error: no" in said
    assert "the beginning" not in said
    assert not script.wheel_folder(VERSION).exists()


def test_a_wheel_that_does_not_load_is_taken_out_again(script, pip, monkeypatch, capsys):
    monkeypatch.setattr(script, "llama_cpp_fault", lambda: "libgomp.so.1: cannot open shared object file")
    assert script.main() == 1
    assert "libgomp.so.1" in capsys.readouterr().err
    assert pip.count("uninstall") == 1


def test_a_cache_that_cannot_be_written_to_costs_a_build_only(script, pip, tmp_path, capsys):
    (tmp_path / "cache").write_text("a file where a folder is needed")
    assert script.main() == 0
    assert "cannot be kept" in capsys.readouterr().err
    assert pip.count("install") == 1
