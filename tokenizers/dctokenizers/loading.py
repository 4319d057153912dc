"""Loading a tokenizer by what is found under a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dctokenizers.errors import TokenizerError, require
from dctokenizers.families.files import read_json
from dctokenizers.families.gguf import from_gguf
from dctokenizers.families.huggingface import from_huggingface
from dctokenizers.families.sentencepiece import from_sentencepiece
from dctokenizers.families.tekken import from_tekken
from dctokenizers.families.tiktoken import from_tiktoken
from dctokenizers.tokenizer import Tokenizer

_FILES = ("tokenizer.json", "tekken.json", "tokenizer.model")
_CONFIGS = ("tokenizer_config.json", "generation_config.json")
_OTHER_FORMS = ("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "special_tokens_map.json")


def load(source: str | Path) -> Tokenizer:
    """The tokenizer at a path, or of a model on the Hugging Face hub.

    `source` is a folder with a tokenizer.json (and its config files), a tekken.json or a tokenizer.model;
    one such file; a .gguf or .tiktoken file; else a hub id like "org/model", whose tokenizer files alone
    are downloaded. Raises `TokenizerError` where nothing can be read.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _load_folder(path, name=str(source))
    if path.is_file():
        return _load_file(path)
    if isinstance(source, Path) or _looks_like_path(source):
        raise TokenizerError(f"There is no file or folder {source}.")
    return _load_from_hub(source)


def _load_file(path: Path, *, name: str | None = None) -> Tokenizer:
    if path.name.endswith((".tiktoken", ".tiktoken.gz")):
        return from_tiktoken(path, name=name)
    if path.suffix == ".gguf":
        return from_gguf(path, name=name)
    if path.suffix == ".model":
        return from_sentencepiece(path, name=name)
    if path.suffix == ".json" and path.name.startswith("tekken"):
        return from_tekken(path, name=name)
    if path.suffix == ".json":
        config, generation = (_config(path.with_name(file)) for file in _CONFIGS)
        return from_huggingface(path, config=config, generation_config=generation, name=name)
    raise TokenizerError(
        f"{path} is of no form that can be read: .json, .model, .gguf, .tiktoken or .tiktoken.gz."
    )


def _config(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _load_folder(folder: Path, *, name: str) -> Tokenizer:
    for file in _FILES:
        if (folder / file).is_file():
            return _load_file(folder / file, name=name)
    found = [*folder.glob("*.gguf"), *folder.glob("*.tiktoken"), *folder.glob("*.tiktoken.gz")]
    if len(found) == 1:
        return _load_file(found[0], name=name)
    if any((folder / file).is_file() for file in _OTHER_FORMS):
        return _load_with_transformers(folder, name=name)
    raise TokenizerError(
        f"{folder} has no tokenizer. Wanted: {', '.join(_FILES)}, or one .gguf or .tiktoken file."
    )


def _load_with_transformers(folder: Path, *, name: str) -> Tokenizer:
    library = require("transformers", extra="transformers", purpose=f"Converting the tokenizer in {folder}")
    try:
        return from_huggingface(library.AutoTokenizer.from_pretrained(str(folder)), name=name)
    except (OSError, ValueError, KeyError) as error:
        raise TokenizerError(f"The tokenizer in {folder} cannot be converted: {error}.") from error


def _load_from_hub(repository: str) -> Tokenizer:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(repository, allow_patterns=[*_FILES, *_CONFIGS, *_OTHER_FORMS])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise TokenizerError(
            f"{repository!r} is no file or folder here, and cannot be had from the Hugging Face hub: {error}."
        ) from error
    return _load_folder(Path(folder), name=repository)


def _looks_like_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source
