"""The backend ``openai``: models behind OpenAI's API, and behind servers that speak as it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from dcmodel.backend import Backend, LoadOptions
from dcmodel.errors import InvalidRequestError

if TYPE_CHECKING:
    from dcmodel.model import DcModel

PREFIX = "openai:"


class OpenAIBackend(Backend):
    """Whatever the endpoint can do: each result's certificate says how exact it is."""

    name: ClassVar[str] = "openai"
    summary: ClassVar[str] = "a model of OpenAI, or of a server with its API: openai:NAME"
    extra: ClassVar[str] = "openai"
    distributions: ClassVar[tuple[str, ...]] = ("openai", "aiohttp")
    model_format: ClassVar[str] = ""
    guarantees: ClassVar[Mapping[str, str]] = {
        "masks": "always valid; exact where the certificate says so",
        "log-probabilities": "raw ones, where the endpoint shows them; not those after a mask",
        "scores": "where the endpoint has echo, prompt_logprobs or top log-probabilities",
        "sessions": "where the endpoint takes each step's mask",
        "seeds": "the endpoint's",
        "lost connections": "streams go on where a prompt can be continued; retries within a deadline",
    }

    def claims(self, model: str) -> bool:
        return model.startswith(PREFIX)

    def load(self, model: str, options: LoadOptions) -> DcModel:
        """Find the tokenizer and probe the endpoint, unless that was done today. Options: docs/openai.md."""
        from dcmodel.loop import run
        from lmql_backends.openai.opening import open_model

        for item in ("device", "dtype", "max_sequences", "kv_tokens", "max_batch_tokens"):
            if (value := getattr(options, item)) is not None:
                raise InvalidRequestError(
                    f"{item}={value!r} cannot be set for a model of an endpoint.",
                    remedy=f"Leave it out (also DCMODEL_{item.upper()}).",
                )
        return run(open_model(_name(model), options.extra, max_context=options.max_context))

    def probe(self, model: str, options: LoadOptions) -> Mapping[str, str]:
        """Ask the endpoint, whatever is known from before."""
        from dcmodel.loop import run
        from lmql_backends.openai.opening import probe_model

        return run(probe_model(_name(model), options.extra))


def _name(model: str) -> str:
    name = model.removeprefix(PREFIX)
    if not name:
        raise InvalidRequestError("the model has no name.", remedy="Write it as openai:NAME.")
    return name


BACKEND = OpenAIBackend()
