"""The backend ``replicate``: models that run as predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from dcmodel.backend import Backend, LoadOptions
from dcmodel.errors import InvalidRequestError
from lmql_backends.replicate.names import PREFIX

if TYPE_CHECKING:
    from dcmodel.model import DcModel

FIXED = ("device", "dtype", "max_context", "max_sequences", "kv_tokens", "max_batch_tokens")


class ReplicateBackend(Backend):
    """Predictors of ours do what an engine does; LMQL's do what version 1 of the protocol can say."""

    name: ClassVar[str] = "replicate"
    summary: ClassVar[str] = (
        "a model on Replicate: replicate:owner/name[:version], replicate:deployments/owner/name"
    )
    extra: ClassVar[str] = "replicate"
    distributions: ClassVar[tuple[str, ...]] = ("aiohttp",)
    model_format: ClassVar[str] = ""
    guarantees: ClassVar[Mapping[str, str]] = {
        "masks": "exact",
        "log-probabilities": "the model's own, to the bit",
        "scores": "the model's own",
        "sessions": "the model's own; each step is a prediction of its own",
        "seeds": "the same tokens as in process",
        "lost connections": "streams go on, nothing lost or doubled; retries within a deadline",
    }

    def claims(self, model: str) -> bool:
        return model.startswith(PREFIX)

    def load(self, model: str, options: LoadOptions) -> DcModel:
        """Find the model and ask it what it is; a cold boot may take minutes. `options.extra`:
        docs/replicate.md."""
        from dcmodel.loop import run
        from lmql_backends.replicate.opening import open_model

        for item in FIXED:
            value: Any = getattr(options, item)
            if value is not None:
                raise InvalidRequestError(
                    f"{item}={value!r} cannot be set for a model on Replicate.",
                    remedy=f"Leave it out (also DCMODEL_{item.upper()}), and set it where it is pushed.",
                )
        return run(open_model(model, options.extra))


BACKEND = ReplicateBackend()
