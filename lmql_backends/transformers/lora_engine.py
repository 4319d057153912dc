"""What both engines do with adapters."""

from __future__ import annotations

from abc import abstractmethod

import torch
from transformers import PreTrainedModel

from dcmodel.adapters import LoadedAdapter
from dcmodel.engine import Engine
from dcmodel.errors import CapabilityError
from lmql_backends.transformers.lora_bank import LoraBank
from lmql_backends.transformers.lora_weights import read_lora


class LoraEngine(Engine):
    """An engine whose linear layers take adapters (LoRA), without a copy of the model and without peft."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._bank = LoraBank(model)

    def read_adapter(self, source: str) -> LoadedAdapter:
        return read_lora(source, self._bank.shapes, self._bank.dtype)

    def mount_adapter(self, adapter: int, loaded: LoadedAdapter) -> None:
        with torch.inference_mode():
            self._bank.mount(adapter, loaded.weights)
            try:
                self._check_reach(adapter, loaded)
            except BaseException:
                self._bank.unmount(adapter)
                raise

    def unmount_adapter(self, adapter: int) -> None:
        with torch.inference_mode():
            self._bank.unmount(adapter)

    def close(self) -> None:
        self._bank.clear()
        del self._model

    @abstractmethod
    def _compute_one_token(self) -> None:
        """A forward that leaves nothing behind."""

    def _check_reach(self, adapter: int, loaded: LoadedAdapter) -> None:
        """Some models read a layer's weights instead of calling it, where no hook can add anything."""
        self._bank.listen()
        with self._bank.computing(adapter):
            self._compute_one_token()
        unheard = self._bank.unheard(loaded.weights)
        if unheard:
            raise CapabilityError(
                f"adapters cannot reach {unheard[0]}: the model computes it in a way of its own.",
                remedy="Merge the adapter into the model with peft's merge_and_unload, and load that.",
            )
