"""Routes that speak as OpenAI's API does, for any `DcModel` (docs/openai-server.md).

fields          what clients may send      reading       bodies to fields, or an error that names one
errors          errors as answers          service       what all routes share
completions     /v1/completions            completion_job, jobs, constraints     fields to requests
chat            /v1/chat/completions       chat_job
listing         /v1/models, /tokenize, /detokenize              tokenizers      /v1/tokenizers
adapters        /v1/load_lora_adapter, /v1/unload_lora_adapter
running         requests to their ends     answers, logprobs                     results to JSON
events          server-sent events         chunks                                tokens to events
"""

from __future__ import annotations

import time
from collections.abc import Callable

from lmql_backends.lmtp.server.contracts import Models, Routes
from lmql_backends.lmtp.server.limits import ConnectionLimits
from lmql_backends.lmtp.server.openai.adapters import Adapters
from lmql_backends.lmtp.server.openai.chat import ChatRoute
from lmql_backends.lmtp.server.openai.completions import CompletionRoute
from lmql_backends.lmtp.server.openai.listing import MODELS, Listing
from lmql_backends.lmtp.server.openai.service import Service, guarded
from lmql_backends.lmtp.server.openai.tokenizers import TOKENIZERS, Tokenizers
from lmql_backends.lmtp.server.routed import routed

__all__ = ["openai_routes"]


def openai_routes(
    models: Models, *, clock: Callable[[], float] = time.time, limits: ConnectionLimits | None = None
) -> Routes:
    """The routes over these models. `clock`: seconds since 1970, for the answers' `created`.

    `limits`: whether clients may mount adapters."""
    models = routed(models)
    service = Service(models, clock)
    adapters = Adapters(models, limits or ConnectionLimits())
    listing = Listing(service, models)
    return {
        ("POST", "/v1/completions"): guarded(CompletionRoute(service)),
        ("POST", "/v1/chat/completions"): guarded(ChatRoute(service)),
        ("GET", MODELS): guarded(listing.models),
        ("GET", f"{MODELS}/*"): guarded(listing.model),
        ("GET", f"{TOKENIZERS}/*"): guarded(Tokenizers(models)),
        ("POST", "/v1/load_lora_adapter"): guarded(adapters.load),
        ("POST", "/v1/unload_lora_adapter"): guarded(adapters.unload),
        ("POST", "/tokenize"): guarded(listing.tokenize),
        ("POST", "/detokenize"): guarded(listing.detokenize),
    }
