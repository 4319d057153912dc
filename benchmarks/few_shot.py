"""Speed of a few-shot evaluation in lm-evaluation-harness, in CPU time on one thread: our model for it
against its own ``hf`` on the same weights.

    python -m benchmarks.few_shot --quick
    python -m benchmarks.few_shot --questions 1000 --options 4 --json results.json
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.clock import Spread, cpu_seconds, use_one_thread
from benchmarks.few_shot_questions import Question, QuestionMaker
from benchmarks.tables import Table, write_json

SHARED, OWN = 150, 40
OPTION_LENGTHS = range(3, 9)
HF_BATCH = 16
TARGET = 8.0
TOLERANCE = {"float32": 1e-3, "bfloat16": 1.0}
"""Nats, of a whole option: both round in their own order in bfloat16."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    use_one_thread()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    questions, repeats = (100, 1) if options.quick else (options.questions, options.repeats)
    tables = []
    for dtype in options.dtype:
        tables.append(_compare(options.model_shape, dtype, questions, options, repeats).table())
        print(tables[-1].text(), flush=True)
        if options.json:
            write_json(options.json, tables, command=sys.argv[1:])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--questions", type=int, default=1000, help="ours alone; default: 1000")
    parser.add_argument("--sample", type=int, default=24, help="both, in turns; default: 24")
    parser.add_argument("--options", type=int, default=4)
    parser.add_argument("--model-shape", default="135m", choices=["135m", "15m", "embedded"])
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=3, help="of the sample; default: 3")
    parser.add_argument("--quick", action="store_true", help="one repeat, 100 questions")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


@dataclass(slots=True)
class Comparison:
    """CPU seconds; the sample's, a value per repeat."""

    title: str
    sample: int
    questions: int
    theirs: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    all_of_ours: float = 0.0
    difference: float = 0.0
    """Largest, in nats, over the options of all samples."""
    greedy: bool = True
    """Whether all greedy flags were equal."""

    def table(self) -> Table:
        table = Table(self.title, ["questions", "lm_eval hf s", "dcmodel s", "ratio"])
        ratio = Spread.of(left / right for left, right in zip(self.theirs, self.ours, strict=True))
        theirs, ours = Spread.of(self.theirs), Spread.of(self.ours)
        table.add(
            [str(self.sample), theirs.text(), ours.text(), ratio.text(1)],
            questions=self.sample,
            hf=self.theirs,
            dcmodel=self.ours,
            ratio=ratio.median,
        )
        scaled = theirs.median / self.sample * self.questions
        table.add(
            [
                str(self.questions),
                f"{scaled:.1f} *",
                f"{self.all_of_ours:.2f}",
                f"{scaled / self.all_of_ours:.1f}",
            ],
            questions=self.questions,
            hf_scaled=scaled,
            dcmodel=self.all_of_ours,
            ratio=scaled / self.all_of_ours,
        )
        flags = "equal" if self.greedy else "NOT EQUAL"
        table.notes = [
            f"* scaled from the {self.sample} questions of the sample. Target: {TARGET:g}",
            f"log-likelihoods differ by at most {self.difference:.1e} nats, greedy flags are {flags}",
        ]
        return table


def _compare(shape: str, dtype: str, questions: int, options: argparse.Namespace, repeats: int) -> Comparison:
    from lm_eval.models.huggingface import HFLM

    from benchmarks.random_models import checkpoint
    from dctokenizers import load
    from lmql_backends.lm_eval.model import DcModelLM

    folder = str(checkpoint(shape))
    theirs = HFLM(pretrained=folder, device="cpu", dtype=dtype, batch_size=HF_BATCH)
    ours = DcModelLM(pretrained=folder, device="cpu", dtype=dtype)
    tokenizer = load(folder)
    maker = QuestionMaker(tokenizer, shared=SHARED, own=OWN, options=options.options, lengths=OPTION_LENGTHS)
    result = Comparison(
        f"few-shot multiple choice, {shape} {dtype}: {SHARED} common + {OWN} own tokens, {options.options} "
        f"options of {OPTION_LENGTHS[0]}-{OPTION_LENGTHS[-1]}",
        options.sample,
        questions,
    )
    for model in (theirs, ours):
        _answers(model, maker.draw(2, "warm up"))
    for repeat in range(repeats):
        drawn = maker.draw(options.sample, f"sample {repeat}")
        seconds, expected = cpu_seconds(lambda drawn=drawn: _answers(theirs, drawn))
        result.theirs.append(seconds)
        seconds, found = cpu_seconds(lambda drawn=drawn: _answers(ours, drawn))
        result.ours.append(seconds)
        _check(result, expected, found, TOLERANCE[dtype])
    result.all_of_ours, _ = cpu_seconds(lambda: _answers(ours, maker.draw(questions, "all")))
    ours.close()
    return result


def _answers(model: Any, questions: Sequence[Question]) -> list[tuple[float, bool]]:
    """As an evaluation asks: texts in, all requests in one call."""
    from lm_eval.api.instance import Instance

    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=number)
        for question in questions
        for number, pair in enumerate(question.pairs)
    ]
    return model.loglikelihood(requests, disable_tqdm=True)


def _check(
    result: Comparison,
    expected: Sequence[tuple[float, bool]],
    found: Sequence[tuple[float, bool]],
    tolerance: float,
) -> None:
    """Raise `AssertionError` where a log-likelihood is another."""
    for (left, left_greedy), (right, right_greedy) in zip(expected, found, strict=True):
        assert abs(left - right) <= tolerance, f"{left} and {right} nats"
        result.difference = max(result.difference, abs(left - right))
        result.greedy = result.greedy and left_greedy == right_greedy


if __name__ == "__main__":
    sys.exit(main())
