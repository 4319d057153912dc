"""The folder that `cog push` takes: predict.py, cog.yaml, requirements.txt, and the model's own files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template

from dcmodel import __version__
from dcmodel.adapters import check_adapter_name
from dcmodel.checks import check_integer
from dcmodel.errors import InvalidRequestError, ModelNotFoundError, SetupError

WEIGHTS = "weights"
"""Where the model's files lie, beside predict.py."""
DOWNLOADED = "/weights"
"""Where the build puts a model of the Hub."""
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
ADAPTERS = "adapters"
"""Where adapters lie, by name."""
TEMPLATES = ("predict.py", "cog.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the predictor is to be."""

    model: str | None = None
    """A folder, a .gguf file or a Hub id; None: the embedded model."""
    backend: str | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Folders by the names under which they are mounted."""
    has_gpu: bool = False
    max_predictions: int = 32
    requirements: tuple[str, ...] = ()
    """Lines of requirements.txt; none: this version of dcmodel with the extra that runs the model."""

    def __post_init__(self) -> None:
        check_integer("max_predictions", self.max_predictions, low=1, high=1024)
        if any(not line.strip() or "\n" in line for line in self.requirements):
            raise InvalidRequestError("a requirement is no line of text.", remedy="Give one as pip takes it.")
        for name, source in self.adapters.items():
            check_adapter_name(name)
            if not Path(source).exists():
                raise ModelNotFoundError(
                    f"the adapter {name!r} is not at {source!r:.200}.", remedy="Name a path that exists."
                )
        if self.model is not None and not (self.is_local or _HUB_ID.fullmatch(self.model)):
            raise ModelNotFoundError(
                f"the model {self.model!r:.200} is neither a file or folder here nor a Hub id.",
                remedy="Give a path that exists, or org/name.",
            )

    @property
    def is_local(self) -> bool:
        return self.model is not None and Path(self.model).exists()

    @property
    def is_hub(self) -> bool:
        return self.model is not None and not self.is_local

    @property
    def loaded(self) -> str | None:
        """What predict.py loads."""
        if not self.is_local:
            return DOWNLOADED if self.is_hub else None
        assert self.model is not None
        path = Path(self.model)
        return WEIGHTS if path.is_dir() else f"{WEIGHTS}/{path.name}"

    @property
    def lines(self) -> tuple[str, ...]:
        """Of requirements.txt."""
        is_gguf = self.backend == "llama_cpp" or (self.model or "").endswith(".gguf")
        extra = "vllm" if self.backend == "vllm" else "llamacpp" if is_gguf else "transformers"
        return self.requirements or (default_requirement(extra),)


def default_requirement(extra: str = "transformers") -> str:
    """This very version: both sides speak the same."""
    return f"dcmodel[{extra}]=={__version__}"


def write_folder(folder: Path, plan: Plan, *, force: bool = False) -> list[Path]:
    """Write it; the names of what was written, relative to the folder.

    Raises `SetupError` for files that are there already (unless `force`), or that cannot be written.
    """
    texts = {name: _rendered(name, plan) for name in TEMPLATES}
    texts["requirements.txt"] = "".join(f"{line.strip()}\n" for line in plan.lines)
    copies = _copies(plan)
    present = [name for name in (*texts, *copies) if (folder / name).exists()]
    if present and not force:
        raise SetupError(
            f"{folder} holds {present[0]} already.", remedy="Name another folder, or replace it by --force."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        for name, source in copies.items():
            _copy(source, folder / name)
    except OSError as error:
        raise SetupError(f"{folder} cannot be written: {error}.", remedy="Name another folder.") from error
    return [Path(name) for name in (*texts, *copies)]


def _copies(plan: Plan) -> dict[str, Path]:
    """What of this machine goes into the folder, by its place there."""
    model = {WEIGHTS: Path(str(plan.model))} if plan.is_local else {}
    return {**model, **{f"{ADAPTERS}/{name}": Path(source) for name, source in plan.adapters.items()}}


def _rendered(name: str, plan: Plan) -> str:
    text = (resources.files(__package__) / "template" / f"{name}.in").read_text("utf-8")
    values = {
        "model": _python(plan.loaded),
        "backend": _python(plan.backend),
        "adapters": json.dumps({name: _copied(name, source) for name, source in plan.adapters.items()}),
        "gpu": str(plan.has_gpu).lower(),
        "run": _downloading(plan),
        "max_predictions": str(plan.max_predictions),
    }
    return re.sub(r"\n\n+(?=predict:)", "\n", Template(text).substitute(values))


def _copied(name: str, source: str) -> str:
    """What predict.py mounts."""
    path = f"{ADAPTERS}/{name}"
    return path if Path(source).is_dir() else f"{path}/{Path(source).name}"


def _python(value: str | None) -> str:
    return "None" if value is None else json.dumps(value)


def _downloading(plan: Plan) -> str:
    """The build's own command: weights are part of the image, so that a boot downloads nothing."""
    if not plan.is_hub:
        return ""
    call = f"snapshot_download('{plan.model}', local_dir='{DOWNLOADED}')"
    return f'  run:\n    - python -c "from huggingface_hub import snapshot_download; {call}"\n'


def _copy(source: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        target.mkdir(parents=True)
        shutil.copy2(source, target / source.name)
