"""`VLLMDcModel`: a model on vLLM's engine in this process, as a `DcModel`."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from dcmodel.adapters import AdapterInfo
from dcmodel.constraints import ConstraintCache
from dcmodel.constraints.mask_answers import Answer
from dcmodel.local.adapters import AdapterTable
from dcmodel.local.base import SequenceModel
from dcmodel.local.scores import ScoreJob
from dcmodel.local.session import checked_look
from dcmodel.scheduling.mounted import MountedAdapter
from dcmodel.scheduling.session_sequence import SessionSequence
from dcmodel.types import ModelInfo, NextTokens, ScoreRequest, ScoreResult
from dctokenizers import Tokenizer
from lmql_backends.vllm.runner import VLLMRunner


class VLLMDcModel(SequenceModel):
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
        self._limits = capabilities = runner.engine.capabilities
        self._adapters = AdapterTable(runner.engine, runner)
        super().__init__(
            info,
            tokenizer,
            runner,
            vocab_size=capabilities.vocab_size,
            max_positions=capabilities.max_positions,
            constraints=constraints,
        )

    async def score(self, request: ScoreRequest) -> ScoreResult:
        self._check_score(request)
        job = ScoreJob(request, self._limits, self._mounted(request.adapter))
        await self._turns.run(job.sequences)
        return job.result()

    async def next_tokens(
        self,
        prefixes: Seq[Seq[int]],
        masks: Seq[Answer] | None = None,
        k: int | None = None,
        *,
        adapter: str | None = None,
    ) -> list[NextTokens]:
        mounted = self._mounted(adapter)
        looks = [checked_look(k, self._vocab_size) for _ in prefixes]
        sequences: list[SessionSequence] = []
        for (request, mask), look in zip(
            self._checked_prefixes(prefixes, masks, adapter), looks, strict=True
        ):
            sequence = self._session_sequence(request, None, mounted)
            sequence.resume(mask=mask, look=look)
            sequences.append(sequence)
        if sequences:
            await self._turns.run(sequences)
        for sequence in sequences:
            if sequence.error is not None:
                raise sequence.error
        return [look.found for look in looks if look.found is not None]

    @property
    def adapters(self) -> tuple[AdapterInfo, ...]:
        return self._adapters.infos

    async def mount_adapter(self, name: str, source: str) -> AdapterInfo:
        return await self._adapters.mount(name, source)

    async def unmount_adapter(self, name: str) -> None:
        await self._adapters.unmount(name)

    def _mounted(self, name: str | None) -> MountedAdapter | None:
        return None if name is None else self._adapters.use(name)
