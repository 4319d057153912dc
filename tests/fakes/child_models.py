"""What a child process of the tests serves: fresh fake models under any name, which tells their options."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dcmodel.errors import ModelLoadError
from dcmodel.llm import LLM
from dcmodel.local import LocalDcModel
from dcmodel.model import DcModel
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer
from lmql_backends.lmtp.clients.child_spec import ChildSpec
from lmql_backends.lmtp.server.contracts import Models, ServedModel

KEPT = 12


def fake_models(spec: ChildSpec) -> Models:
    return FakeModels()


def fake_model(spec: ChildSpec) -> DcModel:
    """With faults, where the spec's options ask for them."""
    return LocalDcModel(loaded_fake(small_tokenizer(), **spec.options.extra))


def deadly_model(spec: ChildSpec) -> DcModel:
    """A prompt that begins with token 7 ends the process."""
    model = fake_model(spec)
    generate = model.generate

    def deadly(request):
        if request.prompt_ids[0] == 7:
            os.write(2, b"these are my last words\n")
            os._exit(3)
        return generate(request)

    model.generate = deadly
    return model


def no_model(spec: ChildSpec) -> DcModel:
    raise ModelLoadError("the weights are gone.", remedy="Find them.")


class FakeModels(Models):
    """``7?max_context=32``: a number, and options of the engine. The last few stay."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, DcModel] = OrderedDict()
        self._users: dict[str, int] = {}

    def names(self) -> list[str]:
        return ["0"]

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[ServedModel]:
        model = self._models.get(name)
        if model is None:
            _, _, options = name.partition("?")
            pairs = dict(item.split("=") for item in options.split("&") if item)
            loaded = loaded_fake(small_tokenizer(), **{key: int(value) for key, value in pairs.items()})
            model = self._models[name] = LocalDcModel(loaded)
        self._users[name] = self._users.get(name, 0) + 1
        try:
            yield ServedModel(name=name, model=model, llm=LLM.from_model(model))
        finally:
            self._users[name] -= 1
            idle = [key for key in self._models if not self._users[key]]
            for key in idle[:-KEPT]:
                await asyncio.shield(self._models.pop(key).aclose())
