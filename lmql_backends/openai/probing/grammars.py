"""Probes of grammars: is the answer what nobody would say unasked?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from lmql_backends.openai.bodies import grammar_fields
from lmql_backends.openai.capabilities import GrammarKind, GrammarSupport, Support
from lmql_backends.openai.custom_tools import PREFIX
from lmql_backends.openai.endpoint_api import ServerGrammar
from lmql_backends.openai.probing.questions import CLOSE, Questions
from lmql_backends.openai.replies import text_of_choice
from lmql_backends.openai.transport.answers import Answer

TOKENS = 4
FIELD_OF_LLAMACPP = "grammar"
WORD = "~qz~"
LITERAL = re.escape(WORD)
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {WORD: {"type": "string", "enum": [WORD]}},
    "required": [WORD],
    "additionalProperties": False,
}
LARK = f'start: "{WORD}"\n'
EBNF = f'root ::= "{WORD}"\n'


@dataclass(frozen=True, slots=True)
class Trial:
    """A grammar of one kind, and the fields in which endpoints take it, the most usual first."""

    kind: GrammarKind
    source: Any
    fields: tuple[str, ...]
    answer: str = WORD
    """The only possible one, white space aside."""


TRIALS = (
    Trial(
        GrammarKind.JSON_SCHEMA,
        SCHEMA,
        ("response_format", "structured_outputs.json", "guided_json"),
        f'{{"{WORD}":"{WORD}"}}',
    ),
    Trial(
        GrammarKind.REGEX, LITERAL, ("structured_outputs.regex", "regex", "guided_regex", "custom_tool.regex")
    ),
    Trial(GrammarKind.CHOICE, [WORD, WORD + WORD], ("structured_outputs.choice", "choice", "guided_choice")),
    Trial(GrammarKind.EBNF, EBNF, ("structured_outputs.grammar", "ebnf", "grammar", "guided_grammar")),
    Trial(
        GrammarKind.LARK,
        LARK,
        ("structured_outputs.grammar", "grammar", "guided_grammar", "custom_tool.lark"),
    ),
    Trial(GrammarKind.CONSTRAINT, {"kind": "regex", "pattern": LITERAL}, ("constraint",)),
)


async def probe_grammar(ask: Questions, kind: GrammarKind) -> None:
    """What becomes of this kind of grammar."""
    trial = next(item for item in TRIALS if item.kind is kind)
    ebnf = ask.able.grammars.get(GrammarKind.EBNF)
    if kind is GrammarKind.LARK and ebnf is not None and ebnf.field == FIELD_OF_LLAMACPP:
        # One of its servers crashes at a grammar that it cannot read.
        trial = replace(trial, fields=tuple(item for item in trial.fields if item != ebnf.field))
    if not ask.able.is_chat:
        trial = replace(trial, fields=tuple(item for item in trial.fields if not item.startswith(PREFIX)))
    found = await _probe(ask, trial)
    ask.able = replace(ask.able, grammars=MappingProxyType({**ask.able.grammars, kind: found}))


async def _probe(ask: Questions, trial: Trial) -> GrammarSupport:
    """The first field that is honoured; else whether one was at least taken."""
    worst = GrammarSupport(Support.REFUSED)
    for field in trial.fields:
        grammar = ServerGrammar(trial.kind, trial.source)
        fields = grammar_fields(grammar, GrammarSupport(Support.HONOURED, field))
        answer = await ask.ask({**ask.body(), **fields, ask.limit_field: TOKENS})
        if answer is None:
            continue
        if obeys(text_of_choice(answer.choices[0]), trial.answer):
            return GrammarSupport(Support.HONOURED, field, await _shows_raw(ask, answer))
        worst = GrammarSupport(Support.IGNORED, field)
    return worst


async def _shows_raw(ask: Questions, answer: Answer) -> bool | None:
    """Whether a token is shown with the log-probability that it has without the grammar."""
    reply = ask.read(answer)
    if not ask.able.raw_logprobs or not reply.logprobs or not reply.are_ids_exact:
        return None
    drawn = await ask.ask(ask.body({"logit_bias": {str(reply.token_ids[0]): 100}}))
    alone = ask.read(drawn) if drawn is not None else None
    if alone is None or alone.token_ids[:1] != reply.token_ids[:1] or not alone.logprobs:
        return None
    return abs(alone.logprobs[0] - reply.logprobs[0]) < CLOSE


def obeys(text: str, answer: str) -> bool:
    """Whether a text is a beginning of the answer, white space aside."""
    shown = "".join(text.split())
    return bool(shown) and (answer.startswith(shown) or shown.startswith(answer))
