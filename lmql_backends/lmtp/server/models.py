"""Models by name that are there from the beginning to the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from dcmodel.errors import InvalidRequestError
from dcmodel.llm import LLM
from dcmodel.model import DcModel
from lmql_backends.lmtp.server.contracts import Models, ModelState, ServedModel
from lmql_backends.lmtp.server.loading import checked_name, in_thread


class StaticModels(Models):
    """Models that are there from the beginning to the end. They stay the caller's."""

    def __init__(self, models: DcModel | LLM | Mapping[str, DcModel | LLM]) -> None:
        """By the names that clients use, the default first; a model alone has its own name."""
        if isinstance(models, DcModel):
            models = {models.info.name: models}
        elif isinstance(models, LLM):
            models = {models.name: models}
        if not models:
            raise InvalidRequestError("there is no model to serve.", remedy="Give at least one.")
        self._models = dict(models)
        self._served: dict[str, ServedModel] = {
            name: ServedModel(name, model, LLM.from_model(model))
            for name, model in models.items()
            if isinstance(model, DcModel)
        }

    def names(self) -> Sequence[str]:
        return list(self._models)

    def adapters(self, name: str) -> Sequence[str]:
        served = self._served.get(name)
        return [] if served is None else [info.name for info in served.model.adapters]

    def state(self, name: str) -> ModelState:
        return ModelState.READY if name in self._served else ModelState.UNLOADED

    def context(self, name: str) -> int | None:
        served = self._served.get(name)
        return None if served is None else served.model.info.max_positions

    def use(self, name: str) -> AbstractAsyncContextManager[ServedModel]:
        return self._use(checked_name(name, self.names()))

    @asynccontextmanager
    async def _use(self, name: str) -> AsyncIterator[ServedModel]:
        served = self._served.get(name)
        if served is None:
            llm = self._models[name]
            assert isinstance(llm, LLM)
            # Its own lock lets only one of several first users load it.
            served = ServedModel(name, await in_thread(lambda: llm.model), llm)
            self._served[name] = served
        yield served
