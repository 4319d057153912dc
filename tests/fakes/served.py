"""Models by name, without a server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from dcmodel.errors import ModelNotFoundError
from dcmodel.llm import LLM
from dcmodel.model import DcModel
from lmql_backends.lmtp.server.contracts import Models, ServedModel


class ServedModels(Models):
    """Loaded models under their names; counts who uses them."""

    def __init__(self, models: Mapping[str, DcModel]) -> None:
        self._models = dict(models)
        self.users = 0

    def names(self) -> list[str]:
        return list(self._models)

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[ServedModel]:
        name = name or self.names()[0]
        if name not in self._models:
            raise ModelNotFoundError(f"the model {name!r} is not served.", remedy="Ask for `fake`.")
        model = self._models[name]
        self.users += 1
        try:
            yield ServedModel(name=name, model=model, llm=LLM.from_model(model))
        finally:
            self.users -= 1
