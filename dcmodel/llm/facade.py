"""`LLM`: the one simple interface. Text in, text out; synchronous and asynchronous alike."""

from __future__ import annotations

from dcmodel.llm.adapting import Adapting
from dcmodel.llm.chatting import Chatting
from dcmodel.llm.choosing import Choosing
from dcmodel.llm.generating import Generating
from dcmodel.llm.rolling import Rolling
from dcmodel.llm.scoring import Scoring
from dcmodel.llm.stepping import Stepping


class LLM(Generating, Scoring, Choosing, Rolling, Stepping, Chatting, Adapting):
    """A language model by name; loaded at the first call. Safe to use from many threads and event loops.

    `LLM()` is the embedded model, ``LLM("path-or-hub-id")`` any other. An argument goes before its
    ``DCMODEL_*`` variable, which goes before the default. `extra` is passed to the library that loads
    the model as it is; `adapters` (name to source) are mounted with it. ``with LLM() as llm:`` (or
    ``async with``) closes it at the end.

    Each method stands in the part of its purpose: `Generating` (generate, stream), `Scoring` (score,
    score_prompt), `Choosing` (choose, distribution), `Rolling` (rolling), `Stepping` (next_tokens, session),
    `Chatting` (chat_prompt), `Adapting` (mount, unmount, adapters), `ModelHolder` (model, tokenizer,
    info, close).
    """
