"""Which backends there are, which of them runs a model, and why.

Backends are entry points of the groups `dcmodel.engines` and `dcmodel.models`; ours are registered the
same way as anybody's. A backend is imported when it is asked for by name or when the form of a model's
name has to be judged; what it needs is looked up in the installed distributions (not with `find_spec`:
the folder ``tokenizers/`` of this repository would answer for Hugging Face's package).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from dcmodel.backend import Backend, LoadOptions
from dcmodel.env import Settings
from dcmodel.errors import (
    BackendNotFoundError,
    MissingDependencyError,
    ModelNotFoundError,
    SetupError,
)
from dcmodel.model import DcModel
from dctokenizers import MissingPackageError

BACKEND_GROUPS = ("dcmodel.engines", "dcmodel.models")
EMBEDDED_GROUP = "dcmodel.embedded"
EMBEDDED = "embedded"
"""The name of the model that comes with the package: `LLM()` is `LLM("embedded")`."""
DEFAULT_BACKEND = "transformers"
DEFAULT_FORMAT = "safetensors"
ACCELERATED_BACKEND = "vllm"
ACCELERATOR_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def installed_version(distribution: str) -> str | None:
    """The installed version of a distribution (as pip names it), or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def installed_entry_points(group: str) -> Iterable[metadata.EntryPoint]:
    """The entry points of all installed distributions."""
    return metadata.entry_points(group=group)


def has_accelerator() -> bool:
    """Whether there is a device that vLLM serves, found without importing a heavy library."""
    return any(Path(file).exists() for file in ACCELERATOR_FILES)


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


@dataclass(frozen=True, slots=True)
class Decision:
    """The chosen backend, and why."""

    backend: str
    reasons: tuple[str, ...]


class Registry:
    """The backends of this installation. What it asks of the system can be replaced in tests."""

    def __init__(
        self,
        *,
        entry_points: Callable[[str], Iterable[metadata.EntryPoint]] = installed_entry_points,
        version_of: Callable[[str], str | None] = installed_version,
        has_accelerator: Callable[[], bool] = has_accelerator,
    ) -> None:
        self._entry_points = entry_points
        self.version_of = version_of
        self._has_accelerator = has_accelerator

    def names(self) -> tuple[str, ...]:
        """Names of all registered backends; imports none."""
        return tuple(sorted(self._entries()))

    def backend(self, name: str) -> Backend:
        """Import one backend. Raises `BackendNotFoundError`, or `SetupError` if the plug-in is broken."""
        entry = self._entries().get(name)
        if entry is None:
            known = ", ".join(self.names()) or "none"
            raise BackendNotFoundError(
                f"there is no backend {name!r} (registered: {known}).", remedy="Run `dcmodel backends`."
            )
        try:
            backend = entry.load()
        except Exception as error:
            raise SetupError(
                f"the backend {name!r} ({entry.value}, from {_source(entry)}) cannot be imported: "
                f"{type(error).__name__}: {error}.",
                remedy="Run `dcmodel doctor`.",
            ) from error
        if not isinstance(backend, Backend):
            raise SetupError(
                f"the entry point {entry.value!r} of the backend {name!r} is a {type(backend).__name__}, "
                "not a dcmodel.backend.Backend.",
                remedy="See docs/backends.md.",
            )
        return backend

    def status(self, name: str) -> BackendStatus:
        """What is known of one backend; a broken plug-in is described, not raised."""
        source = _source(self._entries()[name])
        try:
            backend = self.backend(name)
        except SetupError as error:
            return BackendStatus(name=name, source=source, backend=None, error=error.message)
        return BackendStatus(name=name, source=source, backend=backend, missing=self.missing(backend))

    def missing(self, backend: Backend) -> tuple[str, ...]:
        """The distributions that `backend` needs and that are not installed."""
        return tuple(name for name in backend.distributions if self.version_of(name) is None)

    def choose(
        self, model: str, *, explicit: str | None = None, settings: Settings | None = None
    ) -> Decision:
        """The backend for `model`: explicit > DCMODEL_BACKEND > the name's form > what is installed."""
        settings = settings or Settings()
        if explicit is not None:
            return Decision(explicit, (f"{explicit} was asked for.",))
        if settings.backend is not None:
            return Decision(settings.backend, (f"DCMODEL_BACKEND is {settings.backend}.",))
        if model == EMBEDDED:
            return self._for_embedded()
        claiming, broken = self._claims(model)
        if claiming:
            return Decision(claiming[0], (*broken, f"{claiming[0]} runs names like {model!r}."))
        return self._by_installation(settings.device, broken)

    def load(
        self,
        model: str,
        options: LoadOptions,
        *,
        explicit: str | None = None,
        settings: Settings | None = None,
    ) -> DcModel:
        """Choose a backend and load `model` with it; blocks."""
        decision = self.choose(model, explicit=explicit, settings=settings)
        backend = self.backend(decision.backend)
        self._check_installed(backend)
        try:
            has_file = model == EMBEDDED and bool(backend.model_format)
            path = str(self.embedded_path(backend.model_format)) if has_file else model
            loaded = backend.load(path, options)
        except MissingPackageError as error:  # a tokenizer's own package; its message has the pip line
            raise MissingDependencyError(str(error)) from error
        except ImportError as error:
            raise SetupError(
                f"the {backend.name} backend is installed and cannot be imported: {error}.",
                remedy="Run `dcmodel doctor`.",
            ) from error
        if isinstance(loaded, DcModel):
            return loaded
        from dcmodel.local import LocalDcModel

        return LocalDcModel(loaded)

    def embedded_path(self, model_format: str = DEFAULT_FORMAT) -> Path:
        """The embedded model in one of its forms. Raises `ModelNotFoundError` where there is none."""
        entries = {entry.name: entry for entry in self._entry_points(EMBEDDED_GROUP)}
        if model_format not in entries:
            raise ModelNotFoundError(
                f"no embedded model in the form {model_format!r} is registered in this installation.",
                remedy="Install dcmodel again, or name a model: LLM('path-or-hub-id').",
            )
        found = entries[model_format].load()
        return Path(found() if callable(found) else found)

    def _entries(self) -> dict[str, metadata.EntryPoint]:
        return {entry.name: entry for group in BACKEND_GROUPS for entry in self._entry_points(group)}

    def _for_embedded(self) -> Decision:
        """The default backend, unless only another one is installed that takes the embedded model."""
        forms = {entry.name for entry in self._entry_points(EMBEDDED_GROUP)}
        if DEFAULT_BACKEND in self.names() and not self.status(DEFAULT_BACKEND).is_ready:
            for name in self.names():
                status = self.status(name)
                if status.is_ready and status.backend and status.backend.model_format in forms:
                    missing = f"{DEFAULT_BACKEND} is not installed."
                    return Decision(name, (missing, f"{name} runs the embedded model, too."))
        return Decision(DEFAULT_BACKEND, (f"The embedded model is a {DEFAULT_BACKEND} checkpoint.",))

    def _claims(self, model: str) -> tuple[list[str], list[str]]:
        """Backends that claim the name by its form, and a line for each that could not be asked."""
        statuses = [self.status(name) for name in self.names()]
        claiming = [item.name for item in statuses if item.backend and item.backend.claims(model)]
        return claiming, [f"{item.name} was left out: {item.error}" for item in statuses if item.error]

    def _by_installation(self, device: str | None, reasons: list[str]) -> Decision:
        reason = self._why_not_accelerated(device)
        if reason is None:
            why = f"{ACCELERATED_BACKEND} is installed and there is a device for it."
            return Decision(ACCELERATED_BACKEND, (*reasons, why))
        return Decision(
            DEFAULT_BACKEND,
            (*reasons, reason, f"{DEFAULT_BACKEND} runs any local or Hub checkpoint."),
        )

    def _why_not_accelerated(self, device: str | None) -> str | None:
        if ACCELERATED_BACKEND not in self.names():
            return f"{ACCELERATED_BACKEND} is not registered."
        status = self.status(ACCELERATED_BACKEND)
        if not status.is_ready:
            return f"{ACCELERATED_BACKEND} is not installed ({status.error or ', '.join(status.missing)})."
        if device == "cpu" or not self._has_accelerator():
            return f"there is no device for {ACCELERATED_BACKEND}."
        return None

    def _check_installed(self, backend: Backend) -> None:
        missing = self.missing(backend)
        if missing:
            raise MissingDependencyError(
                f"the {backend.name} backend needs {' and '.join(missing)}, which "
                f"{'is' if len(missing) == 1 else 'are'} not installed.",
                remedy=f"Run: {pip_line(backend)}",
            )


def pip_line(backend: Backend) -> str:
    """The command that installs what `backend` needs."""
    if backend.extra:
        return f'pip install "dcmodel[{backend.extra}]"'
    return " ".join(("pip install", *backend.distributions))


def _source(entry: metadata.EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "unknown"
