"""Workers join and leave at run time: HTTP routes for whoever runs the balancer."""

from __future__ import annotations

from urllib.parse import unquote

import msgspec

from dcmodel.errors import InvalidRequestError
from lmql_backends.lmtp.balancer.pool import Pool
from lmql_backends.lmtp.balancer.worker import Worker
from lmql_backends.lmtp.server.answers import json_answer, json_error
from lmql_backends.lmtp.server.contracts import HttpRequest, HttpResponse, Routes

PATH = "/workers"


class _Join(msgspec.Struct):
    address: str


def worker_routes(pool: Pool) -> Routes:
    """``GET /workers``: their states; ``POST /workers`` with ``{"address": "host:port"}``: join;
    ``DELETE /workers/host:port``: drain and leave, answered when it has left."""

    async def show(request: HttpRequest) -> HttpResponse:
        return json_answer({"workers": [describe(worker) for worker in pool.workers]})

    async def join(request: HttpRequest) -> HttpResponse:
        try:
            address = msgspec.json.decode(request.body, type=_Join).address
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidRequestError(
                f"the body says no address: {error}.", remedy='Send {"address": "HOST:PORT"}.'
            ) from error
        return json_answer(describe(pool.add(checked_address(address))), status=202)

    async def leave(request: HttpRequest) -> HttpResponse:
        address = unquote(request.path.removeprefix(f"{PATH}/"))
        if not await pool.remove(address):
            remedy = f"GET {PATH} shows them."
            return json_error(404, f"there is no worker {address!r:.80}.", code="not_found", remedy=remedy)
        return json_answer({"address": address, "state": "gone"})

    return {("GET", PATH): show, ("POST", PATH): join, ("DELETE", f"{PATH}/*"): leave}


def describe(worker: Worker) -> dict[str, object]:
    """A worker's state, for people and scripts."""
    return {
        "address": worker.address,
        "state": str(worker.state),
        "running": len(worker.flights),
        "load_tokens": worker.load,
        "served": worker.served,
        "lost": worker.lost,
        "joined": worker.joined,
        "error": worker.error,
    }


def checked_address(text: str) -> str:
    """``host:port``; an ``lmtp://`` before it is left out. Raises `InvalidRequestError`."""
    address = text.removeprefix("lmtp://").rstrip("/")
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536 or "/" in address:
        raise InvalidRequestError(
            f"{text!r:.100} is no address of a worker.", remedy="Write it as HOST:PORT."
        )
    return address
