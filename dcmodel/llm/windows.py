"""Rolling windows: a text that is longer than the context, cut so that each token is predicted once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens to predict, and what stands before them in the model's context (at least one token)."""

    context: tuple[int, ...]
    predicted: tuple[int, ...]


def rolling_windows(
    token_ids: Sequence[int], prefix_token: int, *, window: int, overlap: int = 1
) -> Iterator[Window]:
    """The windows of `get_rolling_token_windows` in lm-evaluation-harness, context and target disjoint.

    window     how many tokens the model reads at a time, the last of a window's targets not counted;
               ``1 <= overlap <= window``
    overlap    how many tokens of context a later window has at least

    The first window predicts the first `window` tokens, the very first of them after `prefix_token`. Each
    later one predicts the next ``window - overlap + 1`` after `overlap` tokens of context; the last one
    predicts what is left, after as many tokens as `window` has room for. Every token is predicted in exactly
    one window.
    """
    first = tuple(token_ids[:window])
    if first:
        yield Window((prefix_token,), first)
    begin, count = len(first), window - overlap + 1
    while begin < len(token_ids):
        end = min(begin + count, len(token_ids))
        yield Window(tuple(token_ids[end - 1 - window : begin]), tuple(token_ids[begin:end]))
        begin = end
