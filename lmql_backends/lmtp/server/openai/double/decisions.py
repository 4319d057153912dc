"""POST /v1/decisions: probabilities of answers to questions about a text, as OpenAI's client sends and reads.

The probabilities are the served model's own, between the answers as continuations of the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dcmodel.llm import LLM
from lmql_backends.lmtp.server.openai.double.refusals import RefusalError
from lmql_backends.lmtp.server.openai.double.wishes import Json

Text = Annotated[str, Meta(min_length=1)]


class Message(msgspec.Struct):
    role: str
    content: Text


class Question(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    instructions: Text
    name: str | None = None

    def options(self) -> list[str]:
        """What the model chooses between."""
        raise NotImplementedError

    def answer(self, probabilities: Sequence[float]) -> Json:
        """By the probabilities of the options."""
        raise NotImplementedError


class Predicate(Question, tag="predicate"):
    def options(self) -> list[str]:
        return ["true", "false"]

    def answer(self, probabilities: Sequence[float]) -> Json:
        return {"probability": probabilities[0]}


class Option(msgspec.Struct, forbid_unknown_fields=True):
    value: Text | bool
    description: str | None = None


class Choice(Question, tag="choice"):
    choices: Annotated[list[Option], Meta(min_length=2, max_length=255)]

    def options(self) -> list[str]:
        return [
            str(item.value).lower() if isinstance(item.value, bool) else item.value for item in self.choices
        ]

    def answer(self, probabilities: Sequence[float]) -> Json:
        best = _largest(probabilities)
        shown = [
            {"value": item.value, "probability": probability}
            for item, probability in zip(self.choices, probabilities, strict=True)
        ]
        return {
            "choice": self.choices[best].value,
            "confidence": probabilities[best],
            "probabilities": shown,
        }


class Level(msgspec.Struct, forbid_unknown_fields=True):
    label: Text
    description: str | None = None


class Score(Question, tag="score"):
    levels: Annotated[list[Level], Meta(min_length=2)]

    def options(self) -> list[str]:
        return [item.label for item in self.levels]

    def answer(self, probabilities: Sequence[float]) -> Json:
        """Levels count from 0; the score is their mean."""
        shown = [
            {"value": value, "label": item.label, "probability": probability}
            for value, (item, probability) in enumerate(zip(self.levels, probabilities, strict=True))
        ]
        mean = sum(value * probability for value, probability in enumerate(probabilities))
        return {"score": mean, "confidence": max(probabilities), "probabilities": shown}


class DecisionBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: str
    input: Text | Annotated[list[Message], Meta(min_length=1)]
    questions: Annotated[list[Predicate | Choice | Score], Meta(min_length=1, max_length=400)]
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    safety_identifier: Any = None


async def decide(body: Json, name: str, llm: LLM) -> Json:
    """The answer of the route. Raises `RefusalError`, and what `LLM.choose` raises."""
    asked = _read(body)
    prompts = [f"{_shown(asked.input)}\n\n{item.instructions}\nAnswer:" for item in asked.questions]
    answers = []
    for question, prompt in zip(asked.questions, prompts, strict=True):
        options = question.options()
        if len(set(options)) < len(options):
            raise RefusalError("Each choice must be unique.", param="questions", code="invalid_value")
        found = await llm.achoose(prompt, [f" {option}" for option in options])
        probabilities = [item.probability for item in found.results]
        kind = question.__struct_config__.tag
        answers.append({"type": kind, "name": question.name, **question.answer(probabilities)})
    count = sum(len(llm.tokenizer.encode(prompt)) for prompt in prompts)
    usage = {
        "input_tokens": count,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": count,
    }
    return {"model": name, "answers": answers, "usage": usage}


def _read(body: Json) -> DecisionBody:
    try:
        return msgspec.convert(body, DecisionBody)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        param = place.lstrip(".").rstrip("`") or None
        raise RefusalError(f"Invalid value: {reason}.", param=param, code="invalid_value") from None


def _shown(given: str | list[Message]) -> str:
    if isinstance(given, str):
        return given
    return "\n".join(f"{message.role}: {message.content}" for message in given)


def _largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
