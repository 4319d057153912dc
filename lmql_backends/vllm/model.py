"""`VLLMDcModel`: a model on vLLM's engine in this process, as a `DcModel`."""

from __future__ import annotations

from dcmodel.constraints import ConstraintCache
from dcmodel.local.model import EngineModel
from dcmodel.types import ModelInfo
from dctokenizers import Tokenizer
from lmql_backends.vllm.runner import VLLMRunner


class VLLMDcModel(EngineModel):
    """vLLM schedules and computes; constraints, draws, log-probabilities and scores are those of any other
    local model, to the bit of the random numbers."""

    def __init__(
        self,
        info: ModelInfo,
        tokenizer: Tokenizer,
        runner: VLLMRunner,
        *,
        constraints: ConstraintCache | None = None,
    ) -> None:
        super().__init__(info, tokenizer, runner.engine, runner, constraints=constraints)
