"""From a model's name to its GGUF file: a path, a folder that holds one, or a file on the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dcmodel.errors import MissingDependencyError, ModelLoadError, ModelNotFoundError
from lmql_backends.llama_cpp.checks import other_file

SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>[\w./-]+\.gguf)", re.IGNORECASE)


def local_file(name: str, extra: Mapping[str, Any]) -> Path:
    """The file, downloaded where need be; of a model in several files the first, beside which the others lie.

    Raises `ModelNotFoundError`, `MissingDependencyError`, and `ModelLoadError` where it holds no model.
    """
    path = _find(name, extra)
    kind, remedy = _other_file(path)
    if kind:
        raise ModelLoadError(f"{path} is {kind}.", remedy=remedy)
    return path


def adapter_file(name: str) -> Path:
    """A GGUF file (also of the Hub: org/repo/file.gguf) or a folder with an adapter.

    Raises `ModelNotFoundError` and `MissingDependencyError`.
    """
    path = Path(name).expanduser()
    return path if path.is_dir() else _find(name, {})


def all_files(first: Path) -> Iterator[Path]:
    """Of a model in several files: all of them."""
    return (first.parent / name for name in _all_shards(first.name))


def _find(name: str, extra: Mapping[str, Any]) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return _only_model(path)
    if path.exists():
        return path
    found = HUB_NAME.fullmatch(name)
    if found is None or path.parent.is_dir():
        raise _no_file(name)
    first, *others = _all_shards(found["file"])
    for other in others:
        _download(found["repo"], other, extra.get("revision"))
    return _download(found["repo"], first, extra.get("revision"))


def _no_file(name: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"there is no file {name}.", remedy="Check the path; a model on the Hub is named org/repo/file.gguf."
    )


def _only_model(folder: Path) -> Path:
    """The one model in a folder, beside which adapters and projectors may lie."""
    names = sorted(path for path in folder.glob("*.gguf") if not path.name.startswith("mmproj"))
    starts = [path for path in names if not (shard := SHARD.search(path.name)) or int(shard[1]) == 1]
    first = [path for path in starts if not _other_file(path)[0]]
    if len(first) == 1:
        return first[0]
    if not first:
        raise ModelNotFoundError(
            f"there is no GGUF file in {folder}, or none that holds a model.",
            remedy="Other checkpoints run on the transformers backend; llama.cpp's convert_hf_to_gguf.py "
            "makes GGUF files of them.",
        )
    raise ModelNotFoundError(
        f"{folder} holds {len(first)} models: {', '.join(path.name for path in first)}.",
        remedy="Name one of them.",
    )


def _other_file(path: Path) -> tuple[str, str]:
    return other_file(path, has_more_files=SHARD.search(path.name) is not None)


def _all_shards(file: str) -> list[str]:
    """The names of all parts, the first one first."""
    found = SHARD.search(file)
    if found is None:
        return [file]
    count = int(found[2])
    return [f"{file[: found.start()]}-{part:05}-of-{count:05}.gguf" for part in range(1, count + 1)]


def _download(repo: str, file: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )
    except ImportError as error:
        raise MissingDependencyError(
            f"downloading {repo} needs huggingface_hub.", remedy="Run: pip install huggingface_hub"
        ) from error
    try:
        return Path(hf_hub_download(repo, file, revision=revision))
    except LocalEntryNotFoundError as error:
        raise ModelNotFoundError(
            f"{repo}/{file} is not in the cache, and the Hub cannot be reached.",
            remedy="Check the connection (and HF_HUB_OFFLINE), or give a local file.",
        ) from error
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        raise ModelNotFoundError(
            f"the Hub has no {repo}/{file}, or it is private.",
            remedy="Check the name; for private and gated models run: hf auth login",
        ) from error
    except HFValidationError as error:  # the Hub allows no such name, so it was meant as a path
        raise _no_file(f"{repo}/{file}") from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelLoadError(
            f"{repo}/{file} cannot be downloaded: {error}.", remedy="Try again, or give a local file."
        ) from error
