"""Which backends there are, which of them runs a model, and why.

Backends are entry points of the groups `dcmodel.engines` and `dcmodel.models`; ours are registered the
same way as anybody's. A backend is imported when it is asked for by name or when the form of a model's
name has to be judged; what it needs is looked up in the installed distributions (not with `find_spec`:
the folder ``tokenizers/`` of this repository would answer for Hugging Face's package).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

from dcmodel.backend import Backend, LoadOptions
from dcmodel.choice import EMBEDDED as EMBEDDED
from dcmodel.choice import BackendStatus, Decision, Reason, choose, pip_line
from dcmodel.devices import Devices, find_devices
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
DEFAULT_FORMAT = "safetensors"

logger = logging.getLogger(__name__)


def installed_version(distribution: str) -> str | None:
    """The installed version of a distribution (as pip names it), or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def installed_entry_points(group: str) -> Iterable[metadata.EntryPoint]:
    """The entry points of all installed distributions."""
    return metadata.entry_points(group=group)


class Registry:
    """The backends of this installation. What it asks of the system can be replaced in tests."""

    def __init__(
        self,
        *,
        entry_points: Callable[[str], Iterable[metadata.EntryPoint]] = installed_entry_points,
        version_of: Callable[[str], str | None] = installed_version,
        devices: Callable[[], Devices] = find_devices,
    ) -> None:
        self._entry_points = entry_points
        self.version_of = version_of
        self.devices = devices

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
        """The distributions that `backend` needs and that are not installed, nor one that stands in."""
        return tuple(name for name in backend.distributions if not self._versions(backend, name))

    def installed(self, backend: Backend) -> dict[str, str]:
        """The installed distributions of those that `backend` needs, and their versions."""
        found = (self._versions(backend, name) for name in backend.distributions)
        return {name: version for versions in found for name, version in versions.items()}

    def choose(
        self, model: str, *, explicit: str | None = None, settings: Settings | None = None
    ) -> Decision:
        """The backend for `model`: explicit > DCMODEL_BACKEND > the name's form > what is installed."""
        return choose(self, model, explicit, settings or Settings())

    def load(
        self,
        model: str,
        options: LoadOptions,
        *,
        explicit: str | None = None,
        settings: Settings | None = None,
    ) -> DcModel:
        """Choose a backend and load `model` with it; blocks.

        Where the choice was free and its library turns out to be broken, the next one runs the model, and a
        warning says why.
        """
        decision = self.choose(model, explicit=explicit, settings=settings)
        try:
            return self._load(decision.backend, model, options, decision.reasons)
        except SetupError as error:
            library = type(error) is SetupError or isinstance(error, MissingDependencyError)
            if decision.otherwise is None or not library:
                raise
            logger.warning("%s %s runs %s instead.", error.message, decision.otherwise, model)
            return self._load(decision.otherwise, model, options, ())

    def _load(self, name: str, model: str, options: LoadOptions, reasons: tuple[Reason, ...]) -> DcModel:
        backend = self.backend(name)
        self._check_installed(backend, reasons)
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

    def embedded_forms(self) -> frozenset[str]:
        """The forms in which the embedded model is registered."""
        return frozenset(entry.name for entry in self._entry_points(EMBEDDED_GROUP))

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

    def _versions(self, backend: Backend, distribution: str) -> dict[str, str]:
        """The installed ones of a distribution and of those that stand in for it."""
        names = (distribution, *backend.alternatives.get(distribution, ()))
        return {name: version for name in names if (version := self.version_of(name)) is not None}

    def _check_installed(self, backend: Backend, reasons: tuple[Reason, ...]) -> None:
        missing = self.missing(backend)
        if missing:
            lines = dict.fromkeys((pip_line(backend), *(reason.next_command for reason in reasons)))
            installing = [line for line in lines if line.startswith("pip install")]
            raise MissingDependencyError(
                f"the {backend.name} backend needs {' and '.join(missing)}, which "
                f"{'is' if len(missing) == 1 else 'are'} not installed.",
                remedy=f"Run: {', or: '.join(installing)}",
            )


def _source(entry: metadata.EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "unknown"
