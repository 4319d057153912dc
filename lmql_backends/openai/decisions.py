"""`Decisions`: an endpoint's own probabilities of given texts, by ``POST /v1/decisions``.

They are a judgement about the input, not the probabilities of the texts' tokens: nothing here is used unless
the user asks for it (`PlannerSettings.decisions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dcmodel.errors import CapabilityError, InvalidRequestError
from dcmodel.model import Judgement
from dcmodel.types import Certificate, Cost
from lmql_backends.openai.asking import HttpAsker
from lmql_backends.openai.capabilities import Topic
from lmql_backends.openai.costs import cost_of
from lmql_backends.openai.decision_forms import PATH, probabilities_in, question, unusable, values_of
from lmql_backends.openai.discovery import Discovery
from lmql_backends.openai.prompts import conversation_of, text_of
from lmql_backends.openai.transport.counters import Spent

DETAIL = "the probabilities are the endpoint's own judgement (/decisions), not those of the tokens"
SEMANTICS = "judged"


class Decisions:
    """Asks one model for its judgement, where its endpoint has that route."""

    def __init__(self, asker: HttpAsker, discovery: Discovery | None = None) -> None:
        """`discovery` finds out whether there is such a route, once; None: as the capabilities say."""
        self._asker = asker
        self._discovery = discovery

    async def judge(self, prompt_ids: Sequence[int], options: Sequence[str]) -> Judgement | None:
        """The probabilities of 2 to 255 texts after a prompt. One request, and one more where it is not known
        yet whether the endpoint has decisions.

        None where it has none, or where it cannot be asked this. Raises `GenerationError` for an answer that
        is none: a declined question, options that are missing, or others than those that were given.
        """
        values = values_of(options)
        shown = self._input(tuple(prompt_ids))
        if values is None or shown is None or not await self._is_served():
            return None
        body = {"model": self._asker.model, "input": shown, "questions": [question(values)]}
        try:
            message, spent = await self._asker.transport.post(PATH, body)
        except (CapabilityError, InvalidRequestError) as error:
            raise unusable(f"it was refused: {error.message.rstrip('.')}") from error
        cost = self._cost(message.get("usage"), spent)
        certificate = Certificate(valid=True, exact=False, semantics=SEMANTICS, detail=DETAIL)
        return Judgement(probabilities=probabilities_in(message, values), certificate=certificate, cost=cost)

    async def _is_served(self) -> bool:
        if self._discovery is not None:
            await self._discovery.settle({Topic.DECISIONS})
        return self._asker.capabilities.decisions

    def _input(self, prompt_ids: tuple[int, ...]) -> Any:
        """The prompt as this route takes it; None where it cannot be sent."""
        text = text_of(self._asker.tokenizer, prompt_ids)
        if not text or not self._asker.capabilities.is_chat:
            return text or None
        conversation = conversation_of(text)
        messages = [dict(message) for message in conversation.messages]
        is_text = all(isinstance(item.get("content"), str) and item["content"] for item in messages)
        return messages if is_text and messages and not conversation.answer else None

    def _cost(self, usage: Any, spent: Spent) -> Cost:
        known = usage if isinstance(usage, dict) else None
        renamed = known and {
            "prompt_tokens": known.get("input_tokens"),
            "completion_tokens": known.get("output_tokens"),
            "prompt_tokens_details": known.get("input_tokens_details"),
        }
        return cost_of(
            renamed,
            spent,
            self._asker.prices,
            prompt_tokens=0,
            completion_tokens=0,
            is_estimated=known is None,
        )
