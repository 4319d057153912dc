"""A text of a context-free language, given as a Lark grammar."""

from __future__ import annotations

import re
import threading
from collections.abc import Hashable, Mapping
from typing import Any

from lark import Lark, Tree
from lark.exceptions import GrammarError
from llguidance import LLMatcher, LLParserLimits

from dcmodel.constraint import CompiledConstraint, Constraint
from dcmodel.constraints.caret import line_and_column, with_caret
from dcmodel.constraints.guard import COMPILE_SECONDS, unless_late, within
from dcmodel.constraints.lark import prepare_grammar
from dcmodel.constraints.lark.guards import guarded
from dcmodel.constraints.lark_scan import LarkScan, scan_lark, tokens_of
from dcmodel.constraints.llg import LlgCompiled
from dcmodel.constraints.llg_engine import (
    NO_FORCING,
    TEXT_LIMITS,
    build_engine,
    engine_error,
    first_mask_error,
    is_dead_end,
)
from dcmodel.constraints.llg_walker import byte_tokenizer
from dcmodel.constraints.trial import TRIAL_SECONDS, check_in_child
from dcmodel.errors import InvalidConstraintError, UnsatisfiableConstraintError, UnsupportedConstraintError
from dctokenizers import Tokenizer

PARSE_SECONDS = 10.0
"""How long the `lark` package may take for a tree; for ambiguous grammars it takes the cube of the text."""
SPECIAL_BYTE_TOKEN = 256
"""A special token of the vocabulary of bytes."""
QUICK = LLParserLimits(initial_lexer_fuel=10**6, step_lexer_fuel=10**6)


class Grammar(Constraint):
    """The text is derived from ``start`` of a grammar in llguidance's dialect of Lark.

    The engine reads terminals greedily, as Lark's own dynamic lexer does. Where that would change the
    language, and where rules spell text out, rules and terminals are merged into larger terminals, inside
    which nothing is greedy, as far as that surely gives the grammar's own language; with `%ignore`, greed
    stays. Alternatives that can never end, or match nothing, are left out.

    `parse` gives a `lark.Tree` where the `lark` package can read the grammar too (`has_tree`), and the
    text where it cannot, where it reads a text otherwise, or takes too long. A grammar in
    which a terminal may repeat one text for ever, or that holds what cannot be analysed (`&`, `~`, nested
    grammars), is compiled without forced tokens.
    """

    kind = "grammar"

    def __init__(self, lark: str) -> None:
        if not isinstance(lark, str) or not lark.strip():
            raise InvalidConstraintError(
                f"the grammar is {lark!r:.40}.", remedy="Give the text of a Lark grammar."
            )
        self.lark = lark
        self._lock = threading.Lock()
        self._parsers: list[Lark] | None = None

    @property
    def key(self) -> Hashable:
        return (self.kind, self.lark)

    @property
    def has_tree(self) -> bool:
        """Whether the `lark` package can read the grammar, so that `parse` can give a tree."""
        return bool(self._load_parsers())

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        scan = scan_lark(self.lark)
        self._check(scan, tokenizer)
        prepared = prepare_grammar(self.lark)
        if not prepared.is_cheap:
            trial = LLMatcher.grammar_from_lark(self._engine_text(prepared.text, plain=True))
            check_in_child(trial, seconds=TRIAL_SECONDS)
        if prepared.has_suspects:
            prepared = prepare_grammar(self.lark, is_empty=is_empty_terminal)
        text = self._engine_text(prepared.text)
        forcing = NO_FORCING not in text
        return within(COMPILE_SECONDS, lambda: self._build(text, tokenizer, forcing), what="grammar")

    def to_dict(self) -> Mapping[str, Any]:
        return {"kind": self.kind, "lark": self.lark}

    def parse(self, text: str) -> Tree[Any] | str:
        tree = unless_late(PARSE_SECONDS, lambda: self._tree(text))
        return text if tree is None else tree

    def _tree(self, text: str) -> Tree[Any] | None:
        for parser in self._load_parsers():
            try:
                tree: Tree[Any] = parser.parse(text)
            except Exception:  # Lark reads some texts otherwise; they are valid all the same
                continue
            return tree
        return None

    def _check(self, scan: LarkScan, tokenizer: Tokenizer) -> None:
        """Refuse what would compile and not be exact."""
        for name, position in scan.attributes:
            raise self._error(
                UnsupportedConstraintError,
                f"the rule attribute `{name}` {{place}} is not supported.",
                position,
                remedy="Use the request's max_tokens, stop and temperature, or `lazy` and `suffix`.",
                keyword=name,
            )
        for token in scan.specials:
            self._check_special(token.text, token.position, tokenizer)
        if re.search(r'"no_forcing"\s*:\s*false', self.lark):
            raise UnsupportedConstraintError(
                "the grammar sets `no_forcing` to false.",
                remedy="Leave it out: text is forced where that is safe.",
                keyword="no_forcing",
            )

    def _engine_text(self, text: str, *, plain: bool = False) -> str:
        """The text for the engine, which forces text only where that surely ends.

        With `plain`, another token stands for each special one, which a vocabulary of bytes has not.
        """
        text = guarded(text)
        scan = scan_lark(text)
        if plain:
            for token in reversed(scan.specials):
                end = token.position + len(token.text)
                text = f"{text[: token.position]}<[{SPECIAL_BYTE_TOKEN}]>{text[end:]}"
        return text if scan.may_force else f"{text}\n{NO_FORCING}\n"

    def _build(self, text: str, tokenizer: Tokenizer, forcing: bool) -> LlgCompiled:
        grammar = LLMatcher.grammar_from_lark(text)
        engine = build_engine(grammar, tokenizer, limits=TEXT_LIMITS)
        if message := engine_error(engine):
            # The engine speaks of places in what it was given: it is asked about the original.
            raise self._refusal(self._message(tokenizer) or message)
        if message := first_mask_error(engine, tokenizer):
            if is_dead_end(message):
                raise UnsatisfiableConstraintError("no text matches the grammar.")
            raise InvalidConstraintError(
                f"the grammar is too complex: {message}.",
                remedy="Say it with fewer and longer terminals.",
            )
        return LlgCompiled(
            engine,
            grammar,
            tokenizer,
            forcing=forcing,
            stops_late=any(token.text in ("&", "~") for token in tokens_of(text)),
            limits=TEXT_LIMITS,
        )

    def _message(self, tokenizer: Tokenizer) -> str:
        return engine_error(build_engine(LLMatcher.grammar_from_lark(self.lark), tokenizer))

    def _error(
        self,
        kind: type[InvalidConstraintError],
        message: str,
        position: int,
        *,
        remedy: str,
        keyword: str = "",
    ) -> InvalidConstraintError:
        """An error about a place in the grammar; `{place}` in the message is its line and column."""
        line, column = line_and_column(self.lark, position)
        message = message.replace("{place}", f"at line {line} column {column}")
        error = kind(with_caret(message, self.lark, position), remedy=remedy)
        error.position = position
        if isinstance(error, UnsupportedConstraintError):
            error.keyword = keyword
        return error

    def _refusal(self, message: str) -> InvalidConstraintError:
        found = re.match(r"(?:at )?(\d+)\((\d+)\): (.*)", message, re.DOTALL)
        if found is None:
            return InvalidConstraintError(f"the grammar is wrong: {message}.")
        reason = found[3].partition("\n   ")[0].strip().rstrip(".")
        if cause := re.search(r"^error: (.*)$", found[3], re.MULTILINE):
            reason = f"{reason.partition(' (in regex)')[0]}: {cause[1].rstrip('.')}"
        position = _offset(self.lark, int(found[1]), int(found[2]))
        keyword = re.search(r'Unimplemented keys: \["([^"]*)|(look-around)|([^ ]+) not supported', reason)
        if keyword is not None:
            return self._error(
                UnsupportedConstraintError,
                f"the grammar cannot be used {{place}}: {reason}.",
                position,
                remedy="",
                keyword=keyword[1] or keyword[2] or keyword[3],
            )
        return self._error(
            InvalidConstraintError,
            f"the grammar is wrong {{place}}: {reason}.",
            position,
            remedy=self._lark_message(),
        )

    def _lark_message(self) -> str:
        """What the `lark` package says of the same text, where it sees an error in it."""
        try:
            self._make_parser("dynamic")
        except Exception as error:  # a second opinion, which must never be an error of its own
            said = str(error).partition("\n")[0].rstrip(".")
            return (
                f"Lark says: {said}." if isinstance(error, GrammarError) and said[:10] != "Unexpected" else ""
            )
        return ""

    def _check_special(self, text: str, position: int, tokenizer: Tokenizer) -> None:
        ends = tokenizer.eos_token_ids
        names = {tokenizer.token_bytes(token_id).decode("utf-8", "replace") for token_id in ends}
        if text in names or (text.startswith("<[") and _covers(text, ends)):
            raise self._error(
                UnsupportedConstraintError,
                f"the grammar names the end-of-sequence token as {text} {{place}}.",
                position,
                remedy="Leave it out: the end is allowed wherever the grammar is complete.",
                keyword=text,
            )

    def _load_parsers(self) -> list[Lark]:
        with self._lock:
            if self._parsers is None:
                self._parsers = []
                for lexer in ("dynamic", "dynamic_complete"):
                    try:
                        self._parsers.append(self._make_parser(lexer))
                    except Exception:  # whatever Lark raises: it cannot read this one
                        break
            return self._parsers

    def _make_parser(self, lexer: str) -> Lark:
        # Lark reads imports from files; the grammar may come from anywhere.
        if re.search(r"%import\s+(?!common\b)", self.lark):
            raise GrammarError("only `common` can be imported")
        text = re.sub(r"^%llguidance\s*\{[^}]*\}", "", self.lark, flags=re.MULTILINE)
        return Lark(text, parser="earley", lexer=lexer)


def _offset(text: str, line: int, column: int) -> int:
    lines = text.split("\n")
    return min(sum(len(part) + 1 for part in lines[: line - 1]) + column - 1, len(text))


def is_empty_terminal(name: str, terminals: str) -> bool:
    """Whether a terminal surely matches nothing; looked into only so far as that is quick."""
    grammar = LLMatcher.grammar_from_lark(f"start: {name}\n{terminals}\n{NO_FORCING}\n")
    engine = LLMatcher(byte_tokenizer(), grammar, log_level=0, limits=QUICK)
    if engine.is_error():
        return False
    engine.compute_bitmask()
    return is_dead_end(engine_error(engine))


def _covers(ranges: str, token_ids: tuple[int, ...]) -> bool:
    """Whether ``<[1-5,9]>`` (``^`` turns it round, ``*`` is all) holds one of the ids."""
    body = ranges[2:].rstrip(">").rstrip("]")
    if body == "*":
        return bool(token_ids)
    negated = body.startswith("^")
    spans = [part.partition("-") for part in body.lstrip("^").split(",")]
    try:
        bounds = [(int(low), int(high or low)) for low, _, high in spans]
    except ValueError:
        return False
    return any(any(low <= i <= high for low, high in bounds) != negated for i in token_ids)
