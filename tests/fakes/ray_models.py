"""What replicas of the tests load: the fake model, at a pace that leaves time to disturb it."""

from __future__ import annotations

import time

from dcmodel.local import LocalDcModel
from dcmodel.model import DcModel
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer
from lmql_backends.lmtp.clients.child_spec import ChildSpec


def paced_model(spec: ChildSpec) -> DcModel:
    """``options``: ``seconds`` of a step; everything else is the engine's."""
    options = dict(spec.options.extra)
    seconds = float(options.pop("seconds", 0.0))
    loaded = loaded_fake(small_tokenizer(), **options)
    forward = loaded.engine.forward

    def paced_forward(batch):
        time.sleep(seconds)
        return forward(batch)

    loaded.engine.forward = paced_forward
    return LocalDcModel(loaded)
