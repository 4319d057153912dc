"""From a name and options to a connected model."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dcmodel.errors import ModelLoadError, SetupError
from dcmodel.model import DcModel
from dctokenizers import Tokenizer, TokenizerError, load
from lmql_backends.lmtp.client import LMTPClient
from lmql_backends.lmtp.model import LMTPDcModel
from lmql_backends.lmtp.retry import RetryPolicy
from lmql_backends.replicate.api import FRAME, OPS, Api, Target
from lmql_backends.replicate.failures import AttemptFailed, to_error
from lmql_backends.replicate.job import Pace
from lmql_backends.replicate.legacy_model import LegacyDcModel
from lmql_backends.replicate.legacy_transport import LegacyConnector
from lmql_backends.replicate.names import ModelName
from lmql_backends.replicate.retries import Retries
from lmql_backends.replicate.settings import Settings, settings_of
from lmql_backends.replicate.transport import ReplicateConnector

RETRY = RetryPolicy(seconds=0.0)
"""Jobs have their own: a connection is nothing that could be lost."""


async def open_model(model: str, extra: Mapping[str, Any]) -> DcModel:
    """Find the version, ask it what it is, and how it tokenizes: the first prediction may wait for a boot.

    Runs in the loop that the model's predictions are to be made in. Raises `InvalidRequestError`,
    `UnauthorizedError`, `ModelNotFoundError`, `ModelLoadError` for a model that is no predictor for LMTP, and
    what the predictions end with.
    """
    name = ModelName.parse(model)
    settings = settings_of(extra)
    api = Api(settings)
    try:
        target = await _resolved(api, name, settings, Pace())
        if target.speaks_frames:
            connector = ReplicateConnector(str(name), api, target, settings)
            return await LMTPDcModel.open(connector, loop=asyncio.get_running_loop(), retry=RETRY)
        if target.speaks_ops:
            return await _open_legacy(name, api, target, settings, extra.get("tokenizer"))
        raise _no_predictor(name, target)
    except BaseException:
        await api.aclose()
        raise


async def _resolved(api: Api, name: ModelName, settings: Settings, pace: Pace) -> Target:
    retries = Retries(settings, pace.clock(), pace.rng)
    while True:
        try:
            return await api.resolve(name)
        except AttemptFailed as failure:
            wait = retries.wait(failure, pace.clock())
            if wait is None:
                raise to_error(failure, str(name)) from failure
            await pace.sleep(wait)


async def _open_legacy(
    name: ModelName, api: Api, target: Target, settings: Settings, given: Any
) -> LegacyDcModel:
    tokenizer = given if isinstance(given, Tokenizer) else await asyncio.to_thread(_named, name, given)
    connector = LegacyConnector(str(name), api, target, settings, tokenizer.vocab_size)
    client = LMTPClient(connector, loop=asyncio.get_running_loop(), retry=RETRY)
    return LegacyDcModel(client, str(name), tokenizer)


def _named(name: ModelName, given: Any) -> Tokenizer:
    remedy = 'Give extra={"tokenizer": ...}: a path, a Hub id, or a Tokenizer.'
    if not isinstance(given, str | Path):
        raise SetupError(f"{name} runs LMQL's predictor, which does not tell its tokenizer.", remedy=remedy)
    try:
        return load(given)
    except TokenizerError as error:
        raise SetupError(
            f"the tokenizer {str(given)!r:.200} cannot be loaded: {error}", remedy=remedy
        ) from error


def _no_predictor(name: ModelName, target: Target) -> ModelLoadError:
    inputs = ", ".join(sorted(target.inputs)[:8]) or "none that it tells of"
    return ModelLoadError(
        f"{name} does not show its tokens: its inputs are {inputs}, and none of them is {FRAME} or {OPS}.",
        remedy="Push a predictor that does: `dcmodel replicate init FOLDER --model NAME`.",
    )
