"""Making `llguidance.LLMatcher` engines, and reading their errors, which never are exceptions."""

from __future__ import annotations

import json

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from dcmodel.mask import mask_words
from dctokenizers import Tokenizer

# With the engine's own limits a valid text looks rejected when it is replayed without masks.
LIMITS = LLParserLimits(initial_lexer_fuel=10**8, step_lexer_fuel=10**8)
# Without JSON's long strings a hundred times the engine's own limit will do; a mask that meets it has
# taken about two seconds.
TEXT_LIMITS = LLParserLimits(initial_lexer_fuel=10**8, step_lexer_fuel=2 * 10**7)
NO_FORCING = '%llguidance {"no_forcing": true}'


def build_engine(grammar: str, tokenizer: Tokenizer, *, limits: LLParserLimits | None = None) -> LLMatcher:
    """An engine at the beginning of the text; a bad grammar shows in `engine_error`."""
    return LLMatcher(tokenizer.ll_tokenizer(), grammar, log_level=0, limits=limits or LIMITS)


def without_forcing(grammar: str) -> str:
    """The same grammar (as `LLMatcher.grammar_from_...` gives it), in which no text is forced."""
    (inner,) = json.loads(grammar)["grammars"]
    outer = {"lark_grammar": f"start: @inner\n{NO_FORCING}\n"}
    return json.dumps({"grammars": [outer, {**inner, "name": "inner"}]})


def engine_error(engine: LLMatcher) -> str:
    """The engine's message without the dump of its state; empty where there is no error."""
    return engine.get_error().partition("\n<state>")[0].strip()


def first_mask_error(engine: LLMatcher, tokenizer: Tokenizer) -> str:
    """What goes wrong in the first mask, on a copy; what is computed stays in the shared lexer's cache."""
    probe = engine.deep_copy()
    row = np.zeros(mask_words(tokenizer.vocab_size), dtype=np.int32)
    probe.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
    return engine_error(probe)


def is_dead_end(message: str) -> bool:
    """Whether the engine's message says that no text can follow."""
    return message.startswith("NoExtensionBias")
