"""The fake engine in predictions: behind the stand-in for Replicate, asked over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from conformance.backends import Case, fake_case
from conformance.remote_backends import OpenedModels
from fakes.replicate_server import NAME, OWNER, TOKEN, ReplicateServer

from dcmodel.loop import run
from dcmodel.model import DcModel
from lmql_backends.lmtp.model import LMTPDcModel
from lmql_backends.lmtp.server.limits import ConnectionLimits
from lmql_backends.replicate.api import Api, Target
from lmql_backends.replicate.cog.predictor import Predictions
from lmql_backends.replicate.names import ModelName
from lmql_backends.replicate.opening import RETRY
from lmql_backends.replicate.settings import Settings
from lmql_backends.replicate.transport import ReplicateConnector


@contextmanager
def replicate_case() -> Iterator[Case]:
    """One predictor, at which each model has a name of its own."""
    fake = fake_case()
    models = OpenedModels()
    predictions = Predictions(models, ConnectionLimits(mount_from=None))
    server = ReplicateServer(lambda fields: predictions.answers(**fields))
    run(server.__aenter__())

    async def opened(name: str) -> LMTPDcModel:
        settings = Settings(token=TOKEN, base_url=server.url, base=0.001, cap=0.01)
        api = Api(settings)
        target = await api.resolve(ModelName(OWNER, NAME))
        return await LMTPDcModel.open(OwnedPredictor(api, target, settings, models, name), name, retry=RETRY)

    def open_model(**options: int) -> DcModel:
        return run(opened(models.add(fake.open(**options))))

    yield replace(fake, name="replicate", open=open_model)
    run(server.__aexit__())


class OwnedPredictor(ReplicateConnector):
    """Closes the model in the predictor, too."""

    def __init__(
        self, api: Api, target: Target, settings: Settings, models: OpenedModels, model: str
    ) -> None:
        super().__init__("replicate:ours/tiny", api, target, settings)
        self._models = models
        self._model = model

    async def aclose(self) -> None:
        await super().aclose()
        await self._models.remove(self._model)
