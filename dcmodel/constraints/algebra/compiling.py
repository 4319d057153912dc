"""From combined rules to compiled forms: what one grammar can say goes into one, the rest is joined.

| combination | all parts regular | else |
|---|---|---|
| And | one terminal | options filtered; masks intersected, with a look ahead (`live`) |
| Or | one terminal | parts side by side, masks joined (`union`) |
| Then | one terminal | one grammar where borders are sure (`joint`), else all divisions (`concat`) |
| Not | one terminal | any text, checked against the part (`NotWalker`) |
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from dcmodel.constraint import CompiledConstraint, Constraint, Walker
from dcmodel.constraints.algebra import regular
from dcmodel.constraints.algebra.complement import TokenComplement
from dcmodel.constraints.algebra.concat import ConcatCompiled
from dcmodel.constraints.algebra.joint import join_grammars
from dcmodel.constraints.algebra.live import LiveCompiled
from dcmodel.constraints.algebra.union import UnionCompiled
from dcmodel.constraints.algebra.walker_matcher import WalkerCompiled
from dcmodel.constraints.algebra.walkers import NotWalker
from dcmodel.constraints.choice import Choice
from dcmodel.constraints.forced_text import MAX_RUN, forced_text
from dcmodel.constraints.lark_scan import scan_lark
from dcmodel.constraints.phrases.not_in import NotIn
from dcmodel.constraints.regex import Regex
from dcmodel.constraints.regex_syntax import RegexSyntaxError, parse_regex
from dcmodel.errors import CapabilityError, UnsatisfiableConstraintError, UnsupportedConstraintError
from dctokenizers import Tokenizer

MAX_HINTS = 24
MAX_PHRASES_IN_ORDER = 4
WORD = re.compile(r"\w[\w ]*")
MAX_FILTERED = 5_000
"""Options that are tried one by one; of more, the list stays a part like another."""


def compile_all_of(parts: Sequence[Constraint], tokenizer: Tokenizer) -> CompiledConstraint:
    """The compiled form of `And`."""
    parts = _distinct(parts)
    terminals, others = _split(parts)
    if not others:
        return _one_terminal(regular.all_of, parts, tokenizer)
    options = next((part for part in parts if isinstance(part, Choice)), None)
    if options is not None and len(options.options) <= MAX_FILTERED:
        rest = [part for part in parts if part is not options]
        left = _filtered(options, rest, tokenizer)
        if left is not None:
            return left.compile(tokenizer)
    compiled = [_one_terminal(regular.all_of, terminals, tokenizer)] if terminals else []
    labels = [" and ".join(map(label, terminals))] if terminals else []
    for part in others:
        check = _complement_check(part, tokenizer) if len(parts) > 1 else None
        compiled.append(check or part.compile(tokenizer))
        labels.append(label(part))
    if all(isinstance(part, WalkerCompiled) for part in compiled):
        compiled.insert(0, any_text(tokenizer))
        labels.insert(0, "any text")
    return (
        compiled[0]
        if len(compiled) == 1
        else LiveCompiled(compiled, tokenizer, labels=labels, hints=literals_of(parts))
    )


def compile_one_of(parts: Sequence[Constraint], tokenizer: Tokenizer) -> CompiledConstraint:
    """The compiled form of `Or`. A part that nothing satisfies adds nothing."""
    parts = _distinct(parts)
    terminals, others = _split(parts)
    compiled: list[CompiledConstraint] = []
    refusal: UnsatisfiableConstraintError | None = None
    jobs: list[Callable[[], CompiledConstraint]] = []
    if terminals:
        jobs.append(lambda: _any_terminal(terminals, tokenizer))
    jobs += [lambda part=part: part.compile(tokenizer) for part in others]  # type: ignore[misc]
    for job in jobs:
        try:
            compiled.append(job())
        except UnsatisfiableConstraintError as error:
            refusal = error
    if not compiled and refusal is not None:
        raise refusal
    return compiled[0] if len(compiled) == 1 else UnionCompiled(compiled, tokenizer)


def compile_in_order(parts: Sequence[Constraint], tokenizer: Tokenizer) -> CompiledConstraint:
    """The compiled form of `Then`."""
    rules = group_regular(parts)
    compiled = [compile_group(rule, tokenizer) for rule in rules]
    if len(compiled) == 1:
        return compiled[0]
    leads = [rule[0] if len(rule) == 1 else _Group(rule) for rule in rules]
    return join_grammars(leads, compiled, tokenizer) or ConcatCompiled(compiled, tokenizer)


def compile_not(part: Constraint, tokenizer: Tokenizer) -> CompiledConstraint:
    """The compiled form of `Not`."""
    if part.kind == "not":
        inner: Constraint = part.part  # type: ignore[attr-defined]
        return inner.compile(tokenizer)
    terminal = part.terminal()
    if terminal is not None:
        return regular.compile_terminal(
            regular.none_of(terminal), tokenizer, label=f"not {label(part)}", forcing=False
        )
    negated = [~inner for inner in getattr(part, "parts", ())]
    if part.kind == "and":
        return compile_one_of(negated, tokenizer)
    if part.kind == "or":
        return compile_all_of(negated, tokenizer)
    try:
        check = _check_against(part, tokenizer)
    except CapabilityError:
        return TokenComplement(part.compile(tokenizer), tokenizer)
    labels = ("any text", f"not {label(part)}")
    return LiveCompiled([any_text(tokenizer), check], tokenizer, labels=labels, hints=literals_of([part]))


def group_regular(parts: Sequence[Constraint]) -> list[list[Constraint]]:
    """Neighbours that are regular together, every other part by itself."""
    groups: list[list[Constraint]] = []
    for is_regular, items in groupby(parts, key=lambda part: terminal_in_order(part) is not None):
        run = list(items)
        groups += [run] if is_regular else [[part] for part in run]
    return groups


def terminal_in_order(part: Constraint) -> str | None:
    """A part's terminal in a sequence, where a few phrases are worth one: borders are exact inside it."""
    if isinstance(part, NotIn) and len(part.phrases) <= MAX_PHRASES_IN_ORDER:
        return regular.none_of(regular.containing(part.phrases))
    return part.terminal()


def compile_group(group: Sequence[Constraint], tokenizer: Tokenizer) -> CompiledConstraint:
    """A group of `group_regular`."""
    if len(group) == 1:
        return group[0].compile(tokenizer)
    rule = _Group(group)
    return regular.compile_terminal(
        rule.terminal(), tokenizer, label=" then ".join(map(label, group)), forcing=all(map(may_force, group))
    )


def any_text(tokenizer: Tokenizer) -> CompiledConstraint:
    """Any text at all, in whole characters."""
    return regular.compile_terminal(regular.ANY_TEXT, tokenizer, label="any text", forcing=True)


def label(part: Constraint) -> str:
    """A rule in a few words, for errors."""
    parts = getattr(part, "parts", None)
    if parts is not None:
        return f"({f' {part.kind} '.join(map(label, parts))})"
    try:
        fields = {name: value for name, value in part.to_dict().items() if name != "kind"}
    except CapabilityError:
        return part.kind
    if part.kind == "not":
        return f"not {label(part.part)}"  # type: ignore[attr-defined]
    value = next(iter(fields.values()), "")
    text = json.dumps(value, ensure_ascii=False)
    return f"{part.kind} {text if len(text) <= 60 else text[:57] + '...'}"


def literals_of(parts: Iterable[Constraint]) -> list[bytes]:
    """Texts that the rules name: what a search for a match should try."""
    found: dict[bytes, None] = {}
    for part in parts:
        inner = getattr(part, "parts", None) or ([part.part] if part.kind == "not" else None)  # type: ignore[attr-defined]
        if inner is not None:
            rules = [rule for rule in inner if isinstance(rule, Constraint)]
            found.update(dict.fromkeys(literals_of(rules)))
            continue
        try:
            fields = part.to_dict()
        except CapabilityError:
            continue
        for name, value in fields.items():
            texts = value if isinstance(value, list) else [value]
            for text in texts[:MAX_HINTS] if name != "kind" else ():
                if isinstance(text, str):
                    words = WORD.findall(text) if part.kind in ("regex", "grammar") else [text]
                    found.update(dict.fromkeys(word.encode() for word in words if word))
    return list(found)[:MAX_HINTS]


class _Group(Constraint):
    """Regular parts in order, for the look at their common border."""

    kind = "group"

    def __init__(self, parts: Sequence[Constraint]) -> None:
        self._terminal = regular.one_after_the_other([terminal_in_order(part) or "" for part in parts])

    @property
    def key(self) -> str:
        return self._terminal

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        return regular.compile_terminal(self._terminal, tokenizer, label="parts", forcing=False)

    def to_dict(self) -> dict[str, str]:
        raise CapabilityError("a group of parts is no constraint of its own.")

    def terminal(self) -> str:
        return self._terminal


def _distinct(parts: Iterable[Constraint]) -> list[Constraint]:
    return list({part.key: part for part in parts}.values())


def _split(parts: Iterable[Constraint]) -> tuple[list[Constraint], list[Constraint]]:
    terminals: list[Constraint] = []
    others: list[Constraint] = []
    for part in parts:
        (others if part.terminal() is None else terminals).append(part)
    return terminals, others


def _one_terminal(
    join: Callable[[list[str]], str], parts: Sequence[Constraint], tokenizer: Tokenizer
) -> CompiledConstraint:
    if len(parts) == 1:
        return parts[0].compile(tokenizer)
    for part in parts:
        part.compile(tokenizer)  # its own error is the one that says most
    return _joined(join, parts, tokenizer)


def _joined(
    join: Callable[[list[str]], str], parts: Sequence[Constraint], tokenizer: Tokenizer
) -> CompiledConstraint:
    """Parts that are known to compile, as one terminal."""
    return regular.compile_terminal(
        join([part.terminal() or "" for part in parts]),
        tokenizer,
        label=" with ".join(map(label, parts)),
        forcing=all(map(may_force, parts)),
    )


def _any_terminal(parts: Sequence[Constraint], tokenizer: Tokenizer) -> CompiledConstraint:
    """Regular parts of an `Or`; those that nothing satisfies are left out, unless all are such."""
    possible: list[Constraint] = []
    compiled: list[CompiledConstraint] = []
    refusal: UnsatisfiableConstraintError | None = None
    for part in parts:
        try:
            compiled.append(part.compile(tokenizer))
        except UnsatisfiableConstraintError as error:
            refusal = error
        else:
            possible.append(part)
    if not possible and refusal is not None:
        raise refusal
    return compiled[0] if len(possible) == 1 else _joined(regular.one_of, possible, tokenizer)


def may_force(part: Constraint) -> bool:
    """Whether a regular rule surely forces no more than a bounded text.

    A loop inside one terminal always has a way out, so only the length of what is fixed matters.
    """
    parts = getattr(part, "parts", None)
    if parts is not None:
        return all(map(may_force, parts))
    if part.kind in ("not", "not_in"):
        return True
    if isinstance(part, Choice):
        return max(map(len, part.options)) <= MAX_RUN
    if isinstance(part, Regex):
        try:
            return forced_text(parse_regex(part.pattern)).run <= MAX_RUN
        except (RegexSyntaxError, UnsupportedConstraintError):
            return False
    return scan_lark(f"start: TEXT\nTEXT: {part.terminal()}\n").may_force


def _filtered(options: Choice, rest: Sequence[Constraint], tokenizer: Tokenizer) -> Choice | None:
    """The options that the other parts accept; None where some part is not about text."""
    compiled = [part.compile(tokenizer) for part in rest]
    left = list(options.options)
    for part in compiled:
        try:
            left = [option for option in left if accepts(part.walker(), option.encode())]
        except CapabilityError:
            return None
    if not left:
        raise UnsatisfiableConstraintError(
            f"none of the options of {label(options)} satisfies {' and '.join(map(label, rest))}.",
            remedy="Add an option that does, or drop one of the parts.",
        )
    return Choice(left)


def accepts(walker: Walker, text: bytes) -> bool:
    """Whether the text is a complete match."""
    return walker.walk(text) == len(text) and walker.is_accepting


def _complement_check(part: Constraint, tokenizer: Tokenizer) -> WalkerCompiled | None:
    """For `Not` of what is not regular, beside other parts: the check alone, without a mask of its own."""
    if part.kind != "not" or part.terminal() is not None:
        return None
    inner: Constraint = part.part  # type: ignore[attr-defined]
    if inner.kind in ("and", "or", "not"):
        return None
    try:
        return _check_against(inner, tokenizer)
    except CapabilityError:
        return None


def _check_against(part: Constraint, tokenizer: Tokenizer) -> WalkerCompiled:
    compiled = part.compile(tokenizer)
    compiled.walker()
    return WalkerCompiled(tokenizer, lambda: NotWalker(compiled.walker()))
