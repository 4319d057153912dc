"""Fixed text with holes: each hole has a name, a constraint, and perhaps its own way of sampling."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Self

from dcmodel.constraint import CompiledConstraint, Constraint, Walker
from dcmodel.constraints.algebra.compiling import compile_in_order
from dcmodel.constraints.algebra.template_matcher import SampledTemplate
from dcmodel.constraints.byte_vocabulary import walker_maker
from dcmodel.constraints.choice import Choice
from dcmodel.errors import InvalidConstraintError, InvalidRequestError
from dcmodel.types import SamplingParams
from dctokenizers import Tokenizer

SAMPLING_FIELDS = frozenset({"temperature", "top_k", "top_p", "min_p"})
HOLE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class Hole:
    """A part of a template that the model fills.

    `sampling` replaces the request's `temperature`, `top_k`, `top_p` or `min_p` within the hole.
    """

    name: str
    constraint: Constraint
    sampling: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InvalidConstraintError(f"a hole's name is {self.name!r:.40}.", remedy="Give it a name.")
        if not isinstance(self.constraint, Constraint):
            raise InvalidConstraintError(
                f"the hole {self.name!r} has {self.constraint!r:.60} for a constraint.",
                remedy='Give one, for example Regex("[a-z]+") or Type(int).',
            )
        if self.constraint.is_about_tokens:
            raise InvalidConstraintError(
                f"the hole {self.name!r} has a constraint about tokens ({self.constraint.kind}).",
                remedy="Use one about text: where a hole ends is a matter of text.",
            )
        _check_sampling(self.name, self.sampling)


class Template(Constraint):
    """Texts and holes, one after the other; `parse` gives the holes' values by name.

    Where a text can be divided in several ways, each hole is as short as it can be, the first one first.
    """

    kind = "template"

    def __init__(self, parts: Sequence[str | Hole | Mapping[str, Any]]) -> None:
        """`parts`: fixed texts and holes. See `Template.of` for the short form."""
        if isinstance(parts, str | Mapping):
            raise InvalidConstraintError(
                "a template is a list of texts and holes.",
                remedy='Short form: Template.of("Age: {age}", age=Type(int)).',
            )
        self.pieces = tuple(_part(part) for part in parts if part != "")
        if not self.pieces:
            raise InvalidConstraintError("the template is empty.", remedy="Give at least one part.")
        names = [part.name for part in self.pieces if isinstance(part, Hole)]
        for name in names:
            if names.count(name) > 1:
                raise InvalidConstraintError(f"two holes are named {name!r}.", remedy="Rename one.")

    @classmethod
    def of(cls, text: str, /, **holes: Constraint | Hole) -> Self:
        """``Template.of("Name: {name}, age {age}", name=Regex("[A-Z][a-z]+"), age=Type(int))``.

        ``{{`` and ``}}`` stand for braces. Every hole needs a constraint, and every constraint a hole.
        """
        parts: list[str | Hole] = []
        left = dict(holes)
        for piece in _pieces(text):
            if isinstance(piece, str):
                parts.append(piece)
                continue
            (name,) = piece
            if name not in left:
                raise InvalidConstraintError(
                    f"the hole {{{name}}} has no constraint.", remedy=f"Add {name or 'a name'}=..."
                )
            given = left.pop(name)
            parts.append(given if isinstance(given, Hole) else Hole(name, given))
        if left:
            raise InvalidConstraintError(
                f"the text has no hole {{{next(iter(left))}}}.", remedy="Holes are written {name}."
            )
        return cls(parts)

    @property
    def rules(self) -> tuple[Constraint, ...]:
        """One constraint for each part."""
        return tuple(part.constraint if isinstance(part, Hole) else Choice([part]) for part in self.pieces)

    @property
    def key(self) -> Hashable:
        return (
            self.kind,
            tuple(
                (part.name, part.constraint.key, tuple(sorted(part.sampling.items())))
                if isinstance(part, Hole)
                else part
                for part in self.pieces
            ),
        )

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        leaves = self._leaves()
        compiled = compile_in_order([rule for rule, _ in leaves], tokenizer)
        sampling = [{} if changes is None else changes for _, changes in leaves]
        if not any(sampling):
            return compiled
        for place in range(len(leaves) - 2, -1, -1):
            if leaves[place][1] is None:  # a token of a fixed text may reach into the next hole
                sampling[place] = sampling[place + 1]
        begin = [rule.compile(tokenizer).walker for rule, _ in leaves]
        return SampledTemplate(compiled, tokenizer, begin, sampling)

    def _leaves(self) -> list[tuple[Constraint, Mapping[str, float] | None]]:
        """The rules in order, templates in holes opened, with their sampling; None for fixed text."""
        leaves: list[tuple[Constraint, Mapping[str, float] | None]] = []
        for part, rule in zip(self.pieces, self.rules, strict=True):
            if isinstance(part, str):
                leaves.append((rule, None))
            elif isinstance(rule, Template):
                leaves += [
                    (leaf, None if changes is None else {**part.sampling, **changes})
                    for leaf, changes in rule._leaves()
                ]
            else:
                leaves.append((rule, part.sampling))
        return leaves

    def terminal(self) -> str | None:
        if any(sampling for _, sampling in self._leaves()):
            return None
        terminals = [rule.terminal() for rule in self.rules]
        if any(terminal is None for terminal in terminals):
            return None
        return f"({' '.join(terminal or '' for terminal in terminals)})"

    def to_dict(self) -> Mapping[str, Any]:
        parts: list[str | dict[str, Any]] = []
        for part in self.pieces:
            if isinstance(part, str):
                parts.append(part)
                continue
            hole: dict[str, Any] = {"name": part.name, "constraint": dict(part.constraint.to_dict())}
            parts.append(hole | ({"sampling": dict(part.sampling)} if part.sampling else {}))
        return {"kind": self.kind, "parts": parts}

    def parse(self, text: str) -> Any:
        """A dict of each hole's value: what its own constraint makes of its part of the text."""
        texts = self.split(text)
        return {
            part.name: part.constraint.parse(piece)
            for part, piece in zip(self.pieces, texts, strict=True)
            if isinstance(part, Hole)
        }

    def split(self, text: str) -> list[str]:
        """The text of each part. Raises `InvalidConstraintError` where the text is no complete match."""
        divided = _divide(self._begin, text.encode())
        if divided is None:
            raise InvalidConstraintError(f"{text!r:.60} is not a text of the template.")
        return [piece.decode() for piece in divided]

    @cached_property
    def _begin(self) -> list[Callable[[], Walker]]:
        return [walker_maker(rule) for rule in self.rules]


def _divide(begin: Sequence[Callable[[], Walker]], text: bytes) -> list[bytes] | None:
    """The division with the earliest borders; None where there is none."""
    # A state: the borders so far, and the walker of the part after the last one.
    states: list[tuple[tuple[int, ...], Walker]] = [((), begin[0]())]
    for at in range(len(text) + 1):
        _begin_next(begin, states, at)
        if at == len(text):
            break
        moved = [(borders, walker.fork()) for borders, walker in states]
        states = [(borders, walker) for borders, walker in moved if walker.step(text[at])]
    last = len(begin) - 1
    complete = [borders for borders, walker in states if len(borders) == last and walker.is_accepting]
    if not complete:
        return None
    edges = [0, *min(complete), len(text)]
    return [text[low:high] for low, high in pairwise(edges)]


def _begin_next(
    begin: Sequence[Callable[[], Walker]], states: list[tuple[tuple[int, ...], Walker]], at: int
) -> None:
    """Where a part is complete the next may begin; of equal parts begun here, the earliest borders stay."""
    begun: dict[int, tuple[int, ...]] = {}
    for borders, walker in states:  # grows while it is read
        part = len(borders) + 1
        if part < len(begin) and walker.is_accepting:
            longer = (*borders, at)
            if part not in begun:
                begun[part] = longer
                states.append((longer, begin[part]()))
            elif longer < begun[part]:
                place = next(i for i, state in enumerate(states) if state[0] == begun[part])
                begun[part], states[place] = longer, (longer, states[place][1])


def _part(part: str | Hole | Mapping[str, Any]) -> str | Hole:
    if isinstance(part, str | Hole):
        return part
    if not isinstance(part, Mapping):
        raise InvalidConstraintError(f"a part of the template is {part!r:.60}.", remedy="Texts or holes.")
    unknown = part.keys() - {"name", "constraint", "sampling"}
    if unknown or not {"name", "constraint"} <= part.keys():
        raise InvalidConstraintError(
            f"a hole has the fields {sorted(part)}.", remedy="name, constraint and perhaps sampling."
        )
    return Hole(**part)


def _check_sampling(name: str, sampling: object) -> None:
    if not isinstance(sampling, Mapping):
        raise InvalidConstraintError(f"the sampling of the hole {name!r} is {sampling!r:.40}.")
    for key in sampling:
        if key not in SAMPLING_FIELDS:
            raise InvalidConstraintError(
                f"the hole {name!r} sets {key!r:.40}.", remedy=f"One of {', '.join(sorted(SAMPLING_FIELDS))}."
            )
    try:
        SamplingParams(**sampling)
    except InvalidRequestError as error:
        raise InvalidConstraintError(f"the hole {name!r}: {error.message}", remedy=error.remedy) from None


def _pieces(text: str) -> list[str | tuple[str]]:
    """Fixed texts, and the names of holes in a tuple."""
    pieces: list[str | tuple[str]] = []
    fixed = ""
    end = 0
    for match in HOLE.finditer(text):
        fixed += text[end : match.start()]
        end = match.end()
        if match[0] in ("{{", "}}"):
            fixed += match[0][0]
        elif match[1] is None:
            raise InvalidConstraintError(
                f"there is a single {match[0]!r} in the template.",
                remedy="Write {{ and }} for braces.",
                position=match.start(),
            )
        else:
            pieces += [fixed, (match[1],)]
            fixed = ""
    return [*pieces, fixed + text[end:]]
