"""`LocalDcModel`: an engine under a scheduler, as a `DcModel`."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from dcmodel.backend import LoadedEngine
from dcmodel.constraints import ConstraintCache
from dcmodel.constraints.mask_answers import Answer
from dcmodel.local.base import SequenceModel
from dcmodel.local.scores import ScoreJob
from dcmodel.local.session import checked_look
from dcmodel.scheduling.scheduler import Scheduler
from dcmodel.scheduling.session_sequence import SessionSequence
from dcmodel.types import NextTokens, ScoreRequest, ScoreResult


class LocalDcModel(SequenceModel):
    """Generates and scores on one engine."""

    def __init__(self, loaded: LoadedEngine, *, constraints: ConstraintCache | None = None) -> None:
        self._limits = limits = loaded.engine.capabilities
        super().__init__(
            loaded.info,
            loaded.tokenizer,
            Scheduler(loaded.engine, loaded.tokenizer.vocab_size),
            vocab_size=limits.vocab_size,
            max_positions=limits.max_positions,
            constraints=constraints,
        )

    async def score(self, request: ScoreRequest) -> ScoreResult:
        self._check_score(request)
        job = ScoreJob(request, self._limits)
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
        sequences: list[SessionSequence] = []
        for (request, mask), look in zip(
            self._checked_prefixes(prefixes, masks, adapter), looks, strict=True
        ):
            sequence = self._session_sequence(request, None)
            sequence.resume(mask=mask, look=look)
            sequences.append(sequence)
        if sequences:
            await self._turns.run(sequences)
        for sequence in sequences:
            if sequence.error is not None:
                raise sequence.error
        return [look.found for look in looks if look.found is not None]
