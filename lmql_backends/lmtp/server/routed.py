"""Adapters by name in the route: ``MODEL:ADAPTER``, or the adapter's own name where only one model has it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from dcmodel.adapted import AdaptedModel
from dcmodel.adapters import check_adapter
from dcmodel.errors import InvalidRequestError
from dcmodel.llm import LLM
from dcmodel.model import DcModel
from lmql_backends.lmtp.server.contracts import Models, ModelState, ServedModel

SEPARATOR = ":"


class RoutedModels(Models):
    """The same models, and each of their adapters as a model of its own."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._adapted: dict[tuple[str, str], tuple[DcModel, ServedModel]] = {}
        """The model without the adapter, and with it."""

    def names(self) -> Sequence[str]:
        return self._models.names()

    def adapters(self, name: str) -> Sequence[str]:
        return self._models.adapters(name)

    def state(self, name: str) -> ModelState:
        return self._models.state(name)

    def context(self, name: str) -> int | None:
        return self._models.context(name)

    def split(self, name: str) -> tuple[str, str]:
        """The model and the adapter that a name means; what means nothing is a model that is not there.

        Raises `InvalidRequestError` where several models have an adapter of that name.
        """
        names = self._models.names()
        if not name or name in names:
            return name, ""
        parents = [model for model in names if name.startswith(model + SEPARATOR)]
        if parents:
            parent = max(parents, key=len)
            return parent, name[len(parent) + 1 :]
        owners = [model for model in names if name in self._models.adapters(model)]
        if len(owners) > 1:
            routes = ", ".join(f"{model}{SEPARATOR}{name}" for model in owners)
            raise InvalidRequestError(
                f"{len(owners)} models have an adapter {name!r}.", remedy=f"Name one of them: {routes}."
            )
        return (owners[0], name) if owners else (name, "")

    def use(self, name: str) -> AbstractAsyncContextManager[ServedModel]:
        model, adapter = self.split(name)
        return self._use(model, adapter) if adapter else self._models.use(model)

    @asynccontextmanager
    async def _use(self, name: str, adapter: str) -> AsyncIterator[ServedModel]:
        async with self._models.use(name) as served:
            check_adapter(adapter, served.model.adapters)
            base, known = self._adapted.get((name, adapter), (None, None))
            if known is None or base is not served.model:
                model = AdaptedModel(served.model, adapter)
                known = ServedModel(f"{served.name}{SEPARATOR}{adapter}", model, LLM.from_model(model))
                self._adapted[name, adapter] = served.model, known
            yield known


def routed(models: Models) -> RoutedModels:
    """The same where they are routed already."""
    return models if isinstance(models, RoutedModels) else RoutedModels(models)
