"""Loading tokenizers of Hugging Face's library, with what their config files say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dctokenizers.errors import TokenizerError
from dctokenizers.families.files import read_json
from dctokenizers.probe import check
from dctokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers

_USUAL_EOS = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "<|eos|>", "<|im_end|>")


def from_huggingface(
    source: Any,
    *,
    config: Mapping[str, Any] | str | Path | None = None,
    generation_config: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Tokenizer:
    """A tokenizer of Hugging Face's library.

    `source` is a `tokenizers.Tokenizer`, a fast tokenizer of transformers, or a tokenizer.json: its path
    or its text. It is copied, never changed. `config` is what a tokenizer_config.json says (or its path):
    eos_token, bos_token, add_bos_token, added_tokens_decoder; `generation_config` may name more ids that
    end a text. Where nothing names an end, the first special token with a usual name is taken.
    """
    from tokenizers import Tokenizer as Backend

    from dctokenizers.families.hf_codec import HuggingFaceCodec, add_missing, private_copy

    settings = _read_config(config)
    if isinstance(source, Backend):
        own, label = private_copy(source), "tokenizers.Tokenizer"
    elif hasattr(source, "backend_tokenizer"):
        own, label = (
            private_copy(source.backend_tokenizer),
            getattr(source, "name_or_path", "") or "transformers",
        )
        settings = {**_settings_of(source), **settings}
    elif isinstance(source, str | Path):
        own, label = _read_backend(source)
    else:
        raise TokenizerError(
            f"A {type(source).__name__} is no fast tokenizer. Pass a tokenizers.Tokenizer, a transformers "
            "tokenizer that has backend_tokenizer, or a tokenizer.json."
        )
    entries = settings.get("added_tokens_decoder") or {}
    add_missing(own, {int(token_id): entry for token_id, entry in entries.items()})
    codec = HuggingFaceCodec(own)
    vocabulary = codec.vocabulary()
    prompt = codec.prompt_token_ids()
    bos = _token_id(codec, settings.get("bos_token"))
    if settings.get("add_bos_token") is False:
        prompt = ()
    elif settings.get("add_bos_token") is True and bos is not None and not prompt:
        prompt = (bos,)
    eos = [
        _token_id(codec, settings.get("eos_token")),
        *_listed((generation_config or {}).get("eos_token_id")),
    ]
    if not any(token_id is not None for token_id in eos):
        usual = (codec.token_id(text) for text in _USUAL_EOS)
        eos = [next((i for i in usual if i is not None and i in vocabulary.special_token_ids), None)]
    return check(
        Tokenizer(
            name=name or label,
            vocabulary=vocabulary,
            codec=codec,
            bos_token_id=bos if bos is not None else next(iter(prompt), None),
            eos_token_ids=[i for i in eos if i is not None and 0 <= i < len(vocabulary)],
            prompt_token_ids=prompt,
        )
    )


def _read_config(config: Mapping[str, Any] | str | Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    if isinstance(config, str | Path):
        return read_json(Path(config))
    return dict(config)


def _read_backend(source: str | Path) -> tuple[tokenizers.Tokenizer, str]:
    from tokenizers import Tokenizer as Backend

    is_text = isinstance(source, str) and source.lstrip().startswith("{")
    path = None if is_text else Path(source)
    try:
        text = str(source) if path is None else path.read_text(encoding="utf-8")
    except OSError as error:
        raise TokenizerError(f"No tokenizer.json can be read at {path}: {error.strerror}.") from error
    label = str(path) if path is not None else "tokenizer.json"
    try:
        return Backend.from_str(text), label
    except Exception as error:  # the library raises bare Exceptions
        raise TokenizerError(f"{label} is not a tokenizer.json: {error}.") from error


def _settings_of(source: Any) -> dict[str, Any]:
    """bos_token, eos_token and add_bos_token of a transformers tokenizer."""
    settings = {"bos_token": source.bos_token, "eos_token": source.eos_token}
    return {key: str(value) for key, value in settings.items() if value is not None}


def _token_id(codec: Any, entry: Any) -> int | None:
    """The id of a token that a config names by its text, or by a dict with its content."""
    content = entry.get("content") if isinstance(entry, Mapping) else entry
    return None if content is None else codec.token_id(str(content))


def _listed(ids: Any) -> list[int]:
    if ids is None:
        return []
    return [int(i) for i in ids] if isinstance(ids, list | tuple) else [int(ids)]
