"""Install llama-cpp-python for the tests: compiled once, kept as a wheel in the user's cache.

Run by `make test` with the environment's own Python. The package comes as source; a wheel is kept under a key
of version, flags and machine (pip's own cache does not know with which flags a wheel was built). The flags
leave out what the tests do not need, and give code that runs on any machine of the kind.
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

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "llama-cpp-python"
SKIP = "SKIP_LLAMA_CPP"
# The package forces llama.cpp's common library on; a normal variable, set before it is asked, wins.
INCLUDED = "set(LLAMA_BUILD_COMMON OFF)\n"
FLAGS = ("-DLLAVA_BUILD=OFF", "-DGGML_NATIVE=OFF")
TIMEOUT = 1800
SHOWN_LINES = 30


def main() -> int:
    if os.environ.get(SKIP):
        return skip(f"{SKIP} is set")
    version = wanted_version()
    if installed_version() == version:
        return 0
    wheel = find_wheel(version)
    if wheel is None:
        if not any(map(shutil.which, compilers())):
            return skip(f"no C++ compiler was found ({', '.join(compilers())}); see `dcmodel doctor`")
        wheel = build(version)
        if wheel is None:
            return skip("it did not compile")
    pip("install", "--force-reinstall", "--no-deps", str(wheel))
    pip("install", "-c", str(ROOT / "constraints.txt"), f"{PACKAGE}=={version}")
    return 0


def skip(reason: str) -> int:
    """The tests that need it skip as well, and say so."""
    say(f"{PACKAGE} is not installed: {reason}. The tests of llama.cpp are skipped.")
    return 0


def wanted_version() -> str:
    (version,) = re.findall(
        r"^llama-cpp-python==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE
    )
    return version


def installed_version() -> str | None:
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return None


def compilers() -> list[str]:
    return [name for name in (os.environ.get("CXX"), "c++", "g++", "clang++", "cl") if name]


def cache_folder(version: str) -> Path:
    """Where the wheel of this version, built with these flags for this kind of machine, lies."""
    machine = f"{platform.system()} {platform.machine()} {platform.libc_ver()}"
    key = hashlib.sha256("\n".join((version, INCLUDED, *FLAGS, machine)).encode()).hexdigest()[:16]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "dcmodel" / "wheels" / key


def find_wheel(version: str) -> Path | None:
    return next(cache_folder(version).glob("llama_cpp_python-*.whl"), None)


def build(version: str) -> Path | None:
    """Compile it; None, and the end of the log shown, where that fails."""
    say(f"Compiling {PACKAGE} {version}, once: one to three minutes on two idle cores")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "included.cmake").write_text(INCLUDED)
        flags = (*FLAGS, f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={folder / 'included.cmake'}")
        environment = {
            "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1),
            **os.environ,
            "CMAKE_ARGS": " ".join(flags),
        }
        command = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-cache-dir", "-w", str(folder / "wheels"), f"{PACKAGE}=={version}"]
        with (folder / "log").open("w+") as log:
            try:
                done = subprocess.run(
                    command, env=environment, stdout=log, stderr=log, check=False, timeout=TIMEOUT
                )
                failed = done.returncode != 0
            except subprocess.TimeoutExpired:
                failed = True
        if failed:
            lines = (folder / "log").read_text(errors="replace").splitlines()
            say("\n".join(lines[-SHOWN_LINES:]))
            return None
        say(f"It took {time.monotonic() - began:.0f} s")
        return keep(next((folder / "wheels").glob("*.whl")), cache_folder(version))


def keep(wheel: Path, folder: Path) -> Path:
    """Put the wheel into the cache, whole or not at all; where that fails, a temporary folder serves."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp())
    part = folder / f".{os.getpid()}.part"
    shutil.copyfile(wheel, part)
    return part.replace(folder / wheel.name)


def pip(*arguments: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        *arguments[:1],
        "-qq",
        "--disable-pip-version-check",
        *arguments[1:],
    ]
    subprocess.run(command, check=True)


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
