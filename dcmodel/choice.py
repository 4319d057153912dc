"""Which backend runs a model, and why: an argument, DCMODEL_BACKEND, the form of the name, what is installed.

The rules are pure: what they know of the system comes from `Installation`, and every one that was passed
over leaves a `Reason` with the next command to type.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from dcmodel.backend import Backend
from dcmodel.devices import Devices
from dcmodel.env import Settings

EMBEDDED = "embedded"
"""The name of the model that comes with the package: `LLM()` is `LLM("embedded")`."""
DEFAULT_BACKEND = "transformers"
ACCELERATED_BACKEND = "vllm"
BUILDS = {"cpu": ("cpu",), "rocm": ("rocm",), "xpu": ("xpu",)}
"""What stands in the local part of vLLM's version -> the devices that this build serves; else CUDA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendStatus:
    """A registered backend as `dcmodel backends` shows it."""

    name: str
    source: str
    """The distribution that registers it."""
    backend: Backend | None
    """None: the plug-in cannot be imported."""
    error: str = ""
    missing: tuple[str, ...] = ()
    """Distributions that it needs and that are not installed."""

    @property
    def is_ready(self) -> bool:
        return self.backend is not None and not self.missing

    @property
    def install(self) -> str:
        """The command that installs what is missing; empty where nothing is, or nothing would help."""
        return pip_line(self.backend) if self.backend is not None and self.missing else ""


@dataclass(frozen=True, slots=True)
class Reason:
    """One step of a choice, in words, and what to type where that would change it."""

    text: str
    next_command: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Decision:
    """The chosen backend, and why."""

    backend: str
    reasons: tuple[Reason, ...]
    otherwise: str | None = None
    """What runs the model where `backend` turns out to be broken; None where it was asked for."""


class Installation(Protocol):
    """What the rules ask of the system."""

    def names(self) -> tuple[str, ...]: ...
    def status(self, name: str) -> BackendStatus: ...
    def installed(self, backend: Backend) -> dict[str, str]:
        """Installed distributions of those that it needs, and their versions."""
        ...

    def devices(self) -> Devices: ...
    def embedded_forms(self) -> frozenset[str]: ...


def choose(where: Installation, model: str, explicit: str | None, settings: Settings) -> Decision:
    """The backend for `model`; never fails, an impossible one is an error of loading."""
    if explicit is not None:
        return Decision(explicit, (*_asked(explicit, settings), *_not_ready(where, explicit)))
    if settings.backend is not None:
        said = Reason(f"DCMODEL_BACKEND is {settings.backend}.")
        return Decision(settings.backend, (said, *_not_ready(where, settings.backend)))
    if model == EMBEDDED:
        return _for_embedded(where, settings)
    statuses = [where.status(name) for name in where.names()]
    broken = [
        Reason(f"{item.name} was left out: {item.error}", "dcmodel doctor") for item in statuses if item.error
    ]
    claiming = [item for item in statuses if item.backend and item.backend.claims(model)]
    if claiming:
        chosen = next((item for item in claiming if item.is_ready), claiming[0])
        runs = Reason(f"{chosen.name} runs names like {model!r}.")
        return Decision(chosen.name, (*broken, runs, *_not_ready(where, chosen.name)))
    return _by_installation(where, model, settings, broken)


def _asked(explicit: str, settings: Settings) -> Iterator[Reason]:
    yield Reason(f"{explicit} was asked for.")
    if settings.backend not in (None, explicit):
        yield Reason(f"DCMODEL_BACKEND is {settings.backend}; an argument goes before it.")


def _for_embedded(where: Installation, settings: Settings) -> Decision:
    """The default backend, which starts fastest; else whatever is installed and takes the embedded model."""
    if DEFAULT_BACKEND not in where.names() or where.status(DEFAULT_BACKEND).is_ready:
        reason = Reason(f"The embedded model is a {DEFAULT_BACKEND} checkpoint.")
        return Decision(DEFAULT_BACKEND, (reason,))
    missing = _not_ready(where, DEFAULT_BACKEND)
    forms = where.embedded_forms()
    for status in map(where.status, where.names()):
        if not (status.is_ready and status.backend and status.backend.model_format in forms):
            continue
        if status.name == ACCELERATED_BACKEND and _why_not_accelerated(where, EMBEDDED, settings):
            continue
        return Decision(status.name, (*missing, Reason(f"{status.name} runs the embedded model, too.")))
    also = [
        Reason(f"{status.name}, which runs the embedded model, too, is not installed either.", status.install)
        for status in map(where.status, where.names())
        if status.name not in (DEFAULT_BACKEND, ACCELERATED_BACKEND)
        if status.missing and status.backend and status.backend.model_format in forms
    ]
    return Decision(DEFAULT_BACKEND, (*missing, *also))


def _by_installation(where: Installation, model: str, settings: Settings, reasons: list[Reason]) -> Decision:
    why_not = _why_not_accelerated(where, model, settings)
    if why_not is None:
        has_default = DEFAULT_BACKEND in where.names() and where.status(DEFAULT_BACKEND).is_ready
        return Decision(
            ACCELERATED_BACKEND,
            (*reasons, _why_accelerated(where)),
            otherwise=DEFAULT_BACKEND if has_default else None,
        )
    missing = _not_ready(where, DEFAULT_BACKEND)
    runs = Reason(f"{DEFAULT_BACKEND} runs any local or Hub checkpoint.")
    return Decision(DEFAULT_BACKEND, (*reasons, why_not, runs, *missing))


def _not_ready(where: Installation, name: str) -> tuple[Reason, ...]:
    """Why a backend that was chosen cannot run yet."""
    if name not in where.names():
        known = ", ".join(where.names()) or "none"
        return (Reason(f"There is no backend {name!r} here (registered: {known})."),)
    status = where.status(name)
    if status.error:
        return (Reason(f"{name} is broken: {status.error}", "dcmodel doctor"),)
    if status.missing:
        return (Reason(f"{name} is not installed ({', '.join(status.missing)}).", status.install),)
    return ()


def _why_accelerated(where: Installation) -> Reason:
    backend = where.status(ACCELERATED_BACKEND).backend
    kinds, build = _build(where, backend) if backend is not None else ((), ACCELERATED_BACKEND)
    device = where.devices().of_kind(kinds)
    detail = f"{device.kind}: {device.detail}" if device else "the CPU"
    return Reason(f"{build} is installed, and a device that it serves is there ({detail}).")


def _why_not_accelerated(where: Installation, model: str, settings: Settings) -> Reason | None:
    """Why vLLM does not run `model` here; None if it does."""
    name = ACCELERATED_BACKEND
    if name not in where.names():
        return Reason(f"{name} is not registered.")
    status = where.status(name)
    if status.backend is None:
        return Reason(f"{name} is broken: {status.error}", "dcmodel doctor")
    if status.missing:
        return _worth_installing(where, status)
    kinds, build = _build(where, status.backend)
    unfit = _unfit_device(where.devices(), kinds, build, settings.device)
    if unfit is not None:
        return unfit
    declined = status.backend.declines(model)
    return Reason(f"{name} does not run {model!r}: {declined}") if declined else None


def _worth_installing(where: Installation, status: BackendStatus) -> Reason:
    """Not installed; the command stands there only where a device waits for it."""
    device = where.devices().of_kind(("cuda", "rocm"))
    if device is None:
        return Reason(f"{status.name} is not installed, and there is no device for it.")
    text = f"{status.name} is not installed, and there is a device for it ({device.kind}: {device.detail})."
    return Reason(text, status.install)


def _build(where: Installation, backend: Backend) -> tuple[tuple[str, ...], str]:
    """The kinds of devices that the installed vLLM serves, and its name and version."""
    for distribution, version in where.installed(backend).items():
        if distribution.startswith(ACCELERATED_BACKEND):
            local = f"{distribution.removeprefix(ACCELERATED_BACKEND)}{version.partition('+')[2]}"
            kinds = next((kinds for mark, kinds in BUILDS.items() if mark in local), ("cuda",))
            return kinds, f"{distribution} {version}"
    return ("cuda",), backend.name


def _unfit_device(devices: Devices, kinds: tuple[str, ...], build: str, asked: str | None) -> Reason | None:
    serves = "the CPU" if kinds == ("cpu",) else " and ".join(kinds)
    if asked is not None:
        # torch calls the cards of both makers cuda.
        wanted = ("cuda", "rocm") if asked.startswith("cuda") else (asked.partition(":")[0],)
        if not set(wanted) & set(kinds):
            return Reason(f"{build} serves {serves}, and the device that was asked for is {asked}.")
    if "cpu" in kinds or devices.of_kind(kinds):
        return None
    text = f"{build} serves {serves}, and there is no such device"
    obstacle = devices.obstacle(kinds)
    if obstacle is None:
        return Reason(f"{text}.")
    return Reason(f"{text}: {obstacle.detail}.", obstacle.next_command)


def pip_line(backend: Backend) -> str:
    """The command that installs what `backend` needs."""
    if backend.extra:
        return f'pip install "dcmodel[{backend.extra}]"'
    return " ".join(("pip install", *backend.distributions))
