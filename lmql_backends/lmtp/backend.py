"""The backends ``lmtp`` (a server's model) and ``process`` (a model in a child process)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from dcmodel.backend import Backend, LoadOptions
from dcmodel.errors import InvalidRequestError

if TYPE_CHECKING:
    from dcmodel.model import DcModel

GUARANTEES: Mapping[str, str] = {
    "masks": "exact",
    "log-probabilities": "the model's own, to the bit",
    "scores": "the model's own",
    "sessions": "the model's own",
    "seeds": "the same tokens as in process",
}
PROCESS = "process:"


class LMTPBackend(Backend):
    """Models of a server of ours."""

    name: ClassVar[str] = "lmtp"
    summary: ClassVar[str] = (
        "a model of another machine or process: lmtp://host:port, lmtps://host:port/model"
    )
    extra: ClassVar[str] = "lmtp"
    distributions: ClassVar[tuple[str, ...]] = ("websockets",)
    model_format: ClassVar[str] = ""
    guarantees: ClassVar[Mapping[str, str]] = {
        **GUARANTEES,
        "lost connections": "streams and sessions go on, nothing lost or doubled",
    }

    def claims(self, model: str) -> bool:
        return model.startswith(("lmtp://", "lmtps://"))

    def load(self, model: str, options: LoadOptions) -> DcModel:
        """Connect. `options.extra`: ``token`` (default: DCMODEL_TOKEN), ``codec`` (``msgpack`` or ``json``),
        ``ca_file``, ``reconnect_seconds``. How the model is loaded is the server's affair."""
        from lmql_backends.lmtp.connecting import open_remote

        _refuse(options, "max_context", "max_sequences", "kv_tokens", "max_batch_tokens", "dtype")
        return open_remote(model, options.extra)


class ProcessBackend(Backend):
    """Any model, in a child process."""

    name: ClassVar[str] = "process"
    summary: ClassVar[str] = "any model in a child process: process:MODEL; process: is the embedded one"
    extra: ClassVar[str] = ""
    distributions: ClassVar[tuple[str, ...]] = ()
    model_format: ClassVar[str] = ""
    guarantees: ClassVar[Mapping[str, str]] = {
        **GUARANTEES,
        "crashes": "an error within a second; the next request starts a new child",
    }

    def claims(self, model: str) -> bool:
        return model.startswith(PROCESS)

    def load(self, model: str, options: LoadOptions) -> DcModel:
        """Start the child, or share the one that has the same model with the same options.
        `options.extra`: ``backend``, and what that takes."""
        from lmql_backends.lmtp.connecting import open_process

        return open_process(model.removeprefix(PROCESS), options)


def _refuse(options: LoadOptions, *names: str) -> None:
    for name in names:
        value: Any = getattr(options, name)
        if value is not None:
            raise InvalidRequestError(
                f"{name}={value!r} cannot be set for a model of a server.",
                remedy=f"Leave it out (also DCMODEL_{name.upper()}), and set it where the server is started.",
            )


BACKEND = LMTPBackend()
PROCESS_BACKEND = ProcessBackend()
