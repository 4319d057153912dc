"""From a model's name and options to a connected `LMTPDcModel`; these functions block."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dcmodel.backend import LoadOptions
from dcmodel.checks import check_number
from dcmodel.errors import InvalidRequestError, SetupError
from dcmodel.loop import run
from dcmodel.registry import EMBEDDED
from lmql_backends.lmtp.clients.address import Address
from lmql_backends.lmtp.clients.child_spec import ChildSpec
from lmql_backends.lmtp.clients.process import NO_RETRY, ProcessConnector
from lmql_backends.lmtp.clients.websocket import WebSocketConnector
from lmql_backends.lmtp.model import LMTPDcModel
from lmql_backends.lmtp.protocol.codec import CODECS, SUBPROTOCOL_PREFIX
from lmql_backends.lmtp.retry import RetryPolicy

REMOTE_OPTIONS = ("token", "codec", "ca_file", "reconnect_seconds")


def open_remote(address: str, extra: Mapping[str, Any]) -> LMTPDcModel:
    """The model at an address. Raises what is wrong with it, and what connecting raises."""
    unknown = sorted(set(extra) - set(REMOTE_OPTIONS))
    if unknown:
        raise InvalidRequestError(
            f"the option {unknown[0]!r} is not known for a model of a server.",
            remedy=f"Options: {', '.join(REMOTE_OPTIONS)}.",
        )
    place = Address.parse(address)
    codec = CODECS.get(f"{SUBPROTOCOL_PREFIX}{extra.get('codec', 'msgpack')}")
    if codec is None:
        raise InvalidRequestError(f"the codec is {extra['codec']!r}.", remedy="Use msgpack or json.")
    connector = WebSocketConnector(
        place,
        token=extra.get("token") or os.environ.get("DCMODEL_TOKEN") or None,
        codec=codec,
        tls=_tls(extra.get("ca_file")),
    )
    return run(LMTPDcModel.open(connector, place.model, retry=_retry(extra)))


def open_process(model: str, options: LoadOptions) -> LMTPDcModel:
    """A model in a child process. Raises what loading raises there."""
    extra = dict(options.extra)
    backend = extra.pop("backend", None)
    if backend is not None and not isinstance(backend, str):
        raise InvalidRequestError(f"backend is {backend!r:.60}.", remedy="Name one: see `dcmodel backends`.")
    spec = ChildSpec(model=model or EMBEDDED, backend=backend, options=replace(options, extra=extra))
    return run(LMTPDcModel.open(ProcessConnector(spec), retry=NO_RETRY))


def _retry(extra: Mapping[str, Any]) -> RetryPolicy:
    if "reconnect_seconds" not in extra:
        return RetryPolicy()
    seconds = extra["reconnect_seconds"]
    check_number("reconnect_seconds", seconds, low=0.0, remedy="0: a lost connection is an error at once.")
    return RetryPolicy(seconds=float(seconds))


def _tls(ca_file: str | None) -> ssl.SSLContext | None:
    if ca_file is None:
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SetupError(
            f"the certificates in {ca_file!r} cannot be read: {error}.", remedy="Give a file in PEM form."
        ) from error
