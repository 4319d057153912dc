"""llama-cpp-python's own `Llama`: one request after the other, and what it takes to score with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.llamacpp_setting import CONTEXT, Setting
from benchmarks.score_workloads import ScoreTask
from benchmarks.workloads import Item
from lmql_backends.llama_cpp.library import library

NAIVE_SHARE = 5
"""Candidates that the naive way is given; its time is scaled."""


def high_level(setting: Setting, *, logits_all: bool = False) -> Any:
    """A `llama_cpp.Llama` as the setting wants it."""
    library()  # so that its messages do not go to standard error
    from llama_cpp import Llama

    return Llama(
        str(setting.path),
        n_ctx=CONTEXT,
        n_threads=setting.threads,
        n_threads_batch=setting.threads,
        type_k=setting.kv_type,
        type_v=setting.kv_type,
        flash_attn=setting.flash_attention,
        logits_all=logits_all,
        no_perf=True,
        verbose=False,
    )


class OneByOne:
    """`Llama.generate`, which keeps what a prompt has in common with the one before."""

    name = "Llama"

    def __init__(self, setting: Setting) -> None:
        self.llama = high_level(setting)

    def run(self, items: Sequence[Item]) -> list[list[int]]:
        return [
            list(islice(self.llama.generate(list(item.prompt), temp=0.0, repeat_penalty=1.0), item.new))
            for item in items
        ]

    def text(self, item: Item, token_ids: Sequence[int]) -> str:
        """As its server shows them: tokens of more than 32 bytes, and broken bytes, are left out."""
        data: bytes = self.llama.detokenize(list(token_ids), prev_tokens=list(item.prompt))
        return data.decode("utf-8", errors="ignore")

    def distance(self, token_ids: Sequence[int], left: int, right: int) -> float:
        """Between the logits of two tokens that may come next."""
        self.llama.reset()
        self.llama.eval(list(token_ids))
        logits = np.ctypeslib.as_array(self.llama._ctx.get_logits(), (self.llama.n_vocab(),))
        return abs(float(logits[left]) - float(logits[right]))

    def close(self) -> None:
        self.llama.close()


class Scoring:
    """Scores by `Llama.eval`, with all rows of logits."""

    def __init__(self, setting: Setting) -> None:
        self.llama = high_level(setting, logits_all=True)

    def naive(self, task: ScoreTask) -> list[float]:
        """Prompt and candidate are computed from the beginning, for each candidate."""
        scores = []
        for candidate in task.continuations:
            self.llama.reset()
            self.llama.eval([*task.prompt, *candidate[:-1]])
            scores.append(self._sum(len(task.prompt) - 1, candidate))
        return scores

    def reusing(self, task: ScoreTask) -> list[float]:
        """The prompt once, then each candidate behind it."""
        self.warm(task)
        return self.candidates(task)

    def warm(self, task: ScoreTask) -> None:
        """Compute the prompt; without the logits within it, which `Llama` has no public way to leave out."""
        self.llama.reset()
        self.llama._logits_all = False
        self.llama.eval(list(task.prompt[:-1]))
        self.llama._logits_all = True
        self.llama.eval(list(task.prompt[-1:]))

    def candidates(self, task: ScoreTask) -> list[float]:
        """Each behind the prompt, which was computed last."""
        count = len(task.prompt)
        scores = []
        for candidate in task.continuations:
            self.llama.n_tokens = count
            if len(candidate) > 1:
                self.llama.eval(list(candidate[:-1]))
            scores.append(self._sum(count - 1, candidate))
        return scores

    def _sum(self, start: int, candidate: Sequence[int]) -> float:
        rows: NDArray[np.float32] = self.llama.scores[start : start + len(candidate)]
        shifted = rows - rows.max(axis=1, keepdims=True)
        chosen = shifted[np.arange(len(candidate)), np.array(candidate)]
        return float(np.sum(chosen - np.log(np.exp(shifted).sum(axis=1, dtype=np.float64))))

    def close(self) -> None:
        self.llama.close()


def naive_part(task: ScoreTask) -> ScoreTask:
    """A few of the candidates, drawn at random: neighbours begin alike."""
    return replace(task, continuations=tuple(Random(0).sample(task.continuations, NAIVE_SHARE)))
