"""Those that score the same continuations: dcmodel, lm-evaluation-harness, a padded batch, a shared KV."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.contenders import load_engine
from benchmarks.score_workloads import Continuation, ScoreTask
from dcmodel.engine import GenerateBatch, Span
from dcmodel.local import LocalDcModel
from dcmodel.types import ScoreRequest
from lmql_backends.transformers.cpu_pack import unpack_linears
from lmql_backends.transformers.engine import TransformersEngine

BATCH = 16
"""Rows of a padded batch, lm-evaluation-harness' included."""
EXPANDED = 50
"""Rows that share an expanded KV: more of them would take gigabytes."""


class Scorer(Protocol):
    """Gives the log-probability of each continuation, in nats."""

    name: str
    share: int | None
    """How many continuations it is given at most; its time is scaled. None: all."""

    def run(self, task: ScoreTask) -> list[float]: ...


class Ours:
    """`LocalDcModel.score`. `packed=False`: with plain linear layers, as the others have them."""

    share = None

    def __init__(self, folder: Path, dtype: str, *, packed: bool = True) -> None:
        self.name = "dcmodel" if packed else "unpacked"
        loaded = load_engine(folder, dtype)
        if not packed:
            if not isinstance(loaded.engine, TransformersEngine):
                raise TypeError(f"a {type(loaded.engine).__name__} has no layers to unpack")
            unpack_linears(loaded.engine._model)
        self._model = LocalDcModel(loaded)
        self._loop = asyncio.new_event_loop()

    def run(self, task: ScoreTask) -> list[float]:
        request = ScoreRequest(prompt_ids=task.prompt, continuations=task.continuations)
        result = self._loop.run_until_complete(self._model.score(request))
        return [item.logprob for item in result.continuations]

    def warm(self, task: ScoreTask) -> None:
        """Have the prompt in the cache, and nothing of the continuations."""
        self.run(ScoreTask(task.prompt, ((1,),)))

    def close(self) -> None:
        self._loop.run_until_complete(self._model.aclose())
        self._loop.close()


class Floor:
    """The same engine: one forward over as many tokens, with as many rows of logits; no scores."""

    name = "one forward"

    def __init__(self, folder: Path, dtype: str) -> None:
        self._engine = load_engine(folder, dtype).engine

    def run(self, task: ScoreTask) -> None:
        token_ids = _line(task)
        rows = len(task.tree) + 1
        sequence = self._engine.allocate(len(token_ids))
        if sequence is None:
            raise RuntimeError("the engine has no room for a single sequence")
        wanted = range(len(token_ids) - rows, len(token_ids))
        self._engine.forward(GenerateBatch([Span(sequence, 0, token_ids, wanted)]))
        self._engine.free(sequence)

    def close(self) -> None:
        self._engine.close()


class PlainForward:
    """The unmodified model: one forward over as many tokens, with as many rows of logits; no scores."""

    name = "plain forward"

    def __init__(self, model: Any) -> None:
        self._model = model

    def run(self, task: ScoreTask) -> None:
        with torch.inference_mode():
            self._model(torch.tensor([_line(task)]), use_cache=False, logits_to_keep=len(task.tree) + 1)


class LmEval:
    """lm-evaluation-harness' own model for transformers, at the door behind its tokenizer."""

    name = "lm-eval"

    def __init__(self, model: Any, folder: Path, *, share: int | None) -> None:
        from lm_eval.models.huggingface import HFLM
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        self._lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH)
        self.share = share

    def run(self, task: ScoreTask) -> list[float]:
        requests = [(("", ""), list(task.prompt), list(item)) for item in task.continuations]
        answers = self._lm._loglikelihood_tokens(requests, disable_tqdm=True)
        return [logprob for logprob, _ in answers]


class Padded:
    """Prompt and continuation in one row each, padded on the right; logits behind the prompt only."""

    name = "padded"

    def __init__(self, model: Any, *, share: int | None) -> None:
        self._model = model
        self.share = share

    def run(self, task: ScoreTask) -> list[float]:
        scores: list[float] = []
        for batch in _batches(task.continuations, BATCH):
            rows = _padded([item[:-1] for item in batch])
            ids = torch.cat([torch.tensor(task.prompt).expand(len(batch), -1), rows], dim=1)
            with torch.inference_mode():
                logits = self._model(ids, use_cache=False, logits_to_keep=rows.shape[1] + 1).logits
            scores += _sums(logits, batch)
        return scores


class SharedKV:
    """The prompt once; its `past_key_values` expanded to a batch of continuations, padded on the right.

    Where all are single tokens, the prompt's own logits have all the answers.
    """

    name = "shared KV"
    share = None

    def __init__(self, model: Any) -> None:
        self._model = model

    def run(self, task: ScoreTask) -> list[float]:
        scores: list[float] = []
        with torch.inference_mode():
            prompt = self._model(torch.tensor([task.prompt]), use_cache=True, logits_to_keep=1)
            for batch in _batches(task.continuations, EXPANDED):
                rows = _padded([item[:-1] for item in batch])
                logits = prompt.logits.expand(len(batch), -1, -1)
                if rows.shape[1]:
                    cache = copy.deepcopy(prompt.past_key_values)
                    cache.batch_repeat_interleave(len(batch))
                    behind = self._model(rows, past_key_values=cache, use_cache=True).logits
                    logits = torch.cat([logits, behind], dim=1)
                scores += _sums(logits, batch)
        return scores


def _line(task: ScoreTask) -> list[int]:
    """As many tokens as prompt and tree have, one after the other."""
    return [*task.prompt, *(prefix[-1] for prefix in task.tree)]


def _batches(continuations: Sequence[Continuation], size: int) -> list[Sequence[Continuation]]:
    return [continuations[start : start + size] for start in range(0, len(continuations), size)]


def _padded(rows: Sequence[Continuation]) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.long).reshape(
        len(rows), width
    )


def _sums(logits: torch.Tensor, batch: Sequence[Continuation]) -> list[float]:
    """`logits` [rows, places, vocab_size], the first place behind the prompt."""
    # A slice at a time, in float32: all at once would take gigabytes.
    return [
        float(
            torch.log_softmax(places[: len(item)].float(), dim=-1)
            .gather(1, torch.tensor(item).unsqueeze(1))
            .sum()
        )
        for places, item in zip(logits, batch, strict=True)
    ]
