"""Install llama-cpp-python for the tests: compiled once, kept as a wheel in the user's cache.

Run by `make test` with the environment's own Python. The package comes as source; a wheel is kept under a key
of version, flags and machine (pip's own cache does not know with which flags a wheel was built). The flags
leave out what the tests do not need, and give code that runs on any machine of the kind; those of the
variable CMAKE_ARGS come after them. SKIP_LLAMA_CPP=1 leaves it out.

Exit code 0: it is installed, or it is left out because of SKIP_LLAMA_CPP or for want of a compiler; 1: it
does not compile or does not load.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from dcmodel.cli.native import compiler_remedy, find_compiler, llama_cpp_fault
from lmql_backends.tiny.gguf_cache import cache_folder

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
PACKAGE = "llama-cpp-python"
SKIP = "SKIP_LLAMA_CPP"
# The package forces llama.cpp's common library on; a normal variable, set before it is asked, wins.
INCLUDED = "set(LLAMA_BUILD_COMMON OFF)\n"
FLAGS = ("-DLLAVA_BUILD=OFF", "-DGGML_NATIVE=OFF")
TIMEOUT = 1800
SHOWN_LINES = 30
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def main() -> int:
    if os.environ.get(SKIP):
        say(f"{PACKAGE} is left out ({SKIP} is set): the tests of llama.cpp are skipped.")
        return 0
    version = wanted_version()
    if installed_version() == version:
        return 0
    folder = wheel_folder(version)
    wheel = next(folder.glob("*.whl"), None)
    if wheel is None and find_compiler() is None:
        say(f"{PACKAGE} is left out, since no C++ compiler is found: the tests of llama.cpp are skipped.")
        say(f"To run them: {compiler_remedy()}")
        return 0
    if wheel is None:
        wheel = build(version, folder)
    if wheel is None or not install(wheel):
        say(f"Error: {PACKAGE} is not installed (see above): the tests of llama.cpp are skipped.")
        say(f"It is tried again next time, unless {SKIP}=1 is set.")
        return 1
    return 0


def wanted_version() -> str:
    (version,) = re.findall(rf"^{PACKAGE}==(\S+)$", CONSTRAINTS.read_text(), re.MULTILINE)
    return str(version)


def installed_version() -> str | None:
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return None


def wheel_folder(version: str) -> Path:
    """Where the wheel of this version, built with these flags for this kind of machine, lies."""
    machine = f"{platform.system()} {platform.machine()} {platform.libc_ver()}"
    parts = (version, INCLUDED, *FLAGS, os.environ.get("CMAKE_ARGS", ""), machine)
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return cache_folder() / "wheels" / f"{PACKAGE}-{version}-{key}"


def build(version: str, kept: Path) -> Path | None:
    """Compile it; None, and the end of the log shown, where that fails."""
    say(f"Compiling {PACKAGE} {version}: one to three minutes on two idle cores, once (kept in {kept})")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "log"
        if not compile_wheel(version, folder, log):
            say("\n".join(log.read_text(errors="replace").splitlines()[-SHOWN_LINES:]))
            return None
        say(f"It took {time.monotonic() - began:.0f} s.")
        return keep(next(folder.glob("*.whl")), kept)


def compile_wheel(version: str, folder: Path, log: Path) -> bool:
    """Leave the wheel in `folder`; whether that worked. What pip and CMake say goes to `log`."""
    included = folder / "included.cmake"
    included.write_text(INCLUDED)
    flags = (*FLAGS, f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={included}", os.environ.get("CMAKE_ARGS", ""))
    environment = {
        "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1),
        **os.environ,
        "CMAKE_ARGS": " ".join(flags),
    }
    command = [*PIP, "wheel", "--verbose", "--no-deps", "--no-cache-dir", "--no-binary", PACKAGE]
    command += ["--wheel-dir", str(folder), f"{PACKAGE}=={version}"]
    with log.open("w") as file:
        try:
            done = subprocess.run(command, env=environment, stdout=file, stderr=file, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            file.write(f"\nNot ready after {TIMEOUT} s.\n")
            return False
    return done.returncode == 0


def keep(wheel: Path, folder: Path) -> Path:
    """Put the wheel into the cache, whole or not at all; where that fails, a temporary folder serves."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{os.getpid()}.part"
        shutil.copyfile(wheel, part)
        return part.replace(folder / wheel.name)
    except OSError as error:
        say(f"The wheel cannot be kept: {error}")
        return Path(shutil.copy(wheel, tempfile.mkdtemp()))


def install(wheel: Path) -> bool:
    """Whether it is installed and loads. One that does not load is taken out, so that its tests skip."""
    command = [*PIP, "install", "-qq", "-c", str(CONSTRAINTS), str(wheel)]
    if subprocess.run(command).returncode != 0:
        return False
    if fault := llama_cpp_fault():
        say(f"{wheel.name} does not load: {fault}")
        subprocess.run([*PIP, "uninstall", "-qq", "--yes", PACKAGE])
    return fault is None


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
