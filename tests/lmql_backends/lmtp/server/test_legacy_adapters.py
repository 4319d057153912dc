"""Adapters for LMQL's client: it knows nothing of them, but the name of a model may say one."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fakes.raw_client import fake_model
from legacy_peer import Peer, tokens

from dcmodel.types import GenerateRequest, ScoreRequest
from lmql_backends.lmtp.server.models import StaticModels
from lmql_backends.lmtp.server.routed import routed

PROMPT = (0, 50, 60, 70)


async def test_a_model_with_its_adapter_is_a_model_like_any_other():
    async with fake_model() as model:
        await model.mount_adapter("law", "seed:7")
        peer = Peer(routed(StaticModels({"fake": model})))
        found = {}
        for name, adapter in (("fake", None), ("fake:law", "law"), ("law", "law")):
            found[name] = tokens(await peer.generate(PROMPT, model=name, max_tokens=6))
            request = GenerateRequest(prompt_ids=PROMPT, max_tokens=6, adapter=adapter)
            assert found[name] == list((await model.generate(request).completion()).token_ids)
            scored = await peer.score(PROMPT, [5, 6], model=name)
            ask = ScoreRequest(prompt_ids=PROMPT, continuations=((5, 6),), adapter=adapter)
            (expected,) = (await model.score(ask)).continuations
            assert [item["logprob"] for item in scored] == list(expected.logprobs)
        assert found["fake"] != found["law"]
        assert "error" in (await peer.generate(PROMPT, model="fake:none"))[-1]
        await peer.connection.aclose()
