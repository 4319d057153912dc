"""Version 1, as LMQL's predictor speaks it: commands in, lines ``TOKEN {json}`` and ``MSG {json}`` out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dcmodel.errors import CapabilityError, EngineError, GenerationError
from dcmodel.mask import TokenMask
from dcmodel.types import SamplingParams
from lmql_backends.replicate.api import OPS
from lmql_backends.replicate.asked import Asked
from lmql_backends.replicate.speech import Speech

COMMANDS = ("TOKEN", "MSG")
HARD = 100
"""The bias that is a mask."""


class Op(NamedTuple):
    """One command."""

    name: str
    fields: Mapping[str, Any]


class Item(NamedTuple):
    """One line of the output."""

    id: int
    """Of the question."""
    part: int
    """Which of its commands it is about."""
    fields: Mapping[str, Any]


class AskedOps(Asked[Item]):
    """A question that is one or several commands."""

    def ops(self) -> Mapping[int, Op]:
        """What is still to be asked, by its number, the same in each prediction."""
        raise NotImplementedError


class Ops(Speech):
    """Items say nothing of their place: after a break, only the whole output is believed."""

    is_numbered = False

    def inputs(self, asked: Sequence[Asked[Any]]) -> dict[str, str]:
        commands = []
        for question in asked:
            assert isinstance(question, AskedOps)
            for part, op in question.ops().items():
                commands.append([op.name, {**op.fields, "stream_id": f"{question.id}.{part}"}])
        return {OPS: json.dumps(commands)}

    def read(self, line: str) -> Sequence[Item] | None:
        command, _, body = line.partition(" ")
        if command not in COMMANDS:
            return None
        try:
            fields = json.loads(body)
            id_, part = str(fields["stream_id"]).split(".")
            return [Item(int(id_), int(part), fields)]
        except (ValueError, TypeError, KeyError, RecursionError):
            return None


def generate(
    prompt: Sequence[int],
    sampling: SamplingParams,
    *,
    mask: TokenMask | None = None,
    max_tokens: int,
    top_logprobs: int,
) -> Op:
    """The command. Raises `CapabilityError` for what it cannot say."""
    if sampling.min_p or sampling.logit_bias:
        raise CapabilityError(
            "LMQL's predictor knows neither min_p nor logit_bias.",
            remedy="Leave them out, or push one of ours.",
        )
    fields: dict[str, Any] = {
        "prompt": list(prompt),
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        "top_logprobs": max(top_logprobs, 1),
    }
    if sampling.temperature > 0:
        fields["top_k"] = sampling.top_k  # 0, too: LMQL's server cuts at 50 where nothing is said
    plain = SamplingParams()
    for name in ("top_p", "repetition_penalty", "presence_penalty", "frequency_penalty"):
        if getattr(sampling, name) != getattr(plain, name):
            fields[name] = getattr(sampling, name)
    if mask is not None:
        fields["logit_bias"] = _bias(mask)
    return Op("GENERATE", fields)


def score(prompt: Sequence[int], scored: Sequence[int]) -> Op:
    return Op("SCORE", {"prompt": list(prompt), "scored": list(scored)})


def shows_logprobs(sampling: SamplingParams) -> bool:
    """Whether what a predictor reports are log-probabilities of the model: LMQL's divides them by the
    temperature, and cuts and penalties change them."""
    return sampling.temperature in (0.0, 1.0) and not (
        sampling.top_k or sampling.top_p < 1.0 or sampling.has_penalties
    )


def token_of(item: Item) -> tuple[int, float]:
    """Token and log-probability. Raises `EngineError` for what the predictor says went wrong, and
    `GenerationError` for nonsense."""
    if item.fields.get("error") is not None:
        raise EngineError(
            f"the predictor says: {item.fields['error']!s:.500}.",
            remedy="Its logs on replicate.com say more.",
        )
    try:
        token_id, logprob = int(item.fields["token"]), float(item.fields["logprob"])
    except (KeyError, TypeError, ValueError) as error:
        raise GenerationError(f"the predictor sent no token: {item.fields!r:.200}.") from error
    if token_id < 0:
        raise GenerationError(f"the predictor sent the token {token_id}.")
    return token_id, logprob


def tops_of(item: Item, count: int) -> list[tuple[int, float]]:
    """The likeliest tokens, likeliest first."""
    found = item.fields.get("top_logprobs")
    pairs = found.items() if isinstance(found, Mapping) else ()
    tops = [(int(token_id), float(logprob)) for token_id, logprob in pairs]
    tops = [top for top in tops if math.isfinite(top[1])]
    return sorted(tops, key=lambda top: (-top[1], top[0]))[:count]


def _bias(mask: TokenMask) -> dict[str, int]:
    """The shorter of what is allowed and what is banned. Ids beyond the tokenizer cannot be banned by name,
    so that a mask that bans little is only as good as the vocabulary is whole."""
    allowed = mask.to_ids()
    if 2 * len(allowed) <= mask.vocab_size:
        return dict.fromkeys(map(str, allowed), HARD)
    return dict.fromkeys(map(str, (~mask).to_ids()), -HARD)
