"""Whether an endpoint has ``/decisions``."""

from __future__ import annotations

from dataclasses import replace

from dcmodel.errors import GenerationError, ModelNotFoundError
from lmql_backends.openai.decision_forms import PATH, probabilities_in, question
from lmql_backends.openai.probing.questions import REFUSALS, TEXT, Questions

VALUES = ("7", "no number")


async def probe_decisions(ask: Questions) -> None:
    """Only an answer with probabilities of all options counts."""
    try:
        message = await ask.post(PATH, {"input": TEXT, "questions": [question(VALUES)]})
        probabilities_in(message, VALUES)
    except (*REFUSALS, ModelNotFoundError, GenerationError):
        return
    ask.able = replace(ask.able, decisions=True)
