"""What an application is told: the ``args`` of a Serve config, or the options of ``dcmodel serve --ray``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from dcmodel.backend import LoadOptions
from dcmodel.checks import check_integer, check_number
from dcmodel.errors import InvalidRequestError
from dcmodel.registry import EMBEDDED
from lmql_backends.lmtp.clients.child_spec import ChildSpec

MAX_REPLICAS = 4096


class AppArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model. Everything that Serve itself has an option for may also stand in the config's
    ``deployments``, under the names ``Engine`` and ``Ingress``."""

    model: str = EMBEDDED
    """Path, Hub id or file, the same on every machine."""
    name: str = ""
    """What clients call it; empty: its own name."""
    backend: str | None = None
    device: str | None = None
    dtype: str | None = None
    max_context: int | None = None
    options: dict[str, Any] = {}
    """Of the backend, as ``--option``."""
    factory: str = ""
    """``module:function``, which makes the model instead (`ChildSpec`)."""
    adapters: dict[str, str] = {}
    """LoRA adapters of every replica, by the names that requests use: paths, the same on every machine."""
    mount_from: list[str] = []
    """Folders from which clients may mount adapters, on all replicas; with one ingress replica."""

    replicas: int = 1
    """Of the model."""
    autoscale: str = ""
    """``MIN:MAX`` replicas instead of a fixed number."""
    streams_per_replica: float = 16.0
    """What autoscaling aims at: requests that run on a replica at a time."""
    upscale_seconds: float = 10.0
    """How long there must be more before a replica is added."""
    downscale_seconds: float = 300.0
    """How long there must be fewer before one goes."""
    window_seconds: float = 30.0
    """Over which the number of requests is averaged."""
    gpus: float = 0.0
    """Of a replica, as Ray counts them."""
    cpus: float = 1.0
    """Of a replica, as Ray counts them."""
    ingress_replicas: int = 1
    """Of the server, which take no accelerator."""
    ingress_cpus: float = 0.1

    host: str = "0.0.0.0"
    """Where Serve's HTTP proxies listen (``http_options``), as far as that is known here."""
    insecure: bool = False
    """Whoever reaches the proxies may come in without a token (``DCMODEL_TOKEN``)."""
    allow_hosts: list[str] = []
    allow_origins: list[str] = []
    max_streams: int = 1024
    """Conversations of one websocket."""
    streams_limit: int = 256
    """Requests that one ingress replica lets run on one replica of the model; the others wait."""
    max_waiting: int = 1024
    """Requests that may wait in an ingress replica."""
    drain_seconds: float = 30.0
    """For what runs on a replica that is to go."""

    def __post_init__(self) -> None:
        check_integer("replicas", self.replicas, low=1, high=MAX_REPLICAS)
        check_integer("ingress_replicas", self.ingress_replicas, low=1, high=MAX_REPLICAS)
        check_integer("max_streams", self.max_streams, low=1)
        check_number("window_seconds", self.window_seconds, low=10.0, open_low=True)  # Serve's own bound
        check_number("streams_per_replica", self.streams_per_replica, low=0.0, open_low=True)
        check_number("drain_seconds", self.drain_seconds, low=0.0, open_low=True)
        for name in ("gpus", "cpus", "ingress_cpus", "upscale_seconds", "downscale_seconds"):
            check_number(name, getattr(self, name), low=0.0)
        if self.mount_from and self.ingress_replicas > 1:
            raise InvalidRequestError(
                "clients cannot mount adapters where there are several ingress replicas: one would not know "
                "what another has mounted.",
                remedy="Give them in `adapters`, or take one ingress replica.",
            )
        self.scale()

    @classmethod
    def of(cls, args: Mapping[str, Any]) -> AppArguments:
        """Raises `InvalidRequestError` that names the field."""
        try:
            return msgspec.convert(dict(args), cls)
        except msgspec.ValidationError as error:
            fields = ", ".join(cls.__struct_fields__)
            raise InvalidRequestError(
                f"the application's args are wrong: {error}.", remedy=f"There are: {fields}."
            ) from error

    def scale(self) -> tuple[int, int] | None:
        """The least and the most replicas; None where their number is fixed."""
        if not self.autoscale:
            return None
        match = re.fullmatch(r"([0-9]{1,4}):([0-9]{1,4})", self.autoscale)
        low, high = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= low <= high <= MAX_REPLICAS:
            raise InvalidRequestError(
                f"autoscale is {self.autoscale!r}.",
                remedy=f"Write it as MIN:MAX, from 1 to {MAX_REPLICAS}: 1:4.",
            )
        return low, high

    def spec(self) -> ChildSpec:
        """What a replica loads."""
        options = LoadOptions(
            device=self.device, dtype=self.dtype, max_context=self.max_context, extra=self.options
        )
        return ChildSpec(model=self.model, backend=self.backend, options=options, factory=self.factory)

    def for_ingress(self) -> AppArguments:
        """Without what concerns the model's replicas alone: a change of that leaves the ingress running."""
        return msgspec.structs.replace(
            self,
            max_context=None,
            options={},
            adapters={},
            device=None,
            replicas=1,
            autoscale="",
            gpus=0.0,
            cpus=0.0,
        )

    def revision(self) -> str:
        """Equal where requests may go on from one replica to another: other options change no tokens."""
        parts = (self.model, self.backend, self.dtype, self.factory)
        return " ".join(part or "-" for part in parts)
