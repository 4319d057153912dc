"""How time is measured here: CPU time of one thread, variants interleaved, medians."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


def use_one_thread() -> None:
    """Call it before numpy, torch and tokenizers are imported.

    On shared cores, a second thread mostly measures how long the first waits for it.
    """
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    torch.set_num_threads(1)
    quiet()


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range over the repeats."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        data = sorted(values)
        return cls(data[0], statistics.median(data), data[-1])

    def text(self, digits: int = 2) -> str:
        if self.low == self.high:
            return f"{self.median:.{digits}f}"
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def cpu_seconds(run: Callable[[], T]) -> tuple[float, T]:
    """CPU time of the whole process, all threads, while `run` runs; and its result."""
    gc.collect()
    begin = time.process_time()
    result = run()
    return time.process_time() - begin, result


def quiet() -> None:
    """No progress bars of transformers."""
    from transformers.utils import logging

    logging.disable_progress_bar()
