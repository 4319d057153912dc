"""A worker process that loads nothing: ``python fake_worker.py [SECONDS_PER_STEP]``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from dcmodel.local import LocalDcModel
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer
from lmql_backends.lmtp.server.models import StaticModels
from lmql_backends.lmtp.server.run import run_server
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.lmtp.server.settings import ServerSettings


async def serve(seconds: float) -> None:
    loaded = loaded_fake(small_tokenizer())
    forward = loaded.engine.forward

    def slow_forward(batch):
        time.sleep(seconds)
        return forward(batch)

    loaded.engine.forward = slow_forward
    settings = ServerSettings(token=os.environ.get("DCMODEL_TOKEN"))
    async with LocalDcModel(loaded) as model:
        server = LMTPServer(StaticModels({"fake": model}), settings=settings)

        async def nothing() -> None:
            return

        def announce() -> None:
            sys.stdout.write(json.dumps({"url": server.url}) + "\n")
            sys.stdout.flush()

        await run_server(
            server, load=nothing, announce=announce, drain_seconds=20.0, parent_pipe=sys.stdin.fileno()
        )


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]) if len(sys.argv) > 1 else 0.0))
