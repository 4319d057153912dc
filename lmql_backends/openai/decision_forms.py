"""The question and the answer of ``POST /v1/decisions``. No I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dcmodel.errors import GenerationError

PATH = "/decisions"
FEWEST_OPTIONS = 2
MOST_OPTIONS = 255
INSTRUCTIONS = "Which of the choices is the right continuation of the input?"
ROUNDING = 0.02
"""By how much the sum of the probabilities may differ from 1: what is shown is rounded."""


def values_of(options: Sequence[str]) -> list[str] | None:
    """The options as they are sent: without the white space around them, as far as they stay apart. None
    where they are too few, too many, or one of them is empty."""
    if not FEWEST_OPTIONS <= len(options) <= MOST_OPTIONS or not all(options):
        return None
    bare = [option.strip() for option in options]
    values = bare if all(bare) and len(set(bare)) == len(bare) else list(options)
    return values if len(set(values)) == len(values) else None


def question(values: Sequence[str]) -> dict[str, Any]:
    """As the body holds it."""
    choices = [{"value": value} for value in values]
    return {"type": "choice", "name": "answer", "instructions": INSTRUCTIONS, "choices": choices}


def probabilities_in(message: Mapping[str, Any], values: Sequence[str]) -> tuple[float, ...]:
    """Of each value, from the answer to its question alone. Raises `GenerationError`."""
    answers = message.get("answers")
    answer = answers[0] if isinstance(answers, list) and len(answers) == 1 else None
    if not isinstance(answer, dict):
        raise unusable("there is not one answer to the one question")
    if answer.get("type") != "choice":
        is_refusal = answer.get("type") == "refusal"
        raise unusable("the model declined" if is_refusal else f"the answer is a {answer.get('type')!r:.40}")
    shown: dict[str, float] = {}
    rows = answer.get("probabilities")
    for row in rows if isinstance(rows, list) else ():
        value, probability = (row.get("value"), row.get("probability")) if isinstance(row, dict) else (0, 0)
        if value not in values or value in shown:
            raise unusable(f"{value!r:.60} is none of the options, or answered twice")
        if isinstance(probability, bool) or not isinstance(probability, int | float):
            raise unusable(f"the probability of {value!r:.60} is {probability!r:.40}")
        shown[str(value)] = float(probability)
    missing = [value for value in values if value not in shown]
    if missing:
        raise unusable(f"{missing[0]!r:.60} has no probability")
    total = math.fsum(shown.values())
    if not all(0.0 <= item <= 1.0 for item in shown.values()) or not abs(total - 1.0) <= ROUNDING:
        raise unusable(f"the probabilities are none: their sum is {total:.3g}")
    return tuple(shown[value] / total for value in values)


def unusable(reason: str) -> GenerationError:
    return GenerationError(
        f"the endpoint's decision cannot be used: {reason}.",
        remedy="Leave the option `decisions` out: options are then scored, or drawn, token by token.",
    )
