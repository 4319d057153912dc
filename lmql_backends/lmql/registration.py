"""``lmql.model("dcmodel:NAME")``: LMQL has no registry for such prefixes, so its constructor is wrapped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from dcmodel.errors import InvalidRequestError
from dcmodel.llm import LLM
from dcmodel.model import DcModel
from dcmodel.registry import EMBEDDED, Registry
from lmql_backends.lmql.client import DcModelClient

PREFIX = "dcmodel:"
LOADING = (
    *("backend", "device", "dtype", "extra"),
    *("max_context", "max_sequences", "kv_tokens", "max_batch_tokens"),
)
"""Options of `LLM`, which `lmql.model` takes, too; all others are LMQL's."""


def register() -> None:
    """Let `lmql.model`, and everything in LMQL that takes a model's name, know the prefix. Once is enough."""
    llm_class: Any = import_module("lmql.api.llm").LLM
    original: Callable[..., Any] = llm_class.from_descriptor.__func__
    if getattr(original, "knows_dcmodel", False):
        return
    loaded: dict[tuple[str, str], LLM] = {}

    def from_descriptor(cls: Any, /, model_identifier: Any, **options: object) -> Any:
        if not isinstance(model_identifier, str) or not model_identifier.startswith(PREFIX):
            return original(cls, model_identifier, **options)
        loading: dict[str, Any] = {name: options.pop(name) for name in LOADING if name in options}
        name = model_identifier.removeprefix(PREFIX) or EMBEDDED
        # The same name with the same options is the same model, as with LMQL's own.
        key = (name, repr(sorted(loading.items())))
        if key not in loaded:
            loaded[key] = LLM(name, **loading)
        return _described(model_identifier, name, lambda: loaded[key].model, options)

    from_descriptor.knows_dcmodel = True  # type: ignore[attr-defined]
    llm_class.from_descriptor = classmethod(from_descriptor)


def as_lmql(model: LLM | DcModel, **options: object) -> Any:
    """A model that is there already, as an `lmql.LLM`. `options` are LMQL's (``tokenizer``, ``chunksize``).

    Raises `InvalidRequestError` where no tokenizer is given and none can be found under the model's name.
    """
    name = model.name if isinstance(model, LLM) else model.info.name
    return _described(PREFIX + name, name, lambda: model.model if isinstance(model, LLM) else model, options)


def _described(identifier: str, name: str, model: Callable[[], DcModel], options: Mapping[str, Any]) -> Any:
    """LMQL's own classes around our client. Nothing is loaded before the first request."""
    llm_class: Any = import_module("lmql.api.llm").LLM
    factory: Any = import_module("lmql.models.lmtp.lmtp_dcmodel").lmtp_model
    own = {key: value for key, value in options.items() if key not in ("tokenizer", "endpoint")}
    tokenizer = options.get("tokenizer") or tokenizer_of(name)
    made = factory(identifier, inprocess=True, tokenizer=tokenizer, **own)
    made.inprocess_client_constructor_factory = lambda identifier, **_: DcModelClient(model)
    return llm_class(identifier, adapter=made(), configuration=dict(options))


def tokenizer_of(name: str) -> str:
    """What LMQL loads the model's tokenizer from: its folder, or its name on the Hub.

    Raises `InvalidRequestError` for a file: LMQL's tokenizers are those of transformers, tiktoken and
    sentencepiece.
    """
    if name == EMBEDDED:
        return str(Registry().embedded_path())
    if Path(name).is_file():
        raise InvalidRequestError(
            f"LMQL cannot read the tokenizer of {name!r}.",
            remedy="Give tokenizer=: a folder or Hub name of transformers, or a tokenizer.model file.",
        )
    return name
