"""What is compiled: whether a C++ compiler is there, and whether llama-cpp-python and vLLM load."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping

COMPILED = "llama-cpp-python"
"""The distribution that comes as source."""
COMPILERS = ("c++", "g++", "clang++")
WINDOWS_COMPILERS = ("cl", "clang++", "g++")
INSTALL_COMPILER = {
    "apt-get": "apt-get install build-essential",
    "dnf": "dnf install gcc-c++",
    "apk": "apk add build-base",
    "pacman": "pacman -S base-devel",
}
# Initialised, not only imported: code for another processor fails when it runs.
LOADING = "from llama_cpp import llama_cpp; llama_cpp.llama_backend_init()"
TIMEOUT = 60.0
VLLM_LOADING = "import vllm; from vllm import LLMEngine"
"""Its compiled parts come with the engine."""
VLLM_TIMEOUT = 180.0


def find_compiler(environ: Mapping[str, str] | None = None) -> str | None:
    """The path of a C++ compiler that runs: CXX where that is set, as for CMake, or else the usual names."""
    given = shlex.split((os.environ if environ is None else environ).get("CXX", ""))[:1]
    names = given or (WINDOWS_COMPILERS if sys.platform == "win32" else COMPILERS)
    return next((path for name in names if (path := shutil.which(name)) and _runs(path)), None)


def compiler_remedy() -> str:
    """The command that installs a C++ compiler here, or what to install."""
    if sys.platform == "darwin":
        return "xcode-select --install"
    if sys.platform == "win32":
        return "install the Build Tools for Visual Studio with their C++ tools"
    found = (command for name, command in INSTALL_COMPILER.items() if shutil.which(name))
    return next(found, "install g++ or clang++")


def llama_cpp_fault() -> str | None:
    """Why the installed llama-cpp-python cannot be used; None if it can."""
    return loading_fault(LOADING, TIMEOUT)


def vllm_fault() -> str | None:
    """Why the installed vLLM cannot be used; None if it can. Takes seconds."""
    return loading_fault(VLLM_LOADING, VLLM_TIMEOUT)


def loading_fault(code: str, timeout: float) -> str | None:
    """What goes wrong when `code` runs, in a process of its own; None if nothing does."""
    command = [sys.executable, "-P", "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"it does not load within {timeout:.0f} s"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return f"it ends the process with {name}: was it built for another processor?"
    return next(iter(reversed(done.stderr.strip().splitlines())), f"exit code {done.returncode}")


def fault_remedy(fault: str) -> str:
    """What to type about a fault of `llama_cpp_fault`."""
    if "libgomp" in fault and shutil.which("apt-get"):
        return "apt-get install libgomp1"
    return f"pip install --force-reinstall --no-deps --no-cache-dir {COMPILED}"


def _runs(path: str) -> bool:
    """On macOS c++ is there even without the tools that it calls."""
    if sys.platform == "win32":
        return True
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=TIMEOUT).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
