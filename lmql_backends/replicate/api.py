"""Replicate's HTTP API, as far as this client needs it: models, deployments, predictions."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import msgspec

from lmql_backends.replicate.failures import AttemptFailed, Kind
from lmql_backends.replicate.http import Http, Pieces
from lmql_backends.replicate.names import ModelName
from lmql_backends.replicate.settings import Settings

FRAME = "lmtp_frame"
"""The input of a predictor of ours: a frame of LMTP version 2 as JSON text."""
OPS = "ops_batch_json"
"""The input of LMQL's predictor: a list of commands of version 1."""
S = TypeVar("S", bound=msgspec.Struct)
OVER = frozenset({"succeeded", "failed", "canceled", "aborted"})
MIN_CANCEL_AFTER = 5


class Urls(msgspec.Struct):
    get: str = ""
    cancel: str = ""
    stream: str = ""


class Prediction(msgspec.Struct):
    """One prediction, as the API shows it."""

    id: str
    status: str
    urls: Urls = msgspec.field(default_factory=Urls)
    output: Any = None
    error: Any = None

    @property
    def is_over(self) -> bool:
        return self.status in OVER

    @property
    def text(self) -> str:
        """Everything that was put out so far."""
        if isinstance(self.output, list):
            return "".join(map(str, self.output))
        return self.output if isinstance(self.output, str) else ""


class Target(msgspec.Struct, frozen=True):
    """What predictions are made of."""

    url: str
    """Where they are created."""
    version: str
    """Sent along; empty for a deployment, which has its own."""
    inputs: frozenset[str]
    """Names of what the predictor takes."""

    @property
    def speaks_frames(self) -> bool:
        return FRAME in self.inputs

    @property
    def speaks_ops(self) -> bool:
        return OPS in self.inputs


class _Version(msgspec.Struct):
    id: str
    openapi_schema: Any = None


class _Model(msgspec.Struct):
    latest_version: _Version | None = None


class _Release(msgspec.Struct):
    model: str
    version: str


class _Deployment(msgspec.Struct):
    current_release: _Release | None = None


class Api:
    """One attempt per call; every failure is an `AttemptFailed`."""

    def __init__(self, settings: Settings) -> None:
        self._http = Http(settings)
        self._root = f"{settings.base_url}/v1"

    async def resolve(self, name: ModelName) -> Target:
        """Which version stands behind a name, and what it takes."""
        if name.is_deployment:
            return await self._deployment(name)
        path = f"{self._root}/models/{name.owner}/{name.name}"
        if name.version:
            version = _read(_Version, await self._http.request("GET", f"{path}/versions/{name.version}"))
        else:
            latest = _read(_Model, await self._http.request("GET", path)).latest_version
            if latest is None:
                raise AttemptFailed(Kind.PERMANENT, "the model has no version yet", 404)
            version = latest
        return Target(f"{self._root}/predictions", version.id, _inputs(version.openapi_schema))

    async def _deployment(self, name: ModelName) -> Target:
        url = f"{self._root}/deployments/{name.owner}/{name.name}"
        release = _read(_Deployment, await self._http.request("GET", url)).current_release
        if release is None:
            raise AttemptFailed(Kind.PERMANENT, "the deployment has no release", 404)
        path = f"{self._root}/models/{release.model}/versions/{release.version}"
        version = _read(_Version, await self._http.request("GET", path))
        return Target(f"{url}/predictions", "", _inputs(version.openapi_schema))

    async def create(self, target: Target, inputs: Mapping[str, str], seconds: float) -> Prediction:
        """Replicate ends it by itself after `seconds`, should nobody be there any more to cancel it."""
        fields: dict[str, object] = {"input": dict(inputs), "stream": True}
        if target.version:
            fields["version"] = target.version
        after = {"Cancel-After": f"{max(int(seconds), MIN_CANCEL_AFTER)}s"}
        body = msgspec.json.encode(fields)
        return _read(Prediction, await self._http.request("POST", target.url, body, headers=after))

    async def get(self, prediction: Prediction) -> Prediction:
        """As it is now."""
        url = prediction.urls.get or f"{self._root}/predictions/{prediction.id}"
        return _read(Prediction, await self._http.request("GET", url))

    async def cancel(self, prediction: Prediction) -> None:
        url = prediction.urls.cancel or f"{self._root}/predictions/{prediction.id}/cancel"
        await self._http.request("POST", url)

    def stream(self, prediction: Prediction, last_event_id: str) -> AbstractAsyncContextManager[Pieces]:
        """What it puts out, as server-sent events."""
        return self._http.stream(prediction.urls.stream, last_event_id=last_event_id)

    async def aclose(self) -> None:
        await self._http.aclose()


def _read(kind: type[S], body: bytes) -> S:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise AttemptFailed(Kind.BAD_RESPONSE, f"an answer that cannot be read: {error}") from error


def _inputs(schema: Any) -> frozenset[str]:
    """Names of the inputs in the OpenAPI description that Cog makes of a predictor."""
    for key in ("components", "schemas", "Input", "properties"):
        schema = schema.get(key) if isinstance(schema, dict) else None
    return frozenset(schema) if isinstance(schema, dict) else frozenset()
