"""The mask engines, each behind the same two calls per token. An engine that is not installed is left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from llguidance import LLMatcher

from dcmodel.constraint import Matcher
from dcmodel.constraints import JsonSchema
from dcmodel.errors import InvalidConstraintError
from dcmodel.mask import mask_words, row_allows
from dctokenizers import Tokenizer

SEPARATORS = (", ", ": ")
SPACED = {"whitespace_flexible": False, "item_separator": SEPARATORS[0], "key_separator": SEPARATORS[1]}


class Refused(Exception):
    """The engine does not take this schema."""


@dataclass(frozen=True, slots=True)
class Run:
    """One text under a compiled schema."""

    fill: Callable[[], object]
    """Compute the mask."""
    allows: Callable[[int], bool]
    """Whether the mask has a token; not timed."""
    advance: Callable[[int], object]


Start = Callable[[], Run]
Compile = Callable[[Any], Start]


@dataclass(frozen=True, slots=True)
class MaskEngine:
    name: str
    package: str
    open: Callable[[Tokenizer], Compile]
    """What does not depend on the schema; then schemas compile, raising `Refused`."""
    is_guarded: bool = True
    """Runs in a process of its own: it may take minutes, gigabytes, or crash."""
    every: tuple[int, int, int] = (1, 1, 1)
    """Only each n-th schema, at 32k, 100k and 200k tokens."""

    @property
    def version(self) -> str | None:
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None


def _open_raw(tokenizer: Tokenizer) -> Compile:
    ll_tokenizer = tokenizer.ll_tokenizer()
    row = np.zeros(mask_words(tokenizer.vocab_size), dtype=np.int32)
    address, size = row.ctypes.data, row.nbytes

    def start(engine: LLMatcher) -> Run:
        copy = engine.deep_copy()
        return Run(
            lambda: copy.unsafe_compute_mask_ptr(address, size),
            lambda token_id: row_allows(row, token_id),
            copy.consume_token,
        )

    def compile_schema(schema: Any) -> Start:
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=SPACED)
        except ValueError as error:
            raise Refused(str(error)) from None
        engine = LLMatcher(ll_tokenizer, grammar, log_level=0)
        if engine.is_error():
            raise Refused(engine.get_error())
        return lambda: start(engine)

    return compile_schema


def _open_ours(tokenizer: Tokenizer) -> Compile:
    row = np.zeros(mask_words(tokenizer.vocab_size), dtype=np.int32)

    def start(matcher: Matcher) -> Run:
        return Run(
            lambda: matcher.fill_mask(row),
            lambda token_id: row_allows(row, token_id),
            lambda token_id: matcher.advance((token_id,)),
        )

    def compile_schema(schema: Any) -> Start:
        try:
            compiled = JsonSchema(schema).compile(tokenizer)
        except InvalidConstraintError as error:
            raise Refused(str(error)) from None
        return lambda: start(compiled.matcher())

    return compile_schema


def _open_xgrammar(tokenizer: Tokenizer) -> Compile:
    import xgrammar as xgr

    info = xgr.TokenizerInfo(
        list(tokenizer.all_token_bytes()),
        xgr.VocabType.RAW,
        vocab_size=tokenizer.vocab_size,
        stop_token_ids=list(tokenizer.eos_token_ids),
    )
    compiler = xgr.GrammarCompiler(info, max_threads=1, cache_enabled=False)
    mask = xgr.allocate_token_bitmask(1, tokenizer.vocab_size)
    row = mask[0].numpy()

    def start(compiled: Any) -> Run:
        matcher = xgr.GrammarMatcher(compiled)
        return Run(
            lambda: matcher.fill_next_token_bitmask(mask),
            lambda token_id: row_allows(row, token_id),
            matcher.accept_token,
        )

    def compile_schema(schema: Any) -> Start:
        try:
            compiled = compiler.compile_json_schema(
                json.dumps(schema), any_whitespace=False, separators=SEPARATORS, strict_mode=False
            )
        except RuntimeError as error:
            raise Refused(str(error)) from None
        return lambda: start(compiled)

    return compile_schema


def _open_outlines(tokenizer: Tokenizer) -> Compile:
    from outlines_core import Guide, Index, Vocabulary
    from outlines_core.json_schema import build_regex_from_schema

    (end, *_) = tokenizer.eos_token_ids
    ids: dict[bytes, list[int]] = {}
    for token_id, text in enumerate(tokenizer.all_token_bytes()):
        if text and token_id not in tokenizer.special_token_ids and token_id != end:
            ids.setdefault(text, []).append(token_id)
    vocabulary = Vocabulary(end, ids)
    row = np.zeros(mask_words(tokenizer.vocab_size), dtype=np.int32)
    address, words = row.ctypes.data, len(row)

    def start(index: Any) -> Run:
        guide = Guide(index)
        return Run(
            lambda: guide.write_mask_into(address, words, 4),
            lambda token_id: row_allows(row, token_id),
            lambda token_id: guide.advance(token_id, return_tokens=False),
        )

    def compile_schema(schema: Any) -> Start:
        try:
            index = Index(build_regex_from_schema(json.dumps(schema), " ?"), vocabulary)
        except (ValueError, TypeError) as error:
            raise Refused(str(error)) from None
        return lambda: start(index)

    return compile_schema


def _open_lmfe(tokenizer: Tokenizer) -> Compile:
    import logging

    from lmformatenforcer import JsonSchemaParser, TokenEnforcer, TokenEnforcerTokenizerData

    logging.getLogger().setLevel(logging.CRITICAL)
    special = {*tokenizer.special_token_ids, *tokenizer.eos_token_ids}
    tokens = []
    for token_id, text in enumerate(tokenizer.all_token_bytes()):
        if text and token_id not in special:
            try:
                tokens.append((token_id, text.decode(), False))
            except UnicodeDecodeError:
                continue
    data = TokenEnforcerTokenizerData(
        tokens, tokenizer.decode, list(tokenizer.eos_token_ids), True, tokenizer.vocab_size
    )

    def compile_schema(schema: Any) -> Start:
        if not isinstance(schema, dict):
            raise Refused("only objects are schemas")
        # Its states are kept in the enforcer: a second pass over a text would only look them up.
        try:
            JsonSchemaParser(schema)
        except Exception as error:  # of any kind: it does not check what it reads
            raise Refused(repr(error)) from None
        return lambda: _LmfeRun(TokenEnforcer(data, JsonSchemaParser(schema))).run()

    return compile_schema


class _LmfeRun:
    """Its one call takes all tokens so far, moves over the last one, and gives the mask."""

    def __init__(self, enforcer: Any) -> None:
        self._enforcer = enforcer
        self._token_ids: list[int] = []
        self._allowed: Any = None

    def run(self) -> Run:
        return Run(self._fill, self._allows, self._token_ids.append)

    def _fill(self) -> None:
        self._allowed = self._enforcer.get_allowed_tokens(self._token_ids)

    def _allows(self, token_id: int) -> bool:
        return bool(self._allowed.is_token_allowed(token_id))


RAW = MaskEngine("llguidance", "llguidance", _open_raw, is_guarded=False)
OURS = MaskEngine("dcmodel", "dcmodel", _open_ours, is_guarded=False)
PEERS = (
    MaskEngine("xgrammar", "xgrammar", _open_xgrammar, every=(2, 4, 6)),
    MaskEngine("outlines-core", "outlines-core", _open_outlines, every=(8, 12, 16)),
    MaskEngine("lm-format-enforcer", "lm-format-enforcer", _open_lmfe, every=(8, 16, 24)),
)
