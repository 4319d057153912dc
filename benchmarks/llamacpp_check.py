"""Before any time counts: all compute the same."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.llamacpp_peers import OneByOne
from benchmarks.llamacpp_server import Answer
from benchmarks.llamacpp_setting import Setting
from benchmarks.score_workloads import Continuation
from benchmarks.workloads import Item


class DifferentResultsError(Exception):
    """The contenders do not compute the same: no time counts."""


def check_tokens(
    setting: Setting,
    peer: OneByOne,
    items: Sequence[Item],
    expected: Sequence[Sequence[int]],
    given: Sequence[Sequence[int]],
) -> float:
    """Share of equal outputs; the others begin to differ where the peer's logits are as good as equal."""
    same = 0
    for item, left, right in zip(items, expected, given, strict=True):
        if len(right) != item.new:
            raise DifferentResultsError(f"{len(right)} tokens where {item.new} were asked for")
        place = next((place for place in range(item.new) if left[place] != right[place]), None)
        if place is None:
            same += 1
            continue
        gap = peer.distance([*item.prompt, *left[:place]], left[place], right[place])
        if gap > setting.tie:
            raise DifferentResultsError(
                f"{setting.name}: token {place} is {right[place]}, Llama's {left[place]}, whose logit is "
                f"{gap:g} away"
            )
    return same / len(items)


def check_answers(
    setting: Setting,
    peer: OneByOne,
    items: Sequence[Item],
    expected: Sequence[Sequence[int]],
    answers: Sequence[Answer],
) -> float:
    """Share of the server's texts that are those of `expected`: it computes with the same class."""
    same = 0
    for item, token_ids, answer in zip(items, expected, answers, strict=True):
        if answer.prompt_tokens != len(item.prompt) or answer.tokens < item.new:
            raise DifferentResultsError(
                f"the server made {answer.tokens} tokens for a prompt of {answer.prompt_tokens} and ended "
                f"with {answer.finish_reason!r}; {item.new} for {len(item.prompt)} were asked for"
            )
        same += answer.text.startswith(peer.text(item, token_ids))
    if same < len(items) and setting.is_exact:
        raise DifferentResultsError(f"{len(items) - same} of the server's texts are not Llama's")
    return same / len(items)


def check_scores(
    setting: Setting, candidates: Sequence[Continuation], expected: Sequence[float], given: Sequence[float]
) -> float:
    """The largest difference in nats."""
    worst = 0.0
    for candidate, left, right in zip(candidates, expected, given, strict=True):
        gap = abs(left - right)
        if not gap <= setting.score_tolerance:
            raise DifferentResultsError(f"{setting.name}: {candidate} is given {right}, by Llama {left}")
        worst = max(worst, gap)
    return worst
