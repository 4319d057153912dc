"""From a name and options to a connected model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dcmodel.errors import ModelLoadError
from dcmodel.model import DcModel
from lmql_backends.lmtp.model import LMTPDcModel
from lmql_backends.lmtp.retry import RetryPolicy
from lmql_backends.replicate.api import FRAME, OPS, Api, Target
from lmql_backends.replicate.failures import AttemptFailed, to_error
from lmql_backends.replicate.job import Pace
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
        if not target.speaks_frames:
            raise _no_predictor(name, target)
        connector = ReplicateConnector(str(name), api, target, settings)
        return await LMTPDcModel.open(connector, retry=RETRY)
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


def _no_predictor(name: ModelName, target: Target) -> ModelLoadError:
    inputs = ", ".join(sorted(target.inputs)[:8]) or "none that it tells of"
    return ModelLoadError(
        f"{name} does not show its tokens: its inputs are {inputs}, and none of them is {FRAME} or {OPS}.",
        remedy="Push a predictor that does: `dcmodel replicate init FOLDER --model NAME`.",
    )
