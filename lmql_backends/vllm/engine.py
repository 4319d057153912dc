"""`StepEngine`: vLLM's engine in the shape that our scheduling code knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from dcmodel.adapters import LoadedAdapter
from dcmodel.engine import Capabilities, Engine, GenerateBatch
from dcmodel.errors import AdapterLoadError, CapabilityError
from dcmodel.logits import LogitRows
from dcmodel.scheduling.sequence import Sequence
from lmql_backends.torch_rows.rows import Workspace
from lmql_backends.vllm.adapters import AdapterReader
from lmql_backends.vllm.core import Core
from lmql_backends.vllm.rows import StepRows


@dataclass(slots=True, eq=False)
class Job:
    """A sequence and the request of vLLM's that computes it."""

    sequence: Sequence
    request: Any
    """vLLM's own object, in whose `num_tokens` and `num_computed_tokens` its scheduler counts."""
    is_new: bool = True
    """Nothing of it was computed yet."""


@dataclass(slots=True)
class Part:
    """What one step computes of a job."""

    job: Job
    row: int
    """The row of its logits."""
    start: int
    count: int
    offset: int
    """The row of its first token among the hidden states."""


class StepEngine(Engine):
    """Its forward was done by vLLM, which also keeps the KV; a span's handle is the place of its part."""

    def __init__(self, core: Core, capabilities: Capabilities, reader: AdapterReader | None) -> None:
        """`reader`: None where adapters were not asked for."""
        self.core = core
        self.capabilities = capabilities
        self.parts: list[Part] = []
        self.logits: Tensor | None = None
        self._workspace: Workspace | None = None
        self._reader = reader

    def forward(self, batch: GenerateBatch) -> LogitRows:
        assert self.logits is not None
        if self._workspace is None:
            self._workspace = Workspace(self.logits.device)
        request_rows: list[int] = []
        token_rows: list[int] = []
        for span in batch.spans:
            part = self.parts[span.sequence]
            for offset in span.wanted:
                request_rows.append(part.row if offset == part.count - 1 else -1)
                token_rows.append(part.offset + offset)
        return StepRows(
            self.logits,
            request_rows=np.array(request_rows, dtype=np.int64),
            token_rows=np.array(token_rows, dtype=np.int64),
            hidden=self.core.hidden,
            compute_logits=self.core.compute_logits,
            workspace=self._workspace,
        )

    def allocate(self, length: int) -> int | None:
        return 0

    def reserve(self, sequence: int, length: int) -> bool:
        return True

    def copy(self, source: int, target: int, length: int) -> None:
        """Nothing is kept."""

    def truncate(self, sequence: int, length: int) -> None:
        """Nothing is kept."""

    def free(self, sequence: int) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        self.core.shutdown()

    # -- adapters -------------------------------------------------------------------------------------

    def read_adapter(self, source: str) -> LoadedAdapter:
        if self._reader is None:
            raise CapabilityError(
                "the model was loaded without room for adapters.",
                remedy='Load it with extra={"enable_lora": True}, and max_lora_rank if theirs is above 16.',
            )
        return self._reader.read(source)

    def mount_adapter(self, adapter: int, loaded: LoadedAdapter) -> None:
        try:
            self.core.add_lora(adapter, str(loaded.weights))
        except Exception as error:  # vLLM raises whatever it meets in the files
            raise AdapterLoadError(f"vLLM cannot load the adapter: {error}") from error

    def unmount_adapter(self, adapter: int) -> None:
        self.core.remove_lora(adapter)
