"""The fake engine behind each kind of connection."""

from __future__ import annotations

from dataclasses import replace

from conformance.backends import Case, fake_case
from fakes.served import ServedModels

from dcmodel.loop import run
from dcmodel.model import DcModel
from lmql_backends.lmtp.clients.in_process import InProcessConnector
from lmql_backends.lmtp.model import LMTPDcModel


def in_process_case() -> Case:
    """Over a connection without a wire."""
    fake = fake_case()

    def open_model(**options: int) -> DcModel:
        return run(LMTPDcModel.open(OwningConnector(fake.open(**options))))

    return replace(fake, name="in-process", open=open_model)


class OwningConnector(InProcessConnector):
    """Closes the model, too."""

    def __init__(self, model: DcModel) -> None:
        super().__init__(ServedModels({"fake": model}))
        self._model = model

    async def aclose(self) -> None:
        await self._model.aclose()
