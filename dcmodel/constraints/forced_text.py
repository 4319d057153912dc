"""How much text a terminal can force, so that the engine never computes it without end.

The engine follows forced text as far as it goes before it gives a mask. A loop that leaves one text
only (`/ +/` followed by a space) never ends, and `(a{1000}){10000}` ends after the memory does. With
forcing switched off both are harmless: so whatever is not surely bounded is compiled that way.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, product

from dcmodel.constraints.regex_syntax import Alt, Cat, Loop, Node, OneOf, Text

MAX_RUN = 10_000
"""Longest forced text, in characters, that the engine may follow: milliseconds."""
MAX_WORDS = 32
MAX_WORD = 1_000


@dataclass(frozen=True, slots=True)
class ForcedText:
    """What is known of a node's language."""

    words: tuple[str, ...]
    """Some of its texts (of a node with a choice of characters, none)."""
    branches: bool
    """It surely holds a place where several characters are possible."""
    unknown: bool
    run: int
    """An upper bound of the length of text that it can force, apart from endless loops."""
    endless: bool
    """It may hold a loop that repeats one text for ever."""

    @property
    def is_bounded(self) -> bool:
        return self.run <= MAX_RUN and not self.endless


def forced_text(node: Node) -> ForcedText:
    """Bound the text that a node of a regex or terminal can force."""
    match node:
        case Text(text):
            return ForcedText((text,), branches=False, unknown=False, run=len(text), endless=False)
        case OneOf(wide):
            return ForcedText((), branches=wide, unknown=not wide, run=1, endless=False)
        case Cat(parts):
            items = [forced_text(part) for part in parts]
            texts = ("".join(words) for words in product(*(item.words for item in items)))
            return _joined(items, _some(texts), sum(item.run for item in items))
        case Alt(parts):
            items = [forced_text(part) for part in parts]
            words = (word for item in items for word in item.words)
            return _joined(items, _some(words), max((item.run for item in items), default=0))
        case Loop(body, low, high):
            return _loop(forced_text(body), low, high)


def _joined(items: list[ForcedText], words: tuple[str, ...], run: int) -> ForcedText:
    return ForcedText(
        words,
        branches=any(item.branches for item in items),
        unknown=any(item.unknown for item in items),
        run=run,
        endless=any(item.endless for item in items),
    )


def _loop(body: ForcedText, low: int, high: int | None) -> ForcedText:
    if high == 0:
        return ForcedText(("",), branches=False, unknown=False, run=0, endless=False)
    longest = max(map(len, body.words), default=0) * (low + 2)
    unknown = body.unknown or longest > MAX_WORD
    counts = [n for n in range(low, low + 3) if high is None or n <= high]
    words = () if unknown else _some(word * n for n in counts for word in body.words)
    # Each way through a body with a choice of characters interrupts what is forced.
    breaks = body.branches and not body.unknown
    run = 2 * body.run if breaks else body.run * (max(low, 1) if high is None else high)
    endless = high is None and not breaks and (unknown or _repeats_one_text(body.words))
    return ForcedText(words, body.branches, unknown, run, body.endless or endless)


def _repeats_one_text(words: tuple[str, ...]) -> bool:
    """Whether all words are powers of one text: exactly then each two of them commute."""
    longer = [word for word in words if word]
    return bool(longer) and all(word + longer[0] == longer[0] + word for word in longer)


def _some(words: object) -> tuple[str, ...]:
    distinct: dict[str, None] = {}
    for word in islice(words, MAX_WORDS * 4):  # type: ignore[call-overload]
        if len(word) <= MAX_WORD:
            distinct[word] = None
        if len(distinct) == MAX_WORDS:
            break
    return tuple(distinct)
