"""The fake engine behind each kind of connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from itertools import count

from conformance.backends import Case, fake_case
from fakes.openai_models import OURS, PATIENT, transport_to
from fakes.served import ServedModels

from dcmodel.errors import ModelNotFoundError
from dcmodel.llm import LLM
from dcmodel.loop import run
from dcmodel.model import DcModel
from dcmodel.types import ModelInfo
from lmql_backends.lmtp.clients.address import Address
from lmql_backends.lmtp.clients.child_spec import ChildSpec
from lmql_backends.lmtp.clients.in_process import InProcessConnector
from lmql_backends.lmtp.clients.process import NO_RETRY, ProcessConnector
from lmql_backends.lmtp.clients.websocket import WebSocketConnector
from lmql_backends.lmtp.model import LMTPDcModel
from lmql_backends.lmtp.server.contracts import Models, ServedModel
from lmql_backends.lmtp.server.limits import ConnectionLimits
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.lmtp.server.settings import ServerSettings
from lmql_backends.openai.asking import HttpAsker
from lmql_backends.openai.model import OpenAIDcModel

OPENAI_LIMITS = {
    "adapters": "an endpoint serves each adapter as a model of its own: openai:ADAPTER",
    "log_mass": "an API of this kind shows log-probabilities before the mask or after it, not both",
    "forced_logprobs": "the endpoint is not asked about tokens that leave no choice",
    "seeds_of_places": "an endpoint counts its random numbers from the beginning of each request",
    "any_bias": "a logit_bias is at most 100",
    "scores_beyond_the_context": "a text that is scored must fit the context as a whole",
}
# On shared cores, hundreds of requests at once take their time.
UNHURRIED = replace(PATIENT, retry=replace(PATIENT.retry, deadline=120.0, request_seconds=60.0))


@contextmanager
def in_process_case() -> Iterator[Case]:
    """Over a connection without a wire."""
    fake = fake_case()

    def open_model(**options: int) -> DcModel:
        model = fake.open(**options)
        return run(LMTPDcModel.open(OwningConnector(model)))

    yield replace(fake, name="in-process", open=open_model)


@contextmanager
def lmtp_case() -> Iterator[Case]:
    """Over websockets to one server, at which each model has a name of its own."""
    fake = fake_case()
    models = OpenedModels()
    server = run(_started(models))

    def open_model(**options: int) -> DcModel:
        name = models.add(fake.open(**options))
        connector = OwnedServedModel(Address.parse(server.url), models, name)
        return run(LMTPDcModel.open(connector, name))

    yield replace(fake, name="lmtp", open=open_model)
    run(server.aclose())


@contextmanager
def process_case() -> Iterator[Case]:
    """Over a socket to one child process, at which each model has a name of its own."""
    fake = fake_case()
    numbers = count()
    spec = ChildSpec(model="fakes", factory="fakes.child_models:fake_models")
    first = run(LMTPDcModel.open(ProcessConnector(spec), str(next(numbers)), retry=NO_RETRY))

    def open_model(**options: int) -> DcModel:
        if "max_context" in options:
            options["max_positions"] = options.pop("max_context")
        name = f"{next(numbers)}?" + "&".join(f"{key}={value}" for key, value in options.items())
        return run(LMTPDcModel.open(ProcessConnector(spec), name, retry=NO_RETRY))

    yield replace(fake, name="process", open=open_model)
    run(first.aclose())


@contextmanager
def openai_case() -> Iterator[Case]:
    """Over HTTP, as an endpoint that keeps nothing back. What no such API has: `OPENAI_LIMITS`."""
    fake = fake_case()
    models = OpenedModels()
    server = run(_started(models))

    def open_model(**options: int) -> DcModel:
        local = fake.open(**options)
        name = models.add(local)
        asker = HttpAsker(transport_to(f"{server.http_url}/v1", UNHURRIED), name, OURS, local.tokenizer)
        return ServedOpenAIModel(asker, replace(local.info, backend="openai"), models)

    yield replace(
        fake, name="openai", open=open_model, limits=OPENAI_LIMITS, repeats=1, draws=300, candidates=2_000
    )
    run(server.aclose())


async def _started(models: Models) -> LMTPServer:
    server = LMTPServer(models, settings=ServerSettings(limits=ConnectionLimits(mount_from=None)))
    await server.start()
    return server


class OpenedModels(Models):
    """Models that come and go."""

    def __init__(self) -> None:
        self._numbers = count()
        self._models: dict[str, DcModel] = {}

    def add(self, model: DcModel) -> str:
        name = f"model-{next(self._numbers)}"
        self._models[name] = model
        return name

    async def remove(self, name: str) -> None:
        await self._models.pop(name).aclose()

    def names(self) -> list[str]:
        return list(self._models)

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[ServedModel]:
        if name not in self._models:
            raise ModelNotFoundError(f"the model {name!r} is not served.")
        model = self._models[name]
        yield ServedModel(name=name, model=model, llm=LLM.from_model(model))


class OwnedServedModel(WebSocketConnector):
    """Closes the model at the server, too."""

    def __init__(self, address: Address, models: OpenedModels, model: str) -> None:
        super().__init__(address)
        self._models = models
        self._model = model

    async def aclose(self) -> None:
        await self._models.remove(self._model)


class OwningConnector(InProcessConnector):
    """Closes the model, too."""

    def __init__(self, model: DcModel) -> None:
        super().__init__(ServedModels({"fake": model}))
        self._model = model

    async def aclose(self) -> None:
        await self._model.aclose()


class ServedOpenAIModel(OpenAIDcModel):
    """Closes the model at the server, too."""

    def __init__(self, asker: HttpAsker, info: ModelInfo, models: OpenedModels) -> None:
        super().__init__(asker, info)
        self._models = models

    async def aclose(self) -> None:
        await super().aclose()
        if self.asker.model in self._models.names():
            await self._models.remove(self.asker.model)
