"""Other engines under the same schemas and texts as ours, for `json_schema`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from llguidance import LLMatcher, LLParserLimits

from dcmodel.errors import InvalidConstraintError, UnsatisfiableConstraintError, UnsupportedConstraintError
from dctokenizers import Tokenizer

LIMITS = LLParserLimits(initial_lexer_fuel=10**8, step_lexer_fuel=10**8)
SPACED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
RIVALS = ("llguidance", "xgrammar")
Accepts = Callable[[list[int]], bool]


class Refused(Exception):
    """A schema that a contender does not take; the argument is a reason in a word or two."""


class Contender(Protocol):
    name: str

    def compile(self, schema: Any, *, formats: bool) -> tuple[str, Accepts]:
        """How it was compiled, and what it accepts. Raises `Refused`."""


class OurSchemas:
    """`JsonSchema` with given options."""

    def __init__(self, tokenizer: Tokenizer, whitespace: str, key_order: str) -> None:
        self.name = f"dcmodel {whitespace}, {key_order} order"
        self._tokenizer = tokenizer
        self._whitespace = whitespace
        self._key_order: Any = key_order

    def compile(self, schema: Any, *, formats: bool) -> tuple[str, Accepts]:
        from dcmodel.constraints.schema.build import Options, compile_schema

        options = Options(self._whitespace, self._key_order, formats)
        try:
            plan, compiled = compile_schema(json.dumps(schema), options, self._tokenizer)
        except UnsatisfiableConstraintError:
            return "unsatisfiable", lambda _: False
        except UnsupportedConstraintError as error:
            raise Refused(error.keyword) from None
        except InvalidConstraintError as error:
            raise Refused(f"ERROR {error.message[:60]}") from None

        def accepts(token_ids: list[int]) -> bool:
            matcher = compiled.matcher()
            return matcher.advance(token_ids) == len(token_ids) and matcher.is_accepting

        return plan.way, accepts


class RawLlguidance:
    """llguidance as it is."""

    def __init__(self, tokenizer: Tokenizer, *, lenient: bool) -> None:
        self.name = f"llguidance {'lenient' if lenient else 'strict'}"
        self._tokenizer = tokenizer.ll_tokenizer()
        self._options = {**SPACED, "lenient": lenient}

    def compile(self, schema: Any, *, formats: bool) -> tuple[str, Accepts]:
        if not isinstance(schema, dict):
            raise Refused("refused")
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=self._options)
        engine = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS)
        if engine.is_error():
            if engine.get_error().startswith("Unsatisfiable"):
                return "unsatisfiable", lambda _: False
            raise Refused("refused")

        def accepts(token_ids: list[int]) -> bool:
            matcher = engine.deep_copy()
            return matcher.try_consume_tokens(token_ids) == len(token_ids) and matcher.is_accepting()

        return "engine", accepts


class Xgrammar:
    """xgrammar with its own whitespace rules off and additional properties allowed, its fairest setting."""

    name = "xgrammar"

    def __init__(self, tokenizer: Tokenizer) -> None:
        import xgrammar

        texts = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        info = xgrammar.TokenizerInfo(
            texts, vocab_size=tokenizer.vocab_size, stop_token_ids=sorted(tokenizer.eos_token_ids)
        )
        self._engine = xgrammar
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def compile(self, schema: Any, *, formats: bool) -> tuple[str, Accepts]:
        try:
            compiled = self._compiler.compile_json_schema(json.dumps(schema), strict_mode=False)
        except RuntimeError:
            raise Refused("refused") from None

        def accepts(token_ids: list[int]) -> bool:
            matcher = self._engine.GrammarMatcher(compiled)
            if not all(matcher.accept_token(token_id) for token_id in token_ids):
                return False
            return matcher.is_completed() or matcher.is_terminated()

        return "engine", accepts


def rivals(tokenizer: Tokenizer, names: Sequence[str]) -> list[Contender]:
    """Those of the names that are installed."""
    found: list[Contender] = []
    if "llguidance" in names:
        found += [RawLlguidance(tokenizer, lenient=False), RawLlguidance(tokenizer, lenient=True)]
    if "xgrammar" in names and find_spec("xgrammar"):
        found.append(Xgrammar(tokenizer))
    return found
