"""`EngineModel`: an engine and what runs its sequences; `LocalDcModel`: an engine under our scheduler."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from dcmodel.adapters import AdapterInfo
from dcmodel.backend import LoadedEngine
from dcmodel.constraints import ConstraintCache
from dcmodel.constraints.mask_answers import Answer
from dcmodel.engine import Engine
from dcmodel.local.adapters import AdapterTable
from dcmodel.local.base import SequenceModel
from dcmodel.local.scores import ScoreJob
from dcmodel.local.session import checked_look
from dcmodel.scheduling.mounted import MountedAdapter
from dcmodel.scheduling.scheduler import Scheduler
from dcmodel.scheduling.session_sequence import SessionSequence
from dcmodel.scheduling.threaded import ThreadRunner
from dcmodel.types import ModelInfo, NextTokens, ScoreRequest, ScoreResult
from dctokenizers import Tokenizer


class EngineModel(SequenceModel):
    """Generates and scores on one engine, in this process."""

    def __init__(
        self,
        info: ModelInfo,
        tokenizer: Tokenizer,
        engine: Engine,
        runner: ThreadRunner,
        *,
        constraints: ConstraintCache | None = None,
    ) -> None:
        """`runner`: runs sequences on `engine`."""
        self._limits = limits = engine.capabilities
        self._adapters = AdapterTable(engine, runner)
        super().__init__(
            info,
            tokenizer,
            runner,
            vocab_size=limits.vocab_size,
            max_positions=limits.max_positions,
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
        looks = [checked_look(k, self._vocab_size) for _ in prefixes]
        mounted = self._mounted(adapter)
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


class LocalDcModel(EngineModel):
    """An engine under our scheduler."""

    def __init__(self, loaded: LoadedEngine, *, constraints: ConstraintCache | None = None) -> None:
        scheduler = Scheduler(loaded.engine, loaded.tokenizer.vocab_size)
        super().__init__(loaded.info, loaded.tokenizer, loaded.engine, scheduler, constraints=constraints)
